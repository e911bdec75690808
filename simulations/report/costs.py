"""What it cost each contender to reach a score on unseen validation clients."""

from math import ceil, floor, inf, isinf, log10
from statistics import fmean, median

from simulations.cost import reached
from simulations.report.contenders import Contender, Problem
from simulations.report.ranking import named
from simulations.report.scales import byte_scale
from simulations.report.tables import Cell, Table, number

SPENT = {
    "round": ("rounds", ",.10g"),
    "bytes": ("bytes", ""),
    "client_updates": ("client updates", ",.10g"),
    "gradients": ("gradient evaluations", ",.10g"),
    "minutes": ("minutes", ",.2f"),
    "simulated_seconds": ("simulated seconds", ",.10g"),
}
"""By key of a validation point its column and the format of its numbers."""


def usual_target(problem: Problem) -> float:
    """What the median contender scores on validation clients in the end, rounded to be a little easier.

    An accuracy down to a whole percent, a loss up to two digits.
    """
    ends = [
        fmean(row["val"][-1][problem.measure] for row in contender.rows)
        for contender in problem.contenders
    ]
    middle = median(ends)
    if problem.measure == "accuracy":
        return floor(100 * middle) / 100
    step = 10.0 ** (floor(log10(middle)) - 1) if middle > 0 else 1.0
    return ceil(middle / step) * step


def cost_to_reach(problem: Problem, target: float | None) -> Table:
    """Median over seeds; a seed that does not get there took for ever."""
    level = usual_target(problem) if target is None else target
    points = [point for row in problem.rows for point in row["val"]]
    keys = [key for key in SPENT if any(point.get(key) for point in points)]
    where = (
        "the target that was asked for"
        if target is not None
        else "what the median contender has in the end, rounded a little to the easier side"
    )
    return Table(
        f"Cost to reach {_level(problem.measure, level)}",
        f"The first evaluation at which the mean over unseen validation clients, after adaptation, is at "
        f"least as good as {_level(problem.measure, level)} ({where}). Median over the seeds, in which a "
        "seed that never gets there counts as endless.",
        ["contender", "seeds that reach it", *(SPENT[key][0] for key in keys)],
        [
            [named(c, position), _reaching(c, level), *(_spent(c, key, level) for key in keys)]
            for position, c in enumerate(problem.contenders)
        ],
    )


def spent_to_reach(contender: Contender, key: str, target: float) -> list[float]:
    """For each seed what it took; infinite where the target is not reached."""
    sign = 1 if contender.measure == "accuracy" else -1
    found = []
    for row in contender.rows:
        curve = [(p[key], sign * p[contender.measure]) for p in row["val"]]
        amount = reached(curve, sign * target)
        found.append(inf if amount is None else amount)
    return found


def _level(measure: str, level: float) -> str:
    return f"{100 * level:.10g} %" if measure == "accuracy" else f"a loss of {level:.10g}"


def _reaching(contender: Contender, target: float) -> Cell:
    count = sum(map(lambda x: not isinf(x), spent_to_reach(contender, "round", target)))
    return Cell(f"{count} of {len(contender.rows)}", count)


def _spent(contender: Contender, key: str, target: float) -> Cell:
    if any(point.get(key) is None for row in contender.rows for point in row["val"]):
        return Cell("not recorded", inf)
    amount = median(spent_to_reach(contender, key, target))
    if isinf(amount):
        return Cell("not reached", inf)
    if key == "bytes":
        scale = byte_scale("", amount)
        return Cell(f"{amount * scale.factor:.3g} {scale.label.strip()}", amount)
    return number(amount, SPENT[key][1])
