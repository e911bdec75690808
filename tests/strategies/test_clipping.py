"""Geometric median and clipping: closed forms, scipy's minimiser, and bounds on what attackers can do."""

from math import inf, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from strategies.clipping import centred_clipping, clipped_mean, geometric_median

EXACT = {"iterations": 20_000, "tolerance": 1e-12}


def draw(clients: int, numbers: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(clients, numbers, generator=generator, dtype=torch.float64)


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(found: Tensor, expected: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def test_the_geometric_median_of_an_equilateral_triangle_is_its_centroid() -> None:
    corners = torch.stack([row(0, 0), row(1, 0), row(1 / 2, sqrt(3) / 2)])
    found = geometric_median(corners, torch.ones(3), **EXACT)
    close(found.delta, corners.mean(dim=0), 1e-10)
    close(found.weights, torch.full((3,), 1 / 3).double(), 1e-7)


def test_the_fermat_point_of_a_triangle() -> None:
    """Of (-1, 0), (1, 0) and (0, h): (0, 1 / sqrt(3)), from where all corners are 120 degrees apart."""
    corners = torch.stack([row(-1, 0), row(1, 0), row(0, 3)])
    close(geometric_median(corners, torch.ones(3), **EXACT).delta, row(0, 1 / sqrt(3)), 1e-10)


def test_on_a_line_it_is_the_median() -> None:
    found = geometric_median(torch.stack([row(0), row(1), row(10)]), torch.ones(3))
    close(found.delta, row(1), 1e-5)  # nu keeps it from the point itself by some 1e-6
    assert found.weights[1] > 1 - 1e-4


@pytest.mark.parametrize("seed", range(5))
def test_the_geometric_median_is_that_of_a_general_minimiser(seed: int) -> None:
    points = draw(9, 3, seed)
    weights = torch.rand(9, generator=torch.Generator().manual_seed(seed)) + 0.1

    def slope(z: np.ndarray) -> np.ndarray:
        away = torch.from_numpy(z) - points
        return (weights.double() @ (away / away.norm(dim=1, keepdim=True))).numpy()

    best = minimize(
        lambda z: float(weights.double() @ (points - torch.from_numpy(z)).norm(dim=1)),
        points.mean(dim=0).numpy(),
        jac=slope,
        method="BFGS",
        options={"gtol": 1e-10},
    )
    found = geometric_median(points, weights, **EXACT).delta
    close(found, torch.from_numpy(best.x), 2e-6)  # nu, where the minimum is one of the points


def test_the_default_tolerance_is_close() -> None:
    points = draw(40, 30)
    found = geometric_median(points, torch.ones(40)).delta
    spread = float((points - found).norm(dim=1).mean())
    gap = float((found - geometric_median(points, torch.ones(40), **EXACT).delta).norm())
    assert gap < 1e-4 * spread


def test_weights_are_clients_that_come_several_times() -> None:
    points = draw(5, 3)
    times = torch.tensor([1, 4, 2, 1, 3])
    found = geometric_median(points, times, **EXACT).delta
    repeated = geometric_median(points.repeat_interleave(times, 0), torch.ones(11), **EXACT).delta
    close(found, repeated, 1e-9)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.4])
@pytest.mark.parametrize("size", [1e3, 1e6, 1e15])
def test_attackers_move_the_geometric_median_by_a_bounded_distance(
    share: float, size: float
) -> None:
    """Lopuhaa and Rousseeuw 1991: by at most 2 (1 - a) / (1 - 2 a) times the honest radius."""
    honest = draw(20 - round(20 * share), 10).float()
    stack = torch.cat([honest, torch.full((round(20 * share), 10), size)])
    found = geometric_median(stack, torch.ones(20)).delta
    middle = honest.mean(dim=0)
    radius = (honest - middle).norm(dim=1).max()
    assert (found - middle).norm() <= 2 * (1 - share) / (1 - 2 * share) * radius


