"""Bulyan beside the paper's two steps, written plainly."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedmeta.errors import ConfigError
from strategies.bulyan import around_median, bulyan, repeated_krum
from strategies.krum import krum, squared_distances


def draw(clients: int, numbers: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(clients, numbers, generator=generator, dtype=torch.float64)


def plain_krum(vectors: dict[int, np.ndarray], f: int) -> int:
    """Among those that are left; without a neighbour to compare with the sums are empty."""
    neighbours = max(len(vectors) - f - 2, 0)
    totals = {
        i: sum(
            sorted(float(((v - u) ** 2).sum()) for j, u in vectors.items() if j != i)[:neighbours]
        )
        for i, v in vectors.items()
    }
    return min(totals, key=lambda i: totals[i])


def plain_bulyan(stack: np.ndarray, f: int) -> tuple[list[int], np.ndarray]:
    """El Mhamdi et al. 2018: theta = n - 2f picks, then beta = theta - 2f values a number."""
    left, picked = dict(enumerate(stack)), []
    for _ in range(len(stack) - 2 * f):
        picked.append(plain_krum(left, f))
        del left[picked[-1]]
    numbers = []
    for values in stack[picked].T:
        middle = np.median(values)
        nearest = sorted(values, key=lambda value: abs(value - middle))[: len(stack) - 4 * f]
        numbers.append(sum(nearest) / len(nearest))
    return picked, np.array(numbers)


@pytest.mark.parametrize(
    ("clients", "attackers"), [(3, 0), (7, 1), (8, 1), (11, 2), (15, 3), (24, 4), (41, 9)]
)
@pytest.mark.parametrize("seed", range(3))
def test_bulyan_is_that_of_the_paper(clients: int, attackers: int, seed: int) -> None:
    stack = draw(clients, 6, seed)
    picked, expected = plain_bulyan(stack.numpy(), attackers)
    found = repeated_krum(squared_distances(stack), attackers, clients - 2 * attackers)
    assert found.tolist() == picked
    np.testing.assert_allclose(bulyan(stack, attackers).numpy(), expected, rtol=1e-12, atol=1e-14)


def test_the_first_pick_is_that_of_krum() -> None:
    stack = draw(15, 6)
    assert repeated_krum(squared_distances(stack), 3, 1)[0] == krum(stack, 3).weights.argmax()


@pytest.mark.parametrize(
    ("values", "keep", "expected"),
    [
        ([0, 1, 2, 10], 2, (1 + 2) / 2),
        ([0, 5, 6, 7, 100], 3, (5 + 6 + 7) / 3),
        ([0, 1, 2, 3, 100, 101, 102], 3, (1 + 2 + 3) / 3),
        ([0, 50, 60, 99, 100, 101, 102], 5, (60 + 99 + 100 + 101 + 102) / 5),
        ([1, 2, 3], 3, 2),
        ([4, 5, 6], 2, (4 + 5) / 2),  # 4 and 6 are as far from 5: the smaller one
    ],
)
def test_values_around_the_median(values: list[float], keep: int, expected: float) -> None:
    assert around_median(np.array([values], float), keep).tolist() == [expected]


@pytest.mark.parametrize("size", [1e6, -1e6, 1e30])
@pytest.mark.parametrize("attackers", [1, 2, 3])
def test_outliers_leave_the_result_within_the_range_of_the_honest(
    attackers: int, size: float
) -> None:
    honest = draw(3 * attackers + 3, 50).float()
    stack = torch.cat([torch.full((attackers, 50), size), honest])
    found = bulyan(stack, attackers)
    assert bool(((honest.amin(dim=0) <= found) & (found <= honest.amax(dim=0))).all())


def test_an_attacker_cannot_hide_in_one_number() -> None:
    """The paper's attack: the mean of the honest but for one number. Krum takes it, Bulyan does not."""
    honest = draw(10, 400)
    attacker = honest.mean(dim=0)
    attacker[0] += 10
    stack = torch.cat([attacker[None], honest])
    assert krum(stack, 2).weights.argmax() == 0
    assert abs(bulyan(stack, 2)[0]) <= honest[:, 0].abs().max() < 10 - 1


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_order_and_origin_leave_no_trace(seed: int) -> None:
    """With three attackers the last pick has two neighbours, and no tie."""
    stack = draw(15, 4, seed)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(bulyan(stack[order], 3), bulyan(stack, 3))
    torch.testing.assert_close(bulyan(stack + 7, 3), bulyan(stack, 3) + 7)


def test_without_attackers_it_is_the_mean() -> None:
    stack = draw(5, 6)
    torch.testing.assert_close(bulyan(stack, 0), stack.mean(dim=0))


def test_too_few_clients_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"strategy\.attackers 2 needs 11 clients or more, got 10"
    ):
        bulyan(draw(10, 2), 2)
