from math import pi, sin, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import kstest

from fedmeta.data.federation import ClientCounts
from fedmeta.data.sinusoid import Sinusoid, SinusoidFederation
from fedmeta.errors import ConfigError, DataError

COUNTS = ClientCounts(train=20_000, val=1, test=1)
SIGNIFICANT = 1e-3  # the seed is fixed: a p-value above this once is above it for ever


def opened(
    seed: int = 0, shots: int = 4, queries: int = 6, examples: int = 12
) -> SinusoidFederation:
    dataset = Sinusoid(shots, queries, COUNTS, examples)
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
    amplitude, phase = federation.wave(ids)
    expected = [*(amplitude * np.cos(phase)), *(-amplitude * np.sin(phase))]
    np.testing.assert_allclose(found, expected, atol=1e-12, rtol=0)
    x, y = (values.flatten().numpy() for values in drawn.support)
    np.testing.assert_allclose(found[0] * np.sin(x) + found[1] * np.cos(x), y, atol=1e-12, rtol=0)


def test_waves_and_points_are_uniform_over_their_ranges() -> None:
    federation = opened()
    amplitude, phase = federation.wave(np.arange(20_000))
    x, _ = points(federation, 2_000)
    for values, low, high in ((amplitude, 0.1, 5), (phase, 0, pi), (x.ravel(), -5, 5)):
        assert low <= values.min() < values.max() <= high
        assert kstest(values, "uniform", args=(low, high - low)).pvalue > SIGNIFICANT


def test_amplitude_and_phase_are_independent() -> None:
    """The correlation of 20,000 independent pairs is normal with deviation 1 / sqrt(20,000)."""
    amplitude, phase = opened().wave(np.arange(20_000))
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
    dataset = Sinusoid(4, 6, COUNTS, 12)
    address = np.arange(3), 2, 0, "train", 0
    double, single = (
        dataset.open(0, torch.device("cpu"), dtype).draw(*address)
        for dtype in (torch.float64, torch.float32)
    )
    assert torch.equal(double.query.y.float(), single.query.y)


@pytest.mark.parametrize("key", ["shots", "queries"])
def test_settings_out_of_range(key: str) -> None:
    settings = {"shots": 1, "queries": 1, "clients": COUNTS, "examples": 5}
    with pytest.raises(ConfigError, match=rf"^data\.{key} must be 1 or more, got 0$"):
        Sinusoid(**(settings | {key: 0}))


def test_a_shard_too_small_for_an_episode() -> None:
    with pytest.raises(DataError, match=r"client 0 holds 9 .* 4 \(shots\) \+ 6 \(queries\) = 10$"):
        opened(shots=4, queries=6, examples=9)
