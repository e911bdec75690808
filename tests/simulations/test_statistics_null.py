"""A strategy against itself under other seeds: nothing is found more often than 5 % of the time.

A score is ``client + run + noise``; two runs of one strategy differ in the last two. Bounds are binomial:
as many false alarms as exactly 5 % would pass with chance 1e-4.
"""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import special, stats

from simulations.contenders import compare_all
from simulations.statistics import LEVEL, holm, power, seed_test, sign_flips, signed_ranks
from tests.simulations.test_statistics import normal

RUNS, CLIENTS, QUERIES = 2000, 25, 25
MOST = stats.binom.isf(1e-4, RUNS, LEVEL) / RUNS
LEAST = stats.binom.ppf(1e-4, RUNS, LEVEL) / RUNS
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

RUN_EFFECTS: dict[str, Draw] = {
    "none": lambda g, shape: np.zeros(shape),
    "as-clients": lambda g, shape: g.standard_normal(shape),
    "larger": lambda g, shape: 5 * g.standard_normal(shape),
    "heavy": lambda g, shape: g.standard_t(2, shape),
    "two-basins": lambda g, shape: 5.0 * g.integers(0, 2, shape),
}


def accuracy(g: np.random.Generator, logit: np.ndarray) -> np.ndarray:
    return g.binomial(QUERIES, special.expit(1 + logit)) / QUERIES


SCORES: dict[str, Draw] = {
    "normal": lambda g, level: level + g.standard_normal(level.shape),
    "heavy": lambda g, level: level + g.standard_t(1.5, level.shape),  # without variance
    "accuracy": accuracy,
}


def differences(score: str, effect: str, seeds: int, gain: float = 0.0) -> np.ndarray:
    """Of two runs of a strategy, ``[RUNS, seeds, CLIENTS]``; the first may gain."""
    g = np.random.default_rng(seeds)
    client = g.standard_normal((RUNS, seeds, CLIENTS))
    first, second = (
        SCORES[score](g, client + RUN_EFFECTS[effect](g, (RUNS, seeds, 1)) + more)
        for more in (gain, 0.0)
    )
    return np.round(first - second, 9)


def rank_sums(found: np.ndarray) -> np.ndarray:
    return signed_ranks(found.reshape(RUNS, -1)).reshape(found.shape).sum(axis=2)


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("effect", RUN_EFFECTS)
@pytest.mark.parametrize("score", SCORES)
def test_a_strategy_does_not_beat_itself(score: str, effect: str, seeds: int) -> None:
    found = differences(score, effect, seeds)
    told = (seed_test(found.mean(axis=2))[1] < LEVEL).mean()
    assert told <= MOST
    if score == "normal" and effect in ("none", "as-clients", "larger"):
        assert told >= LEAST  # exact, not merely careful
    assert (sign_flips(rank_sums(found)) < LEVEL).mean() <= MOST


def test_what_is_not_used_finds_differences_that_are_not_there() -> None:
    """So these simulated runs can tell good tests from bad ones."""
    found = differences("normal", "as-clients", 5).reshape(RUNS, -1)
    over_clients = stats.wilcoxon(found, axis=1, method="approx").pvalue < LEVEL
    assert over_clients.mean() > 0.5
    means = differences("normal", "none", 3).mean(axis=2)
    drawn = means[:, np.random.default_rng(0).integers(0, 3, (500, 3))].mean(axis=2)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=1)
    assert ((low > 0) | (high < 0)).mean() > 0.2  # all seeds on one side: 1 of 4
    sums = signed_ranks(normal(RUNS, 4))  # as of runs that differ by far more than clients
    assert (seed_test(sums)[1] < LEVEL).mean() > 0.1  # 1, 2, 3, 4 vary little: 1 of 8


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("score", ["normal", "accuracy"])
def test_a_difference_that_is_there_is_found_as_often_as_promised(score: str, seeds: int) -> None:
    """0.02: the spread is taken from these very runs, and accuracies are not normal."""
    means = differences(score, "as-clients", seeds, gain=2.0).mean(axis=2)
    told = (seed_test(means)[1] < LEVEL).mean()
    chance = power(float(means.std()), float(means.mean()), np.array([seeds]))[0]
    assert told == pytest.approx(chance, abs=0.02 + 4 * (0.25 / RUNS) ** 0.5)
    assert told > {3: 0.2, 5: 0.5, 10: 0.95}[seeds]


def test_among_four_alike_none_stands_out_in_any_pair() -> None:
    scores = normal(RUNS, 4, 5)
    first, second = np.triu_indices(4, 1)
    p = seed_test(scores[:, first] - scores[:, second])[1]
    assert (p.min(axis=1) < LEVEL).mean() > MOST
    assert (np.array([holm(family) for family in p]).min(axis=1) < LEVEL).mean() <= MOST


def as_scores(values: np.ndarray) -> dict[int, dict[int, float]]:
    return {seed: dict(enumerate(clients.tolist())) for seed, clients in enumerate(values)}


def test_clients_that_all_seeds_share_are_not_taken_for_all_clients() -> None:
    """Each client prefers one of two strategies, clients as a whole neither.

    Runs on the same few clients agree, so the t test over seeds finds what is true of these clients. The
    interval over clients sees 30 of them; it is a normal one for what has a t distribution.
    """
    runs, clients = 200, 30
    g = np.random.default_rng(0)
    told = alone = 0
    for run in range(runs):
        taste = g.standard_normal(clients)
        a, b = taste + 0.3 * g.standard_normal((5, clients)), 0.3 * g.standard_normal((5, clients))
        (found,) = compare_all({"a": as_scores(a), "b": as_scores(b)}, "loss", run)
        told += found.verdict != "untold"
        alone += found.p < LEVEL
    assert alone > runs / 2
    assert told <= stats.binom.isf(1e-4, runs, 2 * stats.t.sf(1.96, clients - 1))


@pytest.mark.parametrize("effect", ["as-clients", "larger"])
def test_the_share_of_better_clients_claims_no_more_than_the_means(effect: str) -> None:
    """Runs that differ by more than clients do have shares near 0 or 1: they agree in 1 of 4 triples."""
    runs = 200
    g = np.random.default_rng(1)
    claims = told = 0
    for _ in range(runs):
        a, b = (g.standard_normal((3, 15)) + RUN_EFFECTS[effect](g, (3, 1)) for _ in "ab")
        (found,) = compare_all({"a": as_scores(a), "b": as_scores(b)}, "loss")
        share = found.improvement_interval
        claims += share is not None and not share[0] <= 0.5 <= share[1]
        told += found.verdict != "untold"
    assert max(claims, told) <= stats.binom.isf(1e-4, runs, LEVEL)
