"""Each two contenders of a problem compared, in words, as a list and as a matrix."""

from collections.abc import Sequence

from fedmeta.errors import InputError
from simulations.contenders import Comparison, Interval, compare_all
from simulations.pairs import Measure
from simulations.report.baselines import with_baseline, without_baseline
from simulations.report.contenders import Contender, Problem
from simulations.report.looks import Look
from simulations.report.tables import ABSENT, Cell, Table, number
from simulations.statements import statement

SHOWN = 12
"""Statements that are read at a glance."""
SIGNS = {"better": "▲ ", "worse": "▼ ", "untold": "≈ "}
WORDS = {"better": "▲ better", "worse": "▼ worse", "untold": "≈ not told"}


def comparisons(problem: Problem, against: str | None = None) -> tuple[list[Comparison], str]:
    """Of every two contenders, or each with its baseline; and why some or all are not compared."""
    if len(problem.contenders) < 2:
        return [], "There is one contender: nothing to compare."
    couples = None if against is None else with_baseline(problem, against)
    if couples == []:
        return [], f"No contender differs from another by {against} alone: nothing to compare."
    old = [contender.name for contender in problem.contenders if not contender.has_clients]
    if len(old) == len(problem.contenders):
        return [], "Not compared client by client: these rows hold no scores of single clients."
    if old:
        return (
            [],
            f"Not compared client by client: no scores of single clients of {', '.join(old)}.",
        )
    measure: Measure = "accuracy" if problem.measure == "accuracy" else "loss"
    scores = {c.name: _scores(c) for c in problem.contenders}
    try:
        return compare_all(scores, measure, couples=couples), _left_out(problem, against, couples)
    except InputError as e:
        return [], f"Not compared: {e}."


def _left_out(
    problem: Problem, against: str | None, couples: Sequence[tuple[str, str]] | None
) -> str:
    """Who has no baseline, in words."""
    if against is None or not (names := without_baseline(problem, against, couples or [])):
        return ""
    return (
        f"Not compared, since no {against} has their other labels and settings: {', '.join(names)}."
    )


def _scores(contender: Contender) -> dict[int, dict[int, float]]:
    return {
        row["seed"]: dict(
            zip(
                row["test_clients"]["client"],
                row["test_clients"]["after"][contender.measure],
                strict=True,
            )
        )
        for row in contender.rows
    }


def statements(found: Sequence[Comparison], best: str | None) -> tuple[list[str], list[str]]:
    """About the best contender, and about the others; without a best one, the first few and the others."""
    if best is None:
        said = [statement(c) for c in found]
        return said[:SHOWN], said[SHOWN:]
    about = [statement(c) for c in found if best in (c.a, c.b)]
    return about, [statement(c) for c in found if best not in (c.a, c.b)]


def pairs(found: Sequence[Comparison], order: Sequence[str]) -> Table:
    """Everything about each two, the better ranked first."""
    several = any(c.seeds > 1 for c in found)
    seeds = "for other seeds (t) and " if several else ""
    return Table(
        "Pairs",
        "Difference: mean over seeds of the mean over the clients that both have, positive where the "
        f"first is better; its 95 % intervals are {seeds}for other clients of the same runs (bootstrap). "
        "p: of a t test over seeds, with one seed of Wilcoxon's signed ranks over clients; corrected "
        "for the number of pairs by Holm. Improvement: share of clients and seeds in which the first "
        "is better, ties count half; 95 % interval for other seeds. Effect: rank-biserial correlation, "
        "-1 to 1. Not told: p is 0.05 or more, or 0 is in an interval.",
        [
            *("first", "second", "difference", "first is"),
            *["other seeds"] * several,
            *("other clients", "p (Holm)", "improvement", "effect"),
        ],
        [_pair(c, order, several) for c in found],
    )


def matrix(found: Sequence[Comparison], order: Sequence[str]) -> Table:
    """Difference of each row to each column."""
    both = {(c.a, c.b): c for c in found} | {(c.b, c.a): c.swapped() for c in found}
    unit = "points of accuracy" if found and found[0].measure == "accuracy" else "lower loss"
    return Table(
        "Who beats whom",
        f"By how much the contender of the row is better than that of the column, in {unit}: ▲ surely "
        "better, ▼ surely worse, ≈ cannot be told.",
        ["", *order],
        [
            [Cell(a, i, Look(i)), *(_difference(both.get((a, b))) for b in order)]
            for i, a in enumerate(order)
            if found
        ],
        sortable=False,
    )


def _pair(c: Comparison, order: Sequence[str], several: bool) -> list[Cell]:
    a, b = (Cell(n, order.index(n), Look(order.index(n))) for n in (c.a, c.b))
    return [
        a,
        b,
        _amount(c, c.difference),
        Cell(WORDS[c.verdict], verdict=c.verdict),
        *[_interval(c, c.seed_interval)] * several,
        _interval(c, c.client_interval),
        number(c.p_holm, ".2g"),
        Cell(f"{100 * c.improvement:.0f} %{_share(c.improvement_interval)}", c.improvement),
        number(c.rank_biserial, "+.2f"),
    ]


def _difference(c: Comparison | None) -> Cell:
    if c is None:
        return Cell("", 0.0)
    return Cell(SIGNS[c.verdict] + _amount(c, c.difference).text, c.difference, verdict=c.verdict)


def _amount(c: Comparison, value: float) -> Cell:
    text = f"{100 * value:+.2f}" if c.measure == "accuracy" else f"{value:+.4f}"
    return Cell(text, value)


def _interval(c: Comparison, interval: Interval | None) -> Cell:
    if interval is None:
        return Cell(ABSENT, float("inf"))
    low, high = (_amount(c, end).text for end in interval)
    return Cell(f"[{low}, {high}]", interval[0])


def _share(interval: Interval | None) -> str:
    return "" if interval is None else f" [{100 * interval[0]:.0f}, {100 * interval[1]:.0f}]"
