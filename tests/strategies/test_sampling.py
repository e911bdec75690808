"""The cohort of a round: a fair draw that anyone can repeat from (seed, round)."""

import numpy as np
import pytest
from scipy.stats import chi2

from fedmeta.settings import CohortSettings
from strategies.sampling import sample

CLIENTS = np.arange(7, 157, 3)  # 50 ids with gaps, as devices have them


def test_the_cohort_is_a_function_of_seed_and_round() -> None:
    first = sample(CLIENTS, CohortSettings(10), 4, 9)
    sample(CLIENTS, CohortSettings(10), 1, 1)
    np.random.default_rng(0).random()
    assert (sample(CLIENTS.copy(), CohortSettings(10), 4, 9) == first).all()


def test_other_rounds_and_seeds_draw_other_cohorts() -> None:
    """Two of the C(50, 10) = 1.0e10 cohorts coincide among 200 with probability 2e-6."""
    cohorts = {
        tuple(sample(CLIENTS, CohortSettings(10), seed, r)) for seed in (0, 1) for r in range(100)
    }
    assert len(cohorts) == 200


@pytest.mark.parametrize("count", [1, 10, 49, 50])
def test_ids_are_distinct_ascending_and_of_the_federation(count: int) -> None:
    for round in range(50):
        chosen = sample(CLIENTS, CohortSettings(count), 0, round)
        assert len(chosen) == count
        assert (np.diff(chosen) > 0).all()
        assert np.isin(chosen, CLIENTS).all()


@pytest.mark.parametrize(("clients", "count"), [(50, 10), (200, 8)])
def test_every_client_is_equally_likely(clients: int, count: int) -> None:
    """Chi-square of how often each of n clients was among k, over R rounds.

    Drawn without replacement, the counts have covariance R k (n-k) / (n (n-1)) (I - 1/n), so the
    sum of squares over that factor is chi-square with n-1 degrees of freedom. Two-sided, at 0.2 %.
    """
    rounds = 3000
    drawn = [sample(np.arange(clients), CohortSettings(count), 0, round) for round in range(rounds)]
    counts = np.bincount(np.concatenate(drawn), minlength=clients)
    factor = rounds * count * (clients - count) / (clients * (clients - 1))
    statistic = ((counts - rounds * count / clients) ** 2).sum() / factor
    assert 0.001 < chi2.sf(statistic, clients - 1) < 0.999
