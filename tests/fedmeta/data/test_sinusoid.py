import re
from math import inf, nan, pi, sin, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare, kstest

from fedmeta.data.federation import Changes, ClientCounts, Purpose
from fedmeta.data.sinusoid import Sinusoid, SinusoidFederation
from fedmeta.errors import ConfigError, DataError

COUNTS = ClientCounts(train=20_000, val=1, test=1)
SIGNIFICANT = 1e-3  # the seed is fixed: a p-value above this once is above it for ever


def opened(
    seed: int = 0, shots: int = 4, queries: int = 6, examples: int = 12
) -> SinusoidFederation:
    dataset = Sinusoid(shots=shots, queries=queries, clients=COUNTS, examples=examples)
    return dataset.open(seed, torch.device("cpu"), torch.float64)


def points(federation: SinusoidFederation, clients: int) -> tuple[NDArray, NDArray]:
    """All examples of one episode of each of the first clients, ``[clients, examples]`` each."""
    drawn = federation.draw(np.arange(clients), 1, 0, "train", 0)
    return tuple(
        torch.cat([getattr(drawn.support, part), getattr(drawn.query, part)], dim=2)[
            :, 0, :, 0
        ].numpy()
        for part in ("x", "y")
    )


@given(seed=st.integers(0, 2**31), client=st.integers(0, 20_001))
@settings(derandomize=True, deadline=None, max_examples=25)
def test_two_points_tell_the_whole_sine(seed: int, client: int) -> None:
    """``A sin(x - p) = A cos p sin x - A sin p cos x``: a least squares fit leaves nothing over."""
    federation, ids = opened(seed), np.array([client])
    drawn = federation.draw(ids, 1, seed, "train", 0)
    x, y = (values.flatten().numpy() for values in drawn.query)
    found, *_ = np.linalg.lstsq(np.stack([np.sin(x), np.cos(x)], axis=1), y, rcond=None)
    amplitude, phase, _ = federation.wave(ids)
    expected = [*(amplitude * np.cos(phase)), *(-amplitude * np.sin(phase))]
    np.testing.assert_allclose(found, expected, atol=1e-12, rtol=0)
    x, y = (values.flatten().numpy() for values in drawn.support)
    np.testing.assert_allclose(found[0] * np.sin(x) + found[1] * np.cos(x), y, atol=1e-12, rtol=0)


def test_waves_and_points_are_uniform_over_their_ranges() -> None:
    federation = opened()
    amplitude, phase, _ = federation.wave(np.arange(20_000))
    x, _ = points(federation, 2_000)
    for values, low, high in ((amplitude, 0.1, 5), (phase, 0, pi), (x.ravel(), -5, 5)):
        assert low <= values.min() < values.max() <= high
        assert kstest(values, "uniform", args=(low, high - low)).pvalue > SIGNIFICANT


def test_amplitude_and_phase_are_independent() -> None:
    """The correlation of 20,000 independent pairs is normal with deviation 1 / sqrt(20,000)."""
    amplitude, phase, _ = opened().wave(np.arange(20_000))
    assert abs(np.corrcoef(amplitude, phase)[0, 1]) < 4 / sqrt(20_000)


def test_the_best_predictor_that_does_not_know_the_client() -> None:
    """It is the mean sine, ``E[A] = 2.55`` times the mean of sin(x - p) over p in [0, pi], which is
    ``-(2 / pi) cos x``; it misses by ``E[A^2] / 2 - (5.1 / pi)^2 E[cos^2 x]`` = 3.0057 on average.

    Sample means stay within five standard errors, taken over clients: their points are dependent.
    """
    x, y = points(opened(), 20_000)
    mean_square_amplitude = (5**3 - 0.1**3) / (3 * 4.9)
    mean_square_cosine = 1 / 2 + sin(10) / 20
    expected = mean_square_amplitude / 2 - (5.1 / pi) ** 2 * mean_square_cosine
    assert expected == pytest.approx(3.0057, abs=5e-5)
    errors = ((y + 5.1 / pi * np.cos(x)) ** 2).mean(axis=1)
    five_errors = 5 * errors.std() / sqrt(len(errors))
    assert five_errors < 0.15
    assert abs(errors.mean() - expected) < five_errors


