"""A comparison of two contenders in words."""

from math import floor, log10

from simulations.contenders import Comparison, Interval
from simulations.statistics import LEVEL, seeds_to_tell

WORTH = 0.005
"""Half a point of accuracy: the difference that one would like to tell, unless another is named."""
FEW = 5
"""Below so many seeds a t interval is wide, and is said to be."""


def statement(comparison: Comparison, worth: float | None = None) -> str:
    """One line, the better mean first; the verdict is ``comparison.verdict`` and this adds the reasons.

    With too few seeds it says how many would tell a difference of ``worth``: a share of 1 for
    accuracies, for losses the difference that was seen if none is named.
    """
    seen = comparison.swapped() if comparison.difference < 0 else comparison
    if worth is None:
        worth = WORTH if seen.measure == "accuracy" else seen.difference
    told = seen.verdict != "untold"
    parts = [_told(seen)] if told else [_untold(seen), *_reasons(seen), *_plan(seen, worth)]
    return "; ".join([*parts, *_reach(seen)])


def _told(seen: Comparison) -> str:
    amount, around = _amount(seen, seen.difference), _range(seen, seen.interval)
    if seen.measure == "loss":
        return f"{seen.a} beats {seen.b} on unseen clients: it lowers the loss by {amount}{around}"
    return f"{seen.a} beats {seen.b} on unseen clients by {amount}{around}"


def _untold(seen: Comparison) -> str:
    verb = "lowers the loss by " if seen.measure == "loss" else ""
    amount, around = _amount(seen, seen.difference), _range(seen, seen.interval)
    return f"{seen.a} cannot be told from {seen.b} on unseen clients ({verb}{amount}{around})"


def _reasons(seen: Comparison) -> list[str]:
    """Why a difference is not told whose interval, or whose p, alone would tell it."""
    if seen.seeds > 1 and seen.seed_interval is None:
        return ["the difference is the same in all seeds, which tells nothing of others"]
    if seen.p < LEVEL <= seen.p_holm:
        return [
            f"as the only pair it might be (p = {seen.p:.2g}), but not "
            f"as one of {seen.family} (p = {seen.p_holm:.2g} after Holm)"
        ]
    if seen.p_holm < LEVEL and seen.seeds > 1:
        around = _range(seen, seen.client_interval)
        return [f"for other clients it might not hold{around}"]
    if seen.p_ranks * seen.family < LEVEL:
        p = f"signed ranks p = {seen.p_ranks:.2g}"
        return [f"most clients tell them apart ({p}), the mean does not: it hangs on few clients"]
    return []


def _plan(seen: Comparison, worth: float) -> list[str]:
    """More seeds, where they are what lacks; each of a family has to pass the strictest level of Holm."""
    if not seen.spread or worth == 0 or seen.p_holm < LEVEL:
        return []
    needed, amount = seeds_to_tell(seen.spread, worth, LEVEL / seen.family), _worth(seen, worth)
    if needed is None:
        return [f"no feasible number of seeds would tell a difference of {amount}"]
    if needed <= seen.seeds:
        return [f"a difference of {amount} would most likely have been told"]
    more = needed - seen.seeds
    return [f"about {more} more seed{'s' * (more > 1)} would tell a difference of {amount}"]


def _reach(seen: Comparison) -> list[str]:
    """How far the statement carries."""
    parts = []
    if seen.seeds == 1:
        parts.append("one seed: this speaks of these two models, not of other seeds")
    elif seen.seeds < FEW:
        parts.append(f"with {seen.seeds} seeds the interval is wide")
    if seen.left_out:
        parts.append(f"{seen.left_out} clients that only one of them has are left out")
    return parts


def _amount(seen: Comparison, value: float) -> str:
    return _number(seen, value) + (" points" if seen.measure == "accuracy" else "")


def _worth(seen: Comparison, worth: float) -> str:
    if seen.measure == "loss":
        return f"{worth:.2g}"
    return f"{100 * worth:.3g} point{'s' * (worth != 0.01)}"


def _range(seen: Comparison, interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f" [{_number(seen, interval[0])}, {_number(seen, interval[1])}]"


def _number(seen: Comparison, value: float) -> str:
    """In points or as it is, rounded to what the interval allows."""
    scale = 100.0 if seen.measure == "accuracy" else 1.0
    low, high = (scale * end for end in seen.interval or (0.0, seen.difference))
    digits = max(1, _digits(high - low) + 1)
    if low > 0 or high < 0:  # an end that is not 0 must not look like it
        digits = max(digits, _digits(min(abs(low), abs(high))))
    return f"{round(scale * value, digits) + 0.0:.{digits}f}"  # no -0.0


def _digits(size: float) -> int:
    """Decimals that show the first digit of a size."""
    return -floor(log10(size)) if size else 0