def test_the_result_is_the_mix_that_the_weights_say() -> None:
    stack, centre = draw(7, 4), draw(1, 4, seed=1)[0]
    delta, weights = geometric_median(stack, torch.ones(7))
    close(delta, weights @ stack)
    close(weights.sum(), row(1)[0])
    delta, weights = clipped_mean(stack, torch.arange(1.0, 8), 1.5)
    close(delta, weights @ stack)
    for iterations in (1, 2, 5):
        delta, weights = centred_clipping(stack, centre, 1.5, iterations)
        close(delta, weights @ stack + (1 - weights.sum()) * centre)
        assert 0 < weights.sum() < 1


def test_clipping_by_hand() -> None:
    """(3, 4) is five long and becomes (0.6, 0.8); what is short stays; so does what is nothing."""
    stack = torch.stack([row(3, 4), row(0.5, 0), row(0, 0)])
    found = clipped_mean(stack, row(1, 2, 1), 1.0)
    close(found.delta, row(0.6 + 2 * 0.5, 0.8) / 4)
    close(found.weights, row(1 / 5, 2, 1) / 4)


@pytest.mark.parametrize("iterations", [1, 3])
def test_centred_clipping_is_that_of_the_paper(iterations: int) -> None:
    """Karimireddy et al. 2021."""
    stack, v, radius = draw(6, 5), draw(1, 5, seed=1)[0], 1.2
    expected = v
    for _ in range(iterations):
        steps = [(x - expected) * min(1, radius / float((x - expected).norm())) for x in stack]
        expected = expected + sum(steps) / len(stack)
    close(centred_clipping(stack, v, radius, iterations).delta, expected)


def test_without_a_bound_clipping_is_the_mean() -> None:
    stack, weights = draw(6, 5), row(1, 2, 3, 4, 5, 6)
    close(clipped_mean(stack, weights, inf).delta, weights / weights.sum() @ stack)
    close(centred_clipping(stack, stack[0], inf).delta, stack.mean(dim=0))


@pytest.mark.parametrize("size", [1e3, 1e15])
def test_one_client_moves_a_clipped_mean_by_its_share_of_twice_the_radius(size: float) -> None:
    stack, centre, radius = draw(10, 5), torch.zeros(5).double(), 2.0
    attacked = torch.cat([stack[:-1], torch.full((1, 5), size, dtype=torch.float64)])
    for rule in (
        lambda x: clipped_mean(x, torch.ones(10), radius).delta,
        lambda x: centred_clipping(x, centre, radius).delta,
    ):
        moved = float((rule(attacked) - rule(stack)).norm())
        assert 0 < moved <= 2 * radius / 10


@given(st.integers(0, 1000), st.integers(-50, 50))
@settings(max_examples=25, deadline=None)
def test_order_and_origin_leave_no_trace(seed: int, shift: int) -> None:
    """The median of each number, where the search begins, moves along; so do all steps."""
    stack, weights, centre = draw(7, 3, seed), draw(7, 1, seed + 1)[:, 0].exp(), draw(1, 3, seed)[0]
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    found = geometric_median(stack, weights)
    mixed, moved = (
        geometric_median(stack[order], weights[order]),
        geometric_median(stack + shift, weights),
    )
    close(mixed.delta, found.delta, 1e-6)
    close(moved.delta, found.delta + shift, 1e-6)
    clipped = centred_clipping(stack, centre, 1.0, 2).delta
    close(centred_clipping(stack[order], centre, 1.0, 2).delta, clipped)
    close(centred_clipping(stack + shift, centre + shift, 1.0, 2).delta, clipped + shift)


def test_attackers_far_away_cost_no_steps() -> None:
    """From the mean, which they move by 3e5, each step would leave some 3 / 7 of the way."""
    honest = draw(14, 10)
    stack = torch.cat([honest, torch.full((6, 10), 1e6, dtype=torch.float64)])
    few = geometric_median(stack, torch.ones(20), iterations=3).delta
    settled = geometric_median(stack, torch.ones(20), **EXACT).delta
    assert (few - settled).norm() < 0.2 * (honest - settled).norm(dim=1).mean()
