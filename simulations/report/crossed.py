"""The two axes of a grid crossed: what each choice of the one scores with each choice of the other."""

from collections.abc import Mapping, Sequence

from simulations.contenders import Comparison
from simulations.report.contenders import Contender, Problem
from simulations.report.figures import units
from simulations.report.pairwise import SIGNS
from simulations.report.tables import Cell, Table, number, score


def crossed(problem: Problem, baseline: Sequence[Comparison] = ()) -> Table | None:
    """Scores by the two axes in which contenders differ; None where they differ in more or fewer.

    ``baseline`` compares them with one each, and their verdicts stand before the scores.
    """
    labels = [contender.labels for contender in problem.contenders]
    axes = [axis for axis in labels[0] if len({each.get(axis) for each in labels}) > 1]
    places = {tuple(each.get(axis, "") for axis in axes) for each in labels}
    if len(axes) != 2 or len(places) < len(labels):
        return None
    across, down = sorted(axes, key=lambda axis: len(_choices(problem, axis)))
    at = {(c.labels.get(down), c.labels.get(across)): c for c in problem.contenders}
    verdicts = {comparison.a: comparison.verdict for comparison in baseline}
    columns = _choices(problem, across)
    signs = (
        "▲ surely better, ▼ surely worse than its baseline, ≈ cannot be told. " if verdicts else ""
    )
    return Table(
        f"By {down} and {across}",
        f"{problem.measure.capitalize()} of unseen test clients after adaptation, ± half of the 95 % t "
        f"interval over {units(problem)}. {signs}".strip(),
        [f"{down}, {across}", *columns],
        [
            [Cell(row), *(_score(at.get((row, column)), verdicts) for column in columns)]
            for row in _choices(problem, down)
        ],
    )


def _choices(problem: Problem, axis: str) -> list[str]:
    """The labels of an axis, that of the best contender first."""
    return list(dict.fromkeys(contender.labels.get(axis, "") for contender in problem.contenders))


def _score(contender: Contender | None, verdicts: Mapping[str, str]) -> Cell:
    if contender is None:
        return number(None)
    cell = score(contender.mean(), contender.measure, contender.half())
    verdict = verdicts.get(contender.name, "")
    return Cell(SIGNS.get(verdict, "") + cell.text, cell.order, verdict=verdict)
