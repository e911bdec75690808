"""How sure differences between two contenders are, on plain arrays.

Differences are paired: same seed, same client, positive where the first contender is better. Arrays of
seeds may have leading axes (many experiments at once); the last axis is the seeds of one of them.

The seed is the unit that is drawn: two runs differ by their initialisation, order of data and cohorts,
and all clients of a run share that. So clients of one run are no independent witnesses, however many.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.05
"""Of tests, two-sided; intervals cover the rest."""
POWER = 0.8
"""How often enough seeds tell a difference."""
FEASIBLE = 1000
"""More seeds than these nobody runs."""
RESAMPLES, BLOCK = 10_000, 1_000
"""Of the bootstrap; so many at a time, which bounds its memory."""
ENUMERATED = 16
"""With up to so many seeds all flips of signs are tried."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def seed_spread(means: Floats) -> Floats:
    """Standard deviation over ``[..., seeds]``, an exact zero where only rounding differs."""
    spread = means.std(axis=-1, ddof=1)
    return np.where(spread > 1e-9 * np.abs(means).max(axis=-1), spread, 0.0)


def seed_test(means: Floats) -> tuple[Floats, Floats]:
    """Half-width of the 95 % t interval, and p, of the mean of ``[..., seeds]``; at least two seeds.

    Student 1908: exact for normal seeds, careful with heavier tails. Seeds without any spread tell
    nothing about other seeds: then the interval is infinite and p is 1.
    """
    seeds = means.shape[-1]
    error = seed_spread(means) / seeds**0.5
    unknown = np.where(error > 0, error, np.inf)
    half = stats.t.ppf(1 - LEVEL / 2, seeds - 1) * unknown
    return half, 2 * stats.t.sf(np.abs(means.mean(axis=-1)) / unknown, seeds - 1)


def signed_ranks(differences: Floats) -> Floats:
    """Ranks of sizes over the last axis, with the signs; ties share their mean, zeros are left out."""
    zeros = (differences == 0).sum(axis=-1, keepdims=True)
    ranks: Floats = stats.rankdata(np.abs(differences), axis=-1) - zeros
    return np.sign(differences) * ranks


def sign_flips(sums: Floats) -> Floats:
    """Two-sided p of sums of signed ranks ``[..., seeds]``, where each is as likely with the other sign.

    The statistic of Rosner, Glynn and Lee 2006, where clusters are seeds. Up to 16 seeds all flips are
    tried, which is exact and can be no lower than ``2 ** (1 - seeds)``; beyond, their normal limit.
    """
    seeds, seen = sums.shape[-1], np.abs(sums.sum(axis=-1, keepdims=True))
    if seeds > ENUMERATED:
        spread = np.sqrt((sums**2).sum(axis=-1))
        return np.asarray(2 * stats.norm.sf(seen[..., 0] / np.where(spread > 0, spread, np.inf)))
    bits = np.arange(2 ** (seeds - 1))[:, None] >> np.arange(seeds) & 1
    flipped = np.abs(sums @ (1.0 - 2.0 * bits).T)  # the first half: the other mirrors it
    rounding = 1e-9 * np.abs(sums).sum(axis=-1, keepdims=True)
    return np.asarray((flipped >= seen - rounding).mean(axis=-1))


def client_test(differences: Floats) -> float:
    """Two-sided p of Wilcoxon's signed ranks over clients: it speaks of these two models alone."""
    if not differences.any():
        return 1.0
    return float(stats.wilcoxon(differences).pvalue)


def client_interval(
    differences: Floats, seeds: Ints, clients: Ints, draw: int
) -> tuple[float, float] | None:
    """95 % percentile bootstrap of the mean over seeds, were other clients drawn; the runs stay.

    The three arrays are ``[pairs]``, seeds count from 0. A client is drawn with all its pairs, so that
    clients which are the same in all seeds count once. Each pull on the mean is first scaled by
    ``sqrt(n / (n - 1))``, n clients in the seed (Davison and Hinkley 1997, section 2.7): without, few
    clients look too sure. ``draw`` seeds the draws. None where a seed has one client only.
    """
    count = np.bincount(seeds)
    if count.min() < 2:
        return None
    means = np.bincount(seeds, differences) / count
    scale = np.sqrt(count / (count - 1)) / (count * len(count))
    _, owner = np.unique(clients, return_inverse=True)
    pulls = np.bincount(owner, (differences - means[seeds]) * scale[seeds])
    generator = np.random.default_rng(draw)
    sums = [
        pulls[generator.integers(len(pulls), size=(BLOCK, len(pulls)))].sum(axis=1)
        for _ in range(RESAMPLES // BLOCK)
    ]
    low, high = means.mean() + np.quantile(np.concatenate(sums), [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def rank_biserial(differences: Floats) -> float:
    """``(W+ - W-) / (W+ + W-)`` of Wilcoxon's rank sums, -1 to 1 (Kerby 2014, matched pairs)."""
    ranks = signed_ranks(differences)
    total = float(np.abs(ranks).sum())
    return float(ranks.sum()) / total if total else 0.0


def holm(ps: Floats) -> Floats:
    """The p of a family ``[tests]`` so that one false alarm among all is as rare as p says (Holm 1979)."""
    order = np.argsort(ps, kind="stable")
    stepped = np.maximum.accumulate(ps[order] * np.arange(len(ps), 0, -1))
    adjusted = np.empty_like(ps)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def power(sd: float, difference: float, seeds: Ints, level: float = LEVEL) -> Floats:
    """Chance that a two-sided t test over so many ``seeds`` tells ``difference``; ``sd`` is over seeds."""
    shift, limit = np.sqrt(seeds) * abs(difference) / sd, stats.t.ppf(1 - level / 2, seeds - 1)
    other = stats.nct.cdf(-limit, seeds - 1, shift)
    return stats.nct.sf(limit, seeds - 1, shift) + np.nan_to_num(other)


def seeds_to_tell(sd: float, difference: float, level: float = LEVEL) -> int | None:
    """Seeds in all with which a true ``difference`` is told four times in five; None if over 1000."""
    if sd == 0 or difference == 0:
        return None
    seeds = np.arange(2, FEASIBLE + 1)
    enough = power(sd, difference, seeds, level) >= POWER
    return int(seeds[enough.argmax()]) if enough.any() else None
