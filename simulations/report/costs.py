"""What it cost each contender to reach a score on unseen validation clients."""

from math import ceil, floor, inf, isinf, log10
from statistics import median

from simulations.report.contenders import Contender, Problem
from simulations.report.ranking import named
from simulations.report.scales import byte_scale
from simulations.report.tables import Cell, Table, number
from simulations.report.validation import last_score, spent_to_reach

SPENT = {
    "round": ("rounds", ",.10g"),
    "bytes": ("bytes", ""),
    "client_updates": ("client updates", ",.10g"),
    "gradients": ("gradient steps", ",.10g"),
    "minutes": ("minutes", ",.2f"),
    "simulated_seconds": ("simulated seconds", ",.10g"),
}
"""By key of a validation point its column and the format of its numbers."""
ROUNDING = 1e-9
"""0.29 is 29 %, though 100 * 0.29 is less than 29."""


def usual_target(problem: Problem) -> float:
    """What the median contender scores on validation clients in the end, rounded to be a little easier.

    An accuracy down to a whole percent, a loss up to two digits.
    """
    middle = median(last_score(contender) for contender in problem.contenders)
    if problem.measure == "accuracy":
        return floor(100 * middle + ROUNDING) / 100
    digits = 1 - floor(log10(middle)) if middle > 0 else 0
    return round(ceil(middle * 10.0**digits - ROUNDING) / 10.0**digits, digits)


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


def _level(measure: str, level: float) -> str:
    return f"{100 * level:.10g} %" if measure == "accuracy" else f"a loss of {level:.10g}"


def _reaching(contender: Contender, target: float) -> Cell:
    rounds = spent_to_reach(contender, "round", target) or []
    count = sum(not isinf(amount) for amount in rounds)
    return Cell(f"{count} of {len(rounds)}", count)


def _spent(contender: Contender, key: str, target: float) -> Cell:
    amounts = spent_to_reach(contender, key, target)
    if amounts is None:
        return Cell("not recorded", inf)
    amount = median(amounts)
    if isinf(amount):
        return Cell("not reached", inf)
    if key == "bytes":
        scale = byte_scale("", amount)
        return Cell(f"{amount * scale.factor:.3g} {scale.label.strip()}", amount)
    return number(amount, SPENT[key][1])