def test_predicting_zero_costs_half_the_mean_square_amplitude() -> None:
    """4.2517, within five standard errors."""
    _, y = points(opened(), 20_000)
    expected = (5**3 - 0.1**3) / (3 * 4.9) / 2
    assert expected == pytest.approx(4.2517, abs=5e-5)
    errors = (y**2).mean(axis=1)
    assert abs(errors.mean() - expected) < 5 * errors.std() / sqrt(len(errors))


def test_a_shard_is_finite() -> None:
    """50 episodes of 10 out of 12 points: all 12 come, and no other."""
    federation = opened()
    drawn = federation.draw(np.array([3]), 50, 0, "train", 0)
    assert len(torch.unique(torch.cat([drawn.support.x, drawn.query.x], dim=2))) == 12
    assert federation.examples(np.array([3, 4])).tolist() == [12, 12]


def test_a_shard_that_is_used_up_exactly() -> None:
    drawn = opened(shots=4, queries=8).draw(np.array([3]), 1, 0, "train", 0)
    assert len(torch.unique(torch.cat([drawn.support.x, drawn.query.x], dim=2))) == 12


def test_float32_is_float64_rounded() -> None:
    dataset = Sinusoid(shots=4, queries=6, clients=COUNTS, examples=12)
    address = np.arange(3), 2, 0, "train", 0
    double, single = (
        dataset.open(0, torch.device("cpu"), dtype).draw(*address)
        for dtype in (torch.float64, torch.float32)
    )
    assert torch.equal(double.query.y.float(), single.query.y)


# Shards of unequal size


def unequal(**changes) -> Sinusoid:
    return Sinusoid(**({"shots": 2, "queries": None, "clients": COUNTS, "examples": 9} | changes))


def federation_of(dataset: Sinusoid, seed: int = 0) -> SinusoidFederation:
    return dataset.open(seed, torch.device("cpu"), torch.float64)


def test_sizes_are_uniform_from_least_to_most() -> None:
    """2000 of 20,000 clients for each of the sizes 5 to 14."""
    federation = federation_of(unequal(examples=14, least_examples=5))
    sizes, counts = np.unique(federation.examples(np.arange(20_000)), return_counts=True)
    assert sizes.tolist() == list(range(5, 15))
    assert chisquare(counts).pvalue > SIGNIFICANT
    held = federation.examples(np.array([7, 3]))
    assert held.tolist() == [federation.examples(np.array([c]))[0] for c in (7, 3)]


def test_the_size_of_a_shard_tells_nothing_of_its_sine() -> None:
    """The correlation of 20,000 independent pairs is normal with deviation 1 / sqrt(20,000)."""
    federation = federation_of(unequal(least_examples=4))
    ids = np.arange(20_000)
    for part in federation.wave(ids)[:2]:
        assert abs(np.corrcoef(part, federation.examples(ids))[0, 1]) < 4 / sqrt(20_000)


@pytest.mark.parametrize("purpose", ["train", "evaluate"])
def test_null_queries_are_the_rest_of_the_shard(purpose: Purpose) -> None:
    """An episode is all of the shard, every point once, in another order for each draw."""
    federation = federation_of(unequal(least_examples=4))
    for client in range(30):
        ids = np.array([client])
        (size,) = federation.examples(ids)
        assert federation.lengths(ids, purpose).tolist() == [size]
        support, query = federation.draw(ids, 2, 0, purpose).draw(0)
        assert (support.x.shape[1], query.x.shape[1]) == (2, size - 2)
        one, other = torch.cat([support.x, query.x], dim=1)[..., 0]
        assert len(set(one.tolist())) == size
        assert sorted(one.tolist()) == sorted(other.tolist())


def test_an_unequal_shard_is_the_beginning_of_the_equal_one() -> None:
    """So a client's points do not move where another one's number is changed."""
    few, many = (federation_of(unequal(least_examples=least)) for least in (4, None))
    for client in range(30):
        mine, whole = (
            {
                x
                for part in f.draw(np.array([client]), 1, 0, "train", 0)
                for x in part.x.flatten().tolist()
            }
            for f in (few, many)
        )
        assert mine <= whole
        assert len(whole) == 9


