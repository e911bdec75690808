"""Means of deltas: as arithmetic says, whoever answers first and wherever a client sits."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fedmeta.replies import Replies, summed
from fedmeta.types import Params
from strategies.optimizers import ServerOptimizer
from strategies.rules import Rules
from strategies.weighting import ByColumn

UNIT = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}
CLIENTS, PARTITIONS = 12, 20


def weighted_mean(replies: list[Replies], column: str) -> Params:
    return Rules(ByColumn(column), ServerOptimizer("SGD", 1.0)).combine(replies, {}, {}).delta


def answer(deltas: dict[int, list[float]], examples: list[int]) -> Replies:
    """One node's reply, a delta of two numbers for each client."""
    return Replies(
        list(deltas),
        {"w": torch.tensor(list(deltas.values()))},
        {"examples": torch.tensor(examples, dtype=torch.float64)},
    )


def cohort(dtype: torch.dtype, seed: int = 0) -> Replies:
    """Many clients on one node, with params of rank 0, 1 and 2."""
    generator = torch.Generator().manual_seed(seed)
    deltas = {
        name: torch.randn(CLIENTS, *shape, generator=generator, dtype=dtype)
        for name, shape in {"matrix": (5, 4), "vector": (3,), "scalar": ()}.items()
    }
    examples = torch.randint(1, 100, (CLIENTS,), generator=generator)
    return Replies(list(range(100, 100 + CLIENTS)), deltas, {"examples": examples})


def scatter(replies: Replies, seed: int) -> list[Replies]:
    """The same clients in another order on one to five nodes, none of them empty."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(CLIENTS)
    cuts = generator.choice(np.arange(1, CLIENTS), size=generator.integers(0, 5), replace=False)
    return [pick(replies, torch.tensor(block)) for block in np.split(order, np.sort(cuts))]


def pick(replies: Replies, index: Tensor) -> Replies:
    return Replies(
        [replies.clients[i] for i in index.tolist()],
        {name: values[index] for name, values in replies.deltas.items()},
        {name: values[index] for name, values in replies.columns.items()},
    )


def rounding_bound(replies: Replies, weight: str, dtype: torch.dtype) -> Params:
    """How far two orders of one weighted mean of n terms can be apart.

    Higham 2002, section 3.1: an inner product of n terms is off by at most g(n) sum |w_c d_c| with
    g(k) = k u / (1 - k u), in any order. Rounding the weights and the division adds two to n; two
    results differ by at most twice that.
    """
    k = CLIENTS + 2
    growth = k * UNIT[dtype] / (1 - k * UNIT[dtype])
    absolute = {name: values.double().abs() for name, values in replies.deltas.items()}
    mean = weighted_mean([Replies(replies.clients, absolute, replies.columns)], weight)
    return {name: 2 * growth * values for name, values in mean.items()}


def test_the_mean_is_weighted_with_the_number_of_examples() -> None:
    replies = [answer({0: [1.0, 2.0]}, [1]), answer({1: [4.0, -2.0]}, [3])]
    expected = [(1 * 1.0 + 3 * 4.0) / 4, (1 * 2.0 + 3 * -2.0) / 4]
    assert weighted_mean(replies, "examples")["w"].tolist() == expected


def test_a_uniform_mean_does_not_look_at_examples() -> None:
    replies = [answer({0: [1.0, 2.0]}, [1]), answer({1: [4.0, -2.0]}, [3])]
    assert weighted_mean(replies, "one")["w"].tolist() == [(1.0 + 4.0) / 2, (2.0 - 2.0) / 2]


def test_stacked_and_summed_replies_mix() -> None:
    """The sum of client 1 is 3 x delta; a mean that divided twice, or not at all, would show."""
    stacked = answer({0: [1.0, 2.0], 2: [8.0, 0.0]}, [1, 4])
    total = summed(answer({1: [4.0, -2.0]}, [3]), "examples")
    expected = [(1 * 1.0 + 3 * 4.0 + 4 * 8.0) / 8, (1 * 2.0 + 3 * -2.0) / 8]
    assert weighted_mean([stacked, total], "examples")["w"].tolist() == expected
    assert weighted_mean([total, stacked], "examples")["w"].tolist() == expected


@pytest.mark.parametrize("weight", ["examples", "one"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_order_and_nodes_leave_no_trace_in_stacked_replies(weight: str, dtype: torch.dtype) -> None:
    whole = cohort(dtype)
    expected = weighted_mean([whole], weight)
    for seed in range(PARTITIONS):
        found = weighted_mean(scatter(whole, seed), weight)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("weight", ["examples", "one"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_of_nodes_agree_to_rounding(weight: str, dtype: torch.dtype) -> None:
    whole = cohort(dtype)
    expected, bound = weighted_mean([whole], weight), rounding_bound(whole, weight, dtype)
    for seed in range(PARTITIONS):
        parts = [summed(part, weight) for part in scatter(whole, seed)]
        found = weighted_mean(parts, weight)
        for name, values in expected.items():
            assert ((found[name] - values).abs() <= bound[name]).all()
            if dtype == torch.float64:
                torch.testing.assert_close(found[name], values, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_deltas_have_themselves_as_mean(dtype: torch.dtype) -> None:
    """Whatever the weights. Higham's bound again: |mean - d| <= g(n + 2) |d|."""
    whole = cohort(dtype)
    equal = {name: values[:1].expand_as(values) for name, values in whole.deltas.items()}
    found = weighted_mean([Replies(whole.clients, equal, whole.columns)], "examples")
    k = (CLIENTS + 2) * UNIT[dtype]
    for name, values in equal.items():
        torch.testing.assert_close(found[name], values[0], rtol=k / (1 - k), atol=0)


@pytest.mark.parametrize("weight", ["examples", "one"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_mean_has_the_shapes_and_dtypes_of_the_params(weight: str, dtype: torch.dtype) -> None:
    whole = cohort(dtype)
    for replies in ([whole], [summed(whole, weight)]):
        for name, values in weighted_mean(replies, weight).items():
            assert values.shape == whole.deltas[name].shape[1:]
            assert values.dtype == dtype


def test_the_mean_leaves_the_replies_alone() -> None:
    whole, twin = cohort(torch.float32), cohort(torch.float32)
    weighted_mean([whole], "examples")
    assert all(torch.equal(whole.deltas[name], twin.deltas[name]) for name in twin.deltas)


def test_a_weight_beyond_float32_still_gives_a_mean() -> None:
    """Weights are divided by their sum before they meet the deltas' dtype."""
    huge = Replies(
        [0, 1],
        {"w": torch.tensor([[1.0], [3.0]])},
        {"examples": torch.tensor([1e300, 1e300], dtype=torch.float64)},
    )
    assert weighted_mean([huge], "examples")["w"].tolist() == [2.0]
