"""Tests and intervals on arrays, against other programs, tables and formulas."""

import numpy as np
import pytest
from scipy import stats

from simulations.statistics import (
    RESAMPLES,
    client_interval,
    client_test,
    holm,
    power,
    rank_biserial,
    seed_spread,
    seed_test,
    seeds_to_tell,
    sign_flips,
    signed_ranks,
)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def test_over_seeds_it_is_the_one_sample_t_test() -> None:
    means = normal(7, 5) + 0.3
    half, p = seed_test(means)
    found = stats.ttest_1samp(means, 0.0, axis=1)
    assert p == pytest.approx(found.pvalue, rel=1e-12)
    low, high = found.confidence_interval(0.95)
    assert means.mean(axis=1) - half == pytest.approx(low, rel=1e-9)
    assert means.mean(axis=1) + half == pytest.approx(high, rel=1e-9)


def test_seeds_that_do_not_differ_tell_nothing_of_other_seeds() -> None:
    third = 0.1 + 0.2  # 0.30000000000000004: only rounding differs
    half, p = seed_test(np.array([[0.3, third, 0.3], [0.0, 0.0, 0.0]]))
    assert half.tolist() == [np.inf, np.inf]
    assert p.tolist() == [1.0, 1.0]
    assert seed_spread(np.array([0.3, third])) == 0


def test_signed_ranks_by_hand() -> None:
    differences = np.array([[0.0, -3.0, 1.0, -1.0, 5.0], [0.0, 0.0, 0.0, 0.0, -2.0]])
    assert signed_ranks(differences).tolist() == [[0, -3, 1.5, -1.5, 4], [0, 0, 0, 0, -1]]


@pytest.mark.parametrize("seeds", [2, 5, 10])
def test_with_one_client_per_seed_sign_flips_are_wilcoxons_exact_test(seeds: int) -> None:
    differences = normal(20, seeds) + 0.5
    exact = stats.wilcoxon(differences, axis=1, method="exact").pvalue
    assert sign_flips(signed_ranks(differences)) == pytest.approx(exact, rel=1e-12)


def test_clients_of_a_seed_change_their_signs_together() -> None:
    differences = normal(6, 8) + 0.4
    ranks = stats.rankdata(np.abs(differences)).reshape(6, 8)
    sums = (np.sign(differences) * ranks).sum(axis=1)
    flips = stats.permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert sign_flips(sums) == pytest.approx(flips.pvalue, rel=1e-12)
    assert sign_flips(np.ones(6)) == 2 / 2**6


def test_with_many_seeds_sign_flips_are_the_normal_limit() -> None:
    differences = normal(20, 40) + 0.2
    limit = stats.wilcoxon(differences, axis=1, method="approx", correction=False).pvalue
    assert sign_flips(signed_ranks(differences)) == pytest.approx(limit, rel=1e-9)
    assert sign_flips(np.zeros(40)) == sign_flips(np.zeros(4)) == 1


def test_over_the_clients_of_one_seed_it_is_wilcoxons_test() -> None:
    differences = normal(30) + 0.3
    assert client_test(differences) == stats.wilcoxon(differences).pvalue
    assert client_test(np.zeros(30)) == client_test(np.array([0.4])) == 1


SEEDS, CLIENTS = 3, 300
QUANTILE = 4.5 * (0.025 * 0.975 / RESAMPLES) ** 0.5 / stats.norm.pdf(1.96)
"""Standard errors that the 2.5 % quantile of normal resamples is off by, with chance below 1e-5."""


@pytest.mark.parametrize("same", [False, True])
def test_interval_over_clients_is_as_wide_as_their_spread_says(same: bool) -> None:
    """Other clients in each seed: variances of seeds add. The same: a client's pull is its mean."""
    values = normal(SEEDS, CLIENTS) + 2 * normal(CLIENTS, seed=1) + np.array([[5.0], [0.0], [-2.0]])
    clients = np.arange(SEEDS * CLIENTS) % (CLIENTS if same else SEEDS * CLIENTS)
    found = client_interval(values.ravel(), np.repeat(np.arange(SEEDS), CLIENTS), clients, 0)
    apart = values.var(axis=1, ddof=1).sum() / SEEDS**2
    variance = (values.mean(axis=0).var(ddof=1) if same else apart) / CLIENTS
    assert found is not None
    error = (np.array(found) - values.mean()) / variance**0.5
    assert error == pytest.approx([-1.96, 1.96], abs=QUANTILE + 0.02)  # 0.02: not quite normal


