"""Krum and Multi-Krum beside the paper's sums, and distances that keep their digits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedmeta.errors import ConfigError
from strategies.krum import COLUMNS, krum, multi_krum, scores, squared_distances

LINE = torch.tensor([[0.0], [1.0], [3.0], [10.0], [11.0]])


def draw(clients: int, numbers: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(clients, numbers, generator=generator, dtype=torch.float64)


def plain_scores(vectors: list[np.ndarray], f: int) -> list[float]:
    """Blanchard et al. 2017: s(i) = sum over the n - f - 2 closest j != i of |V_i - V_j|^2."""
    n = len(vectors)
    return [
        sum(sorted(float(((v - u) ** 2).sum()) for j, u in enumerate(vectors) if j != i)[: n - f - 2])
        for i, v in enumerate(vectors)
    ]  # fmt: skip


def test_scores_by_hand() -> None:
    """Five on a line and one attacker: each has two neighbours, n - f - 2."""
    expected = [1 + 9, 1 + 4, 4 + 9, 1 + 49, 1 + 64]
    assert scores(squared_distances(LINE), attackers=1).tolist() == expected
    assert krum(LINE, 1).delta.item() == 1
    assert krum(LINE, 1).weights.tolist() == [0, 1, 0, 0, 0]
    assert multi_krum(LINE, 1, keep=3).delta.item() == pytest.approx((0 + 1 + 3) / 3, rel=1e-7)


@pytest.mark.parametrize(("clients", "attackers"), [(3, 0), (5, 1), (9, 2), (12, 3), (30, 13)])
@pytest.mark.parametrize("seed", range(3))
def test_krum_is_that_of_the_paper(clients: int, attackers: int, seed: int) -> None:
    stack = draw(clients, 7, seed)
    expected = plain_scores(list(stack.numpy()), attackers)
    found = scores(squared_distances(stack), attackers)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    best = np.argsort(expected, kind="stable")
    for keep in (1, clients - attackers):
        delta, weights = multi_krum(stack, attackers, keep)
        assert sorted(weights.nonzero().flatten().tolist()) == sorted(best[:keep].tolist())
        torch.testing.assert_close(delta, stack[best[:keep].copy()].mean(dim=0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_output_of_krum_is_one_of_the_inputs(dtype: torch.dtype) -> None:
    stack = draw(11, 40).to(dtype)
    delta, weights = krum(stack, 4)
    assert torch.equal(delta, stack[int(weights.argmax())])
    assert weights.sum() == 1


@pytest.mark.parametrize("size", [1e6, 1e15, 1e30, 1e38])
def test_attackers_are_not_kept(size: float) -> None:
    """At 1e30 a float32 square is infinite; two of them are then of no known distance."""
    honest, attackers = draw(9, 50).float(), 3
    signs = torch.tensor([[1.0], [-1.0], [1.0]])
    stack = torch.cat([size * signs * torch.ones(50), honest])
    for keep in (1, 9):
        weights = multi_krum(stack, attackers, keep).weights
        assert weights[:attackers].sum() == 0
        assert weights.sum() == pytest.approx(1)


def test_keeping_all_is_the_mean() -> None:
    stack = draw(8, 5)
    torch.testing.assert_close(multi_krum(stack, 0, keep=8).delta, stack.mean(dim=0))


def test_among_equals_the_first_is_taken() -> None:
    stack = torch.tensor([[5.0], [0.0], [0.0], [0.0], [0.0]])
    assert krum(stack, 1).weights.tolist() == [0, 1, 0, 0, 0]


@given(st.integers(0, 1000), st.integers(2, 4))
@settings(max_examples=30, deadline=None)
def test_order_and_origin_leave_no_trace(seed: int, attackers: int) -> None:
    """With two neighbours or more: each of a nearest pair would have the same score."""
    stack = draw(2 * attackers + 3, 4, seed)
    order = torch.randperm(len(stack), generator=torch.Generator().manual_seed(seed))
    delta, weights = multi_krum(stack, attackers, keep=2)
    mixed, moved = multi_krum(stack[order], attackers, 2), multi_krum(stack + 7, attackers, 2)
    assert torch.equal(mixed.weights, weights[order])
    assert torch.equal(moved.weights, weights)
    torch.testing.assert_close(mixed.delta, delta)
    torch.testing.assert_close(moved.delta, delta + 7)


def test_distances_survive_what_all_deltas_share() -> None:
    """Higham 2002, section 3.1: a float32 product of k numbers is off by at most k u |x| |y|, u = 2^-24.

    So a squared distance is off by k u (|x| + |y|)^2, which is small only without the common part. Here
    that is 10^4 times what clients differ in.
    """
    generator = torch.Generator().manual_seed(0)
    drift = 1e4 * torch.randn(COLUMNS + 500, generator=generator)
    stack = drift + torch.randn(12, len(drift), generator=generator)
    exact = stack.double()
    true = (exact[:, None] - exact[None]).square().sum(dim=2).numpy()
    lengths = (exact - exact.median(dim=0).values).norm(dim=1).numpy()
    bound = (
        2 * COLUMNS * 2.0**-24 * (lengths[:, None] + lengths) ** 2
    )  # 2: the centre is rounded too
    others = ~np.eye(len(stack), dtype=bool)
    assert (abs(squared_distances(stack) - true) < bound)[others].all()
    squares = stack.square().sum(dim=1)
    naive = (squares[:, None] + squares - 2 * stack @ stack.T).numpy()
    assert (abs(naive - true) > bound)[others].all()


def test_distances_are_symmetric_and_nobody_is_a_neighbour_of_oneself() -> None:
    found = squared_distances(draw(6, 3))
    assert np.array_equal(found, found.T)
    assert np.isinf(np.diag(found)).all()


def test_too_few_clients_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"strategy\.attackers 2 needs 7 clients or more, got 6"):
        krum(draw(6, 2), 2)
    with pytest.raises(
        ConfigError, match=r"strategy\.keep 7 with .* needs 9 clients or more, got 8"
    ):
        multi_krum(draw(8, 2), 2, 7)