def test_the_size_of_an_episode_may_be_fixed_where_shards_are_not() -> None:
    """50 episodes of 2 and 2: all points of each shard come, and as many as it holds."""
    federation, ids = federation_of(unequal(queries=2, least_examples=4)), np.arange(30)
    assert federation.lengths(ids, "train").tolist() == [4] * 30
    drawn = federation.draw(ids, 50, 0, "train", 0)
    x = torch.cat([drawn.support.x, drawn.query.x], dim=2)
    assert [len(torch.unique(x[i])) for i in range(30)] == federation.examples(ids).tolist()


# Frequencies


@given(seed=st.integers(0, 2**31), client=st.integers(0, 20_001))
@settings(derandomize=True, deadline=None, max_examples=25)
def test_a_wave_of_any_frequency_goes_through_the_points(seed: int, client: int) -> None:
    """``A cos p sin fx - A sin p cos fx``, for which the fit leaves nothing over at the client's f."""
    federation = federation_of(unequal(frequencies=[0.8, 1.2]), seed)
    ids = np.array([client])
    support, query = federation.draw(ids, 1, seed, "train", 0)
    amplitude, phase, frequency = (part[0] for part in federation.wave(ids))
    for x, y in ((values.flatten().numpy() for values in part) for part in (support, query)):
        angle = frequency * x
        expected = amplitude * (np.cos(phase) * np.sin(angle) - np.sin(phase) * np.cos(angle))
        np.testing.assert_allclose(y, expected, atol=1e-12, rtol=0)


def test_frequencies_are_uniform_over_their_range_and_of_their_own() -> None:
    _, _, frequency = (
        wave := federation_of(unequal(frequencies=[0.8, 1.2])).wave(np.arange(20_000))
    )
    assert 0.8 <= frequency.min() < frequency.max() <= 1.2
    assert kstest(frequency, "uniform", args=(0.8, 0.4)).pvalue > SIGNIFICANT
    for other in wave[:2]:
        assert abs(np.corrcoef(other, frequency)[0, 1]) < 4 / sqrt(20_000)


def test_frequencies_move_neither_points_nor_sines() -> None:
    """Without them every frequency is 1, exactly."""
    plain, drawn = (federation_of(unequal(**more)) for more in ({}, {"frequencies": [0.8, 1.2]}))
    ids = np.arange(5)
    assert (plain.wave(ids)[2] == 1).all()
    for mine, theirs in zip(plain.wave(ids)[:2], drawn.wave(ids)[:2], strict=True):
        assert np.array_equal(mine, theirs)
    x, other = (f.draw(ids, 1, 0, "train", 0).query.x for f in (plain, drawn))
    assert torch.equal(x, other)


# Episodes of evaluation


@pytest.mark.parametrize(
    ("changes", "train", "evaluate"),
    [
        ({}, (4, 6), (4, 6)),
        ({"shots": 2}, (4, 6), (2, 6)),
        ({"queries": 1}, (4, 6), (4, 1)),
        ({"shots": 1, "queries": 11}, (4, 6), (1, 11)),
    ],
)
def test_episodes_of_evaluation_may_be_of_other_sizes(changes, train, evaluate) -> None:
    federation = federation_of(
        Sinusoid(shots=4, queries=6, clients=COUNTS, examples=12, evaluation=Changes(**changes))
    )
    ids = np.arange(3)
    for purpose, (shots, queries) in (("train", train), ("evaluate", evaluate)):
        drawn = federation.draw(ids, 2, 0, purpose)
        assert drawn.support.y.shape == (3, 2, shots, 1)
        assert drawn.query.y.shape == (3, 2, queries, 1)
        assert federation.lengths(ids, purpose).tolist() == [shots + queries] * 3


def test_evaluation_can_ask_for_a_few_where_training_takes_all() -> None:
    dataset = unequal(least_examples=4, evaluation=Changes(shots=1, queries=3))
    drawn = federation_of(dataset).draw(np.arange(30), 1, 0, "evaluate")
    assert (drawn.support.y.shape[2], drawn.query.y.shape[2]) == (1, 3)


# What can be wrong with the settings