def test_interval_over_clients_weighs_seeds_alike_and_needs_two_clients_in_each() -> None:
    values, seeds = np.array([1.0, 1.0, 1.0, 1.0, 4.0, 4.0]), np.array([0, 0, 0, 0, 1, 1])
    assert client_interval(values, seeds, np.arange(6), 0) == (2.5, 2.5)
    assert client_interval(values[:5], seeds[:5], np.arange(5), 0) is None


def test_interval_over_clients_of_unequal_seeds_adds_the_variances_of_their_means() -> None:
    values, seeds = normal(360), np.repeat([0, 1], [300, 60])
    found = client_interval(values, seeds, np.arange(360), 0)
    first, second = values[:300], values[300:]
    variance = (first.var(ddof=1) / 300 + second.var(ddof=1) / 60) / 4
    assert found is not None
    error = (np.array(found) - (first.mean() + second.mean()) / 2) / variance**0.5
    assert error == pytest.approx([-1.96, 1.96], abs=QUANTILE + 0.02)


def test_interval_over_two_clients_by_hand() -> None:
    """Of 1 and -1 the mean of two draws is -1, 0 or 1 with chance 1/4, 1/2, 1/4, scaled by sqrt(2/1)."""
    found = client_interval(np.array([1.0, -1.0]), np.array([0, 0]), np.arange(2), 0)
    assert found == pytest.approx((-(2**0.5), 2**0.5))


def test_interval_over_clients_follows_from_its_seed() -> None:
    values, seeds, clients = normal(20), np.repeat([0, 1], 10), np.arange(20)
    first, again, other = (client_interval(values, seeds, clients, draw) for draw in (3, 3, 4))
    assert first == again != other


def test_effect_size_by_hand() -> None:
    """Ranks 1, 2, 3 of sizes 1, 2, 5: (1 + 3 - 2) / 6."""
    assert rank_biserial(np.array([1.0, -2.0, 0.0, 5.0])) == pytest.approx(1 / 3)
    assert rank_biserial(np.array([0.1, 9.0])) == 1
    assert rank_biserial(np.zeros(3)) == 0


def test_holm_by_hand() -> None:
    """Sorted 0.01, 0.02, 0.03, 0.4 times 4, 3, 2, 1, none below the one before."""
    found = holm(np.array([0.4, 0.02, 0.01, 0.03]))
    assert found == pytest.approx([0.4, 0.06, 0.04, 0.06])
    assert holm(np.array([0.7, 0.9])).tolist() == [1.0, 1.0]
    assert holm(np.array([])).tolist() == []


@pytest.mark.parametrize(("difference", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_seeds_needed_are_those_of_published_tables(difference: float, seeds: int) -> None:
    """One-sample t test, two-sided 5 %, power 80 %: as G*Power and R's power.t.test give."""
    assert seeds_to_tell(1.0, difference) == seeds
    assert seeds_to_tell(3.0, -3 * difference) == seeds


def test_seeds_needed_at_the_ends() -> None:
    assert seeds_to_tell(1.0, 1e6) == 2
    assert seeds_to_tell(1.0, 0.08) is None  # (1.96 + 0.84)^2 / 0.08^2 = 1225
    assert seeds_to_tell(1.0, 0.0) is None


def test_seeds_needed_are_the_fewest_at_any_level() -> None:
    strict = seeds_to_tell(1.0, 0.7, 0.05 / 6)
    assert strict is not None
    fewer, enough = power(1.0, 0.7, np.array([strict - 1, strict]), 0.05 / 6)
    assert fewer < 0.8 <= enough


def test_power_is_how_often_a_difference_is_told() -> None:
    runs = 40_000
    for seeds, difference in ((3, 1.5), (5, 1.0), (10, 0.3)):
        told = (seed_test(normal(runs, seeds, seed=seeds) + difference)[1] < 0.05).mean()
        chance = float(power(1.0, difference, np.array([seeds]))[0])
        assert told == pytest.approx(chance, abs=4 * (chance * (1 - chance) / runs) ** 0.5)
