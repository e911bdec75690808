"""How sure it is, for each two contenders, that one is better."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import isfinite
from typing import Literal, Self

import numpy as np

from simulations.pairs import Measure, Pairs, Scores, check, pair
from simulations.statistics import (
    LEVEL,
    Floats,
    client_interval,
    client_test,
    holm,
    rank_biserial,
    seed_spread,
    seed_test,
    sign_flips,
    signed_ranks,
)

Interval = tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """How sure it is that contender ``a`` is better than ``b``, or worse."""

    a: str
    b: str
    measure: Measure
    seeds: int
    """That both have."""
    clients: int
    """Over all seeds, that both have."""
    left_out: int
    """Clients of these seeds that only one of them has."""
    difference: float
    """Mean over seeds of the mean over clients, positive where ``a`` is better."""
    spread: float | None
    """Standard deviation of the difference over seeds; None with one seed."""
    seed_interval: Interval | None
    """95 %, for other seeds; None with one seed, or where all seeds differ by exactly the same."""
    client_interval: Interval | None
    """95 %, for other clients of these very runs; None where a seed has a single client."""
    p: float
    """That no difference looks so large: t over seeds, with one seed signed ranks over clients."""
    p_holm: float
    """The same among all pairs of the family."""
    family: int
    """Pairs that were compared."""
    p_ranks: float
    """A second opinion that needs no normal seeds: signed ranks over clients, signs flip by seed."""
    improvement: float
    """Probability of improvement: share of pairs in which ``a`` is better, ties count half."""
    improvement_interval: Interval | None
    """95 %, for other seeds; 0.5 is inside wherever 0 is in ``seed_interval``. None as that one."""
    rank_biserial: float
    """Effect size, -1 to 1: 1 where ``a`` is better in each pair."""

    @property
    def interval(self) -> Interval | None:
        """The one to show: for other seeds, and with one seed for other clients."""
        return self.client_interval if self.seeds == 1 else self.seed_interval

    @property
    def verdict(self) -> Literal["better", "worse", "untold"]:
        """Told where p after Holm is below 5 % and neither interval has 0 inside."""
        intervals = [i for i in (self.seed_interval, self.client_interval) if i is not None]
        if self.p_holm < LEVEL and all(low > 0 for low, _ in intervals):
            return "better"
        if self.p_holm < LEVEL and all(high < 0 for _, high in intervals):
            return "worse"
        return "untold"

    def swapped(self) -> Self:
        """The same, seen from ``b``."""
        share = self.improvement_interval
        return replace(
            self,
            a=self.b,
            b=self.a,
            difference=-self.difference,
            seed_interval=_mirrored(self.seed_interval),
            client_interval=_mirrored(self.client_interval),
            improvement=1 - self.improvement,
            improvement_interval=None if share is None else (1 - share[1], 1 - share[0]),
            rank_biserial=-self.rank_biserial,
        )


def compare_all(
    contenders: Mapping[str, Scores],
    measure: Measure,
    draw: int = 0,
    couples: Sequence[tuple[str, str]] | None = None,
) -> list[Comparison]:
    """The couples, else each two, as one family for Holm. ``draw`` seeds the bootstrap over clients."""
    for name, scores in contenders.items():
        check(name, scores)
    found = [
        _compare(a, b, pair(a, contenders[a], b, contenders[b], measure), measure, draw)
        for a, b in (combinations(contenders, 2) if couples is None else couples)
    ]
    adjusted = holm(np.array([comparison.p for comparison in found]))
    return [
        replace(comparison, p_holm=float(p), family=len(found))
        for comparison, p in zip(found, adjusted, strict=True)
    ]


def _compare(a: str, b: str, pairs: Pairs, measure: Measure, draw: int) -> Comparison:
    differences = pairs.differences
    means, wins = pairs.by_seed(differences), (np.sign(differences) + 1) / 2
    one = len(means) == 1
    around = None if one else _around(means)
    p_ranks = client_test(differences) if one else float(sign_flips(_rank_sums(pairs)))
    p = p_ranks if one else float(seed_test(means)[1])
    return Comparison(
        a=a,
        b=b,
        measure=measure,
        seeds=len(means),
        clients=len(differences),
        left_out=pairs.left_out,
        difference=float(means.mean()),
        spread=None if one else float(seed_spread(means)),
        seed_interval=around,
        client_interval=client_interval(differences, pairs.seeds, pairs.clients, draw),
        p=p,
        p_holm=p,
        family=1,
        p_ranks=p_ranks,
        improvement=float(pairs.by_seed(wins).mean()),
        improvement_interval=_shares(pairs.by_seed(wins), around),
        rank_biserial=rank_biserial(differences),
    )


def _around(means: Floats) -> Interval | None:
    half, middle = float(seed_test(means)[0]), float(means.mean())
    return (middle - half, middle + half) if isfinite(half) else None


def _rank_sums(pairs: Pairs) -> Floats:
    return np.bincount(pairs.seeds, signed_ranks(pairs.differences)).astype(np.float64)


def _shares(shares: Floats, mean_interval: Interval | None) -> Interval | None:
    """Runs that differ by more than clients do have shares near 0 or 1, which then hardly vary.

    So no more is claimed than the means allow.
    """
    around = None if mean_interval is None else _around(shares)
    if mean_interval is None or around is None:
        return None
    low, high = around
    if mean_interval[0] <= 0 <= mean_interval[1]:
        low, high = min(low, 0.5), max(high, 0.5)
    return max(low, 0.0), min(high, 1.0)


def _mirrored(interval: Interval | None) -> Interval | None:
    return None if interval is None else (-interval[1], -interval[0])