OUT_OF_RANGE = [
    ({"shots": 0}, r"data\.shots must be 1 or more, got 0"),
    ({"queries": 0}, r"data\.queries must be 1 or more, got 0"),
    ({"evaluation": Changes(shots=0)}, r"data\.evaluation\.shots must be 1 or more, got 0"),
    ({"evaluation": Changes(queries=0)}, r"data\.evaluation\.queries must be 1 or more, got 0"),
    ({"least_examples": 6}, r"data\.least_examples must be at most the 5 examples, got 6"),
    *(
        (
            {"frequencies": values},
            rf"data\.frequencies must be \[lowest, highest\] above 0, got {re.escape(str(values))}",
        )
        for values in ([], [1.0], [1.0, 1.0, 1.0], [0.0, 1.0], [-1.0, 1.0], [2.0, 1.0],
                       [nan, 1.0], [1.0, nan], [1.0, inf])
    ),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "message"), OUT_OF_RANGE)
def test_settings_out_of_range(settings, message: str) -> None:
    plain = {"shots": 1, "queries": 1, "clients": COUNTS, "examples": 5}
    with pytest.raises(ConfigError, match=f"^{message}$"):
        Sinusoid(**(plain | settings))


def test_a_shard_too_small_for_an_episode() -> None:
    with pytest.raises(DataError, match=r"client 0 holds 9 .* 4 \(shots\) \+ 6 \(queries\) = 10$"):
        opened(shots=4, queries=6, examples=9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"least_examples": 4, "queries": 3}, r"holds 4 .* 2 \(shots\) \+ 3 \(queries\) = 5$"),
        ({"least_examples": 2}, r"holds 2 .* 2 \(shots\) \+ 1 \(queries\) = 3$"),
        ({"least_examples": -1}, r"holds -1 .* 2 \(shots\) \+ 1 \(queries\) = 3$"),
        ({"evaluation": Changes(shots=9)}, r"holds 9 .* 9 \(shots\) \+ 1 \(queries\) = 10$"),
        ({"evaluation": Changes(queries=8)}, r"holds 9 .* 2 \(shots\) \+ 8 \(queries\) = 10$"),
    ],
)
def test_the_smallest_shard_has_an_episode_of_every_purpose(settings, message: str) -> None:
    with pytest.raises(DataError, match=message):
        unequal(**settings)


# Examples that are held out


def holding(**settings) -> SinusoidFederation:
    few = ClientCounts(train=8, val=2, test=5)
    dataset = Sinusoid(shots=3, queries=3, clients=few, examples=16, **settings)
    return dataset.open(0, torch.device("cpu"), torch.float64)


@pytest.mark.parametrize("least", [None, 12])
def test_training_never_draws_what_is_held_out(least) -> None:
    """Of 16 (or 12 to 16) points 4 are held out; clients that took part are asked about these alone."""
    federation = holding(least_examples=least, held_out=4, evaluation=Changes(queries=2))
    for client in range(4):
        which = np.array([client])
        drawn = [federation.draw(which, 30, 0, "train", round) for round in range(5)]
        trained = {x for e in drawn for part in e for x in part.x.flatten().tolist()}
        assert len(trained) == int(federation.examples(which)[0]) - 4
        scored = federation.draw(which, 60, 0, "evaluate")
        support, query = (set(part.x.flatten().tolist()) for part in scored)
        assert support <= trained
        assert len(query) == 4
        assert not query & trained


def test_unseen_clients_have_nothing_held_out() -> None:
    free, held = (holding(held_out=h) for h in (0, 4))
    test = np.array(free.clients("test"))[:5]
    a, b = (f.draw(test, 2, 0, "evaluate") for f in (free, held))
    assert all(x.equal(y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"held_out": -1}, ConfigError, r"data\.held_out must be 0 or more, got -1"),
        ({"held_out": 2}, DataError, r"data\.held_out must be 0 or, .* 3 \(queries\) .*, got 2"),
        ({"held_out": 11}, DataError, r"client 0 holds 5 examples, an episode needs 3 \(shots\)"),
    ],
)
def test_what_is_held_out_must_fit(changes, error, message: str) -> None:
    with pytest.raises(error, match=message):
        holding(**changes)
