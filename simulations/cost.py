"""What it takes to get to a score: rounds, bytes or seconds."""

from collections.abc import Iterable


def reached(curve: Iterable[tuple[float, float]], target: float) -> float | None:
    """The first x of ``(x, score)`` whose score is at least the target, None if there is none.

    Only points that were evaluated count; nothing is drawn between them, so x is late by up to one
    interval of evaluation. A noisy curve touches a target early by luck, the more so the more often
    it is evaluated: compare contenders that are evaluated equally often, on enough clients. For
    losses negate score and target. NaN reaches nothing.
    """
    return min((x for x, score in curve if score >= target), default=None)
