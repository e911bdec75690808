"""The two axes of a grid crossed: what each choice of the one scores with each choice of the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simulations.contenders import Comparison
from simulations.report.contenders import Contender, Problem
from simulations.report.figures import units
from simulations.report.pairwise import SIGNS
from simulations.report.tables import Cell, Table, number, score


@dataclass(frozen=True)
class Crossing:
    """Contenders in rows and columns; choices are in the order of the best contender that has each."""

    down: str
    across: str
    """The axis of fewer choices."""
    rows: Sequence[str]
    columns: Sequence[str]
    at: Mapping[tuple[str, str], Contender]
    """By row and column; a grid may leave some out."""


def crossing(problem: Problem) -> Crossing | None:
    """None where contenders differ in more or fewer than two axes."""
    labels = [contender.labels for contender in problem.contenders]
    axes = [axis for axis in labels[0] if len({each.get(axis) for each in labels}) > 1]
    if len(axes) != 2:
        return None
    choices = {axis: list(dict.fromkeys(each.get(axis, "") for each in labels)) for axis in axes}
    across, down = sorted(axes, key=lambda axis: len(choices[axis]))
    at = {(c.labels.get(down, ""), c.labels.get(across, "")): c for c in problem.contenders}
    if len(at) < len(labels):
        return None
    return Crossing(down, across, choices[down], choices[across], at)


def crossed(problem: Problem, baseline: Sequence[Comparison] = ()) -> Table | None:
    """Scores in rows and columns, where contenders can be crossed.

    ``baseline`` compares them with one each, and their verdicts stand before the scores.
    """
    found = crossing(problem)
    if found is None:
        return None
    verdicts = {comparison.a: comparison.verdict for comparison in baseline}
    signs = (
        "▲ surely better, ▼ surely worse than its baseline, ≈ cannot be told. " if verdicts else ""
    )
    return Table(
        f"By {found.down} and {found.across}",
        f"{problem.measure.capitalize()} of unseen test clients after adaptation, ± half of the 95 % t "
        f"interval over {units(problem)}. {signs}".strip(),
        [f"{found.down}, {found.across}", *found.columns],
        [
            [
                Cell(row),
                *(_score(found.at.get((row, column)), verdicts) for column in found.columns),
            ]
            for row in found.rows
        ],
    )


def _score(contender: Contender | None, verdicts: Mapping[str, str]) -> Cell:
    if contender is None:
        return number(None)
    cell = score(contender.mean(), contender.measure, contender.half())
    verdict = verdicts.get(contender.name, "")
    return Cell(SIGNS.get(verdict, "") + cell.text, cell.order, verdict=verdict)
