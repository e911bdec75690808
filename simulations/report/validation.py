"""The curves of contenders on unseen validation clients, and what their points had cost."""

from math import inf
from statistics import fmean

from fedmeta.tracking.recorder import Row
from simulations.cost import reached
from simulations.report.contenders import Contender, over_seeds


def mean_curve(contender: Contender) -> tuple[list[float], list[float]]:
    """Scores after adaptation, means over the seeds, and the half-widths of their intervals."""
    return over_seeds(_shared_points(contender), contender.measure)


def spent(contender: Contender, key: str) -> list[float]:
    """What the points of ``mean_curve`` took, mean over the seeds; empty where it was not recorded."""
    amounts = [[_amount(point, key) for point in seeds] for seeds in _shared_points(contender)]
    known = [[amount for amount in seeds if amount is not None] for seeds in amounts]
    return [fmean(seeds) for seeds in known] if known == amounts else []


def spent_to_reach(contender: Contender, key: str, target: float) -> list[float] | None:
    """For each seed what it took, infinite where the target is not reached; None if not recorded."""
    sign = 1 if contender.measure == "accuracy" else -1
    found = []
    for row in contender.rows:
        points = [(_amount(point, key), sign * point[contender.measure]) for point in row["val"]]
        known = [(amount, score) for amount, score in points if amount is not None]
        if len(known) < len(points):
            return None
        amount = reached(known, sign * target)
        found.append(inf if amount is None else amount)
    return found


def last_score(contender: Contender) -> float:
    """At the end of training, mean over the seeds."""
    return fmean(row["val"][-1][contender.measure] for row in contender.rows)


def _shared_points(contender: Contender) -> list[tuple[Row, ...]]:
    """Of the rounds that every seed has, a tuple over seeds for each."""
    by_round = [{point["round"]: point for point in row["val"]} for row in contender.rows]
    rounds = sorted(set.intersection(*(set(points) for points in by_round)))
    return [tuple(points[r] for points in by_round) for r in rounds]


def _amount(point: Row, key: str) -> float | None:
    """Before the first round nothing is spent, whatever is recorded later."""
    amount: float | None = point.get(key) if point["round"] else 0.0
    return amount
