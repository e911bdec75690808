"""The cohort of a round: a fair draw that anyone can repeat from (seed, round)."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from fedmeta.replies import Replies
from fedmeta.settings import CohortSettings
from strategies.sampling import Heard, sample

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


def test_large_shards_come_first_as_often_as_they_are_large() -> None:
    """One of three with probability 1/6, 2/6, 3/6; of R draws within 4 deviations of R p."""
    sizes, rounds = {0: 10, 1: 20, 2: 30}, 6000
    settings = CohortSettings(1, sampling="size")
    drawn = [int(sample(np.arange(3), settings, 0, r, sizes)[0]) for r in range(rounds)]
    p = np.array([1, 2, 3]) / 6
    assert (abs(np.bincount(drawn) - rounds * p) < 4 * np.sqrt(rounds * p * (1 - p))).all()


def test_two_of_three_are_drawn_one_after_the_other() -> None:
    """Client i is first, or second after j: ``p_i + sum_j p_j p_i / (1 - p_j)``; they sum to 2."""
    sizes, rounds = {0: 10, 1: 20, 2: 30}, 6000
    settings = CohortSettings(2, sampling="size")
    drawn = np.concatenate([sample(np.arange(3), settings, 0, r, sizes) for r in range(rounds)])
    p = np.array([1, 2, 3]) / 6
    q = np.array(
        [p[i] + sum(p[j] * p[i] / (1 - p[j]) for j in range(3) if j != i) for i in range(3)]
    )
    assert q.sum() == pytest.approx(2)
    assert (abs(np.bincount(drawn) - rounds * q) < 4 * np.sqrt(rounds * q * (1 - q))).all()


def test_of_whom_no_size_is_known_one_example_is_assumed() -> None:
    settings = CohortSettings(1, sampling="size")
    known, assumed = {0: 1, 1: 5, 2: 1}, {1: 5}
    for round in range(50):
        pair = [sample(np.arange(3), settings, 0, round, sizes) for sizes in (known, assumed)]
        assert pair[0] == pair[1]


@pytest.mark.parametrize(("clients", "count"), [(12, 4), (10, 4), (7, 7), (5, 3)])
def test_all_have_their_turn(clients: int, count: int) -> None:
    """In any number of rounds nobody more than once more often than another."""
    settings, ids = CohortSettings(count, sampling="round_robin"), np.arange(100, 100 + clients)
    taken = np.zeros(clients, dtype=int)
    for round in range(1, 3 * clients):
        chosen = sample(ids, settings, 3, round)
        assert len(set(chosen.tolist())) == count
        taken[chosen - 100] += 1
        assert taken.max() - taken.min() <= 1


def test_turns_are_in_a_random_order_that_no_newcomer_changes() -> None:
    def order(clients: np.ndarray, seed: int = 0) -> list[int]:
        settings = CohortSettings(1, sampling="round_robin")
        return [int(sample(clients, settings, seed, r)[0]) for r in range(1, len(clients) + 1)]

    turns = order(CLIENTS)
    assert sorted(turns) == CLIENTS.tolist()
    assert turns not in (CLIENTS.tolist(), order(CLIENTS, seed=1))
    gone = CLIENTS[20]
    assert order(np.delete(CLIENTS, 20)) == [client for client in turns if client != gone]


def test_the_worst_served_of_the_candidates_are_chosen() -> None:
    """Of all six: 3, which is news, then the losses 9 and 5."""
    losses = {0: 1.0, 1: 9.0, 2: 5.0, 4: 0.5, 5: 2.0}
    settings = CohortSettings(3, sampling="loss", candidates=6)
    assert sample(np.arange(6), settings, 0, 1, losses=losses).tolist() == [1, 2, 3]


def test_candidates_are_a_fair_draw() -> None:
    """The cohort that ``uniform`` would draw of as many; of twice the cohort where none is said."""
    losses = {int(client): float(client % 17) for client in CLIENTS}
    for said, count in ((25, 25), (None, 20)):
        for round in range(20):
            drawn = sample(CLIENTS, CohortSettings(count), 0, round).tolist()
            settings = CohortSettings(10, sampling="loss", candidates=said)
            chosen = sample(CLIENTS, settings, 0, round, losses=losses).tolist()
            worst = sorted(drawn, key=lambda client: -losses[client])[:10]
            assert chosen == sorted(worst)
    few = sample(CLIENTS[:7], CohortSettings(5, sampling="loss"), 0, 1, losses=losses)
    assert len(few) == 5


@pytest.mark.parametrize("sampling", ["uniform", "size", "loss", "round_robin"])
def test_every_policy_is_a_function_of_its_arguments(sampling) -> None:
    settings = CohortSettings(10, sampling=sampling)
    sizes, losses = ({int(c): 1 + int(c) % 9 for c in CLIENTS} for _ in range(2))
    before = sizes.copy(), losses.copy(), CLIENTS.copy()
    found = [sample(CLIENTS, settings, 4, round, sizes, losses).tolist() for round in range(1, 9)]
    again = [
        sample(CLIENTS, settings, 4, round, sizes, losses).tolist() for round in range(8, 0, -1)
    ]
    assert found == again[::-1]
    assert (sizes, losses) == before[:2]
    assert (before[2] == CLIENTS).all()
    for chosen in found:
        assert chosen == sorted(set(chosen))
        assert len(chosen) == 10
    everyone = sample(CLIENTS[:4], settings, 4, 1, sizes, losses)
    assert everyone.tolist() == CLIENTS[:4].tolist()


def test_what_was_last_heard_is_remembered() -> None:
    def said(losses: dict[int, float]) -> Replies:
        columns = {"loss": torch.tensor(list(losses.values()), dtype=torch.float64)}
        return Replies(list(losses), {}, columns)

    assert Heard.of({}).losses() == {}
    memory = Heard.of({}).hear([said({3: 1.5, 1: 0.25})])
    memory = Heard.of(memory).hear([said({8: 4.0}), said({3: 0.5})])
    assert Heard.of(memory).losses() == {1: 0.25, 3: 0.5, 8: 4.0}
    assert Heard.of(Heard.of(memory).hear([])).losses() == Heard.of(memory).losses()
