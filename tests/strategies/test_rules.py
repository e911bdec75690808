"""What every strategy promises: whose reply comes first or from where leaves no trace."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedmeta.params import select
from fedmeta.replies import Replies, summed
from fedmeta.types import Params
from strategies.aggregation import Aggregation, Combined
from strategies.flower_named import FlowerAggregation
from strategies.gathered import Gathered, Memory, gather
from strategies.optimizers import ServerOptimizer
from strategies.rules import Rules, uncounted
from strategies.weighting import WEIGHTINGS, ByColumn, LossSigmoid, Minimax

CLIENTS = 12
SUMMABLE = {
    *("custom", "fedadagrad", "fedadam", "fedavg", "fedavgm", "fedyogi", "pyramid", "reptile"),
    "uniform",
}
"""Strategies with which a node may send one sum of its clients' deltas."""


def cohort(seed: int = 0, dtype: torch.dtype = torch.float64) -> Replies:
    """Replies with all that any strategy asks for."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(CLIENTS, *shape, generator=generator, dtype=torch.float64)

    deltas = {"matrix": draw(4, 3) - 0.5, "vector": draw(2) - 0.3, "rate/scalar": draw()}
    columns = {
        "examples": 1 + (9 * draw()).floor(),
        "loss": draw(),
        "loss_after": 3 * draw(),
        "alpha": (1 + draw()) / 2,
        "staleness": (5 * draw()).floor(),
    }
    clients = list(range(100, 100 + CLIENTS))
    return Replies(clients, {name: value.to(dtype) for name, value in deltas.items()}, columns)


def scattered(replies: Replies, seed: int) -> list[Replies]:
    """The same clients in another order on three nodes."""
    order = np.random.default_rng(seed).permutation(CLIENTS)
    return [
        Replies(
            [replies.clients[i] for i in block],
            select(replies.deltas, torch.as_tensor(block)),
            select(replies.columns, torch.as_tensor(block)),
        )
        for block in np.array_split(order, 3)
    ]


def params(dtype: torch.dtype = torch.float64) -> Params:
    return {name: torch.ones_like(value[0]) for name, value in cohort(0, dtype).deltas.items()}


def equal(a: Params, b: Params) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_client_order_and_nodes_leave_no_trace(rules: Rules) -> None:
    """In two rounds, the second with what was remembered of the first."""
    memory: tuple[Memory, Memory] = {}, {}
    for round in (1, 2):
        whole = cohort(round)
        a = rules.combine([whole], params(), memory[0])
        b = rules.combine(scattered(whole, round), params(), memory[1])
        assert a.clients == b.clients == whole.clients
        assert equal(a.delta, b.delta)
        assert equal(a.memory, b.memory)
        assert equal(a.columns, b.columns)
        assert (a.weights is None) == (b.weights is None)
        assert a.weights is None or torch.equal(a.weights, b.weights)  # type: ignore[arg-type]
        memory = a.memory, b.memory


def test_the_order_of_params_leaves_no_trace(rules: Rules) -> None:
    """A checkpoint keeps none: after a resume clients are sent the same params in another order."""
    memory = rules.combine([cohort(1)], params(), {}).memory
    whole, given = cohort(2), params()
    backwards = {name: whole.deltas[name] for name in reversed(whole.deltas)}
    turned = {name: given[name] for name in reversed(given)}
    expected = rules.combine([whole], given, memory)
    found = rules.combine([replace(whole, deltas=backwards)], turned, memory)
    assert equal(found.delta, expected.delta)
    assert equal(found.memory, expected.memory)


def test_zero_deltas_move_nothing(rules: Rules) -> None:
    """In two rounds, whatever clients say of their losses: no strategy has a drift of its own.

    To the bit, but for Flower's, which average params: the mean of equal ones is rounded.
    """
    rounding = 1e-12 if isinstance(rules.aggregation, FlowerAggregation) else 0
    moved, state, memory = params(), {}, Memory()
    for round in (1, 2):
        still = cohort(round)
        zeros = {name: torch.zeros_like(value) for name, value in still.deltas.items()}
        outcome = rules.combine([replace(still, deltas=zeros)], moved, memory)
        moved, state = rules.optimizer.step(moved, outcome.delta, state, 0.0)
        memory = outcome.memory
        for name, value in params().items():
            torch.testing.assert_close(moved[name], value, rtol=0, atol=rounding)


def test_a_round_leaves_what_it_is_given_alone(rules: Rules) -> None:
    """Replies, params and memory, after the memory of a first round."""
    memory = rules.combine([cohort(1)], params(), {}).memory
    kept = {name: value.clone() for name, value in memory.items()}
    replies, given = cohort(2), params()
    first = rules.combine([replies], given, memory)
    assert equal(replies.deltas, cohort(2).deltas)
    assert equal(replies.columns, cohort(2).columns)
    assert equal(given, params())
    assert equal(memory, kept)
    assert equal(first.delta, rules.combine([replies], given, memory).delta)


def test_a_step_has_the_shapes_and_dtypes_of_the_params(rules: Rules) -> None:
    for dtype in (torch.float32, torch.float64):
        whole = cohort(0, dtype)
        for name, value in rules.combine([whole], params(dtype), {}).delta.items():
            assert (value.shape, value.dtype) == (whole.deltas[name].shape[1:], dtype)


def test_only_weights_that_clients_say_themselves_can_be_summed_on_a_node(
    rules: Rules, request: pytest.FixtureRequest
) -> None:
    assert bool(rules.column) == (request.node.callspec.params["rules"] in SUMMABLE)


@pytest.mark.parametrize("normalise", ["sum", "mean", "none"])
@pytest.mark.parametrize("column", ["examples", "one", "alpha"])
def test_sums_of_nodes_are_the_sum_of_deltas(column: str, normalise) -> None:
    """And the ledger hears of the same clients, weights and columns."""
    rules = Rules(ByColumn(column, normalise), ServerOptimizer("SGD", 1.0))
    whole = cohort()
    each = rules.combine([whole], params(), {})
    nodes = [summed(part, column) for part in scattered(whole, 1)]
    found = rules.combine(nodes, params(), {})
    for name, value in each.delta.items():
        torch.testing.assert_close(found.delta[name], value, rtol=1e-14, atol=1e-14)
    assert each.weights is not None
    assert found.weights is not None
    order = np.argsort(found.clients)
    assert np.array(found.clients)[order].tolist() == each.clients
    torch.testing.assert_close(found.weights[order], each.weights, rtol=1e-15, atol=0)
    assert list(found.columns) == sorted(each.columns)
    assert all(torch.equal(found.columns[k][order], v) for k, v in each.columns.items())


def test_only_columns_that_all_nodes_have_are_told() -> None:
    first, second, third = scattered(cohort(), 0)
    del second.columns["loss"]
    found = uncounted([first, second, third])
    assert list(found.columns) == ["alpha", "examples", "loss_after", "staleness"]
    assert gather([first, second, third], {}).columns.keys() == found.columns.keys()
    assert found.weights is not None
    assert found.weights.tolist() == [0.0] * CLIENTS
    assert uncounted([]).clients == []


class Counting(Aggregation):
    """The first delta; remembers how many rounds there were."""

    def __call__(self, gathered: Gathered, weights: torch.Tensor, memory: Memory) -> Combined:
        return Combined(
            {name: value[0] for name, value in gathered.deltas.items()},
            None,
            {"rounds": memory.get("rounds", torch.zeros(())) + 1},
        )


def test_a_weighting_and_an_aggregation_remember_side_by_side() -> None:
    rules, memory = Rules(Minimax(0.1), ServerOptimizer("SGD", 1.0), Counting()), Memory()
    for round in (1, 2, 3):
        memory = rules.combine([cohort(round)], params(), memory).memory
    alone, plain = Rules(Minimax(0.1), ServerOptimizer("SGD", 1.0)), Memory()
    for round in (1, 2, 3):
        plain = alone.combine([cohort(round)], params(), plain).memory
    assert float(memory.pop("rounds")) == 3
    assert equal(memory, plain)


def test_equal_losses_make_pyramid_the_uniform_mean() -> None:
    """The whole round, summed on the nodes and not, whatever the sizes of shards."""
    whole = cohort()
    whole.columns["alpha"][:] = 0.77
    optimizer = ServerOptimizer("SGD", 1.0)
    pyramid, plain = Rules(LossSigmoid(), optimizer), Rules(WEIGHTINGS["uniform"], optimizer)
    expected = plain.combine([whole], params(), {}).delta
    sums = [summed(part, "alpha") for part in scattered(whole, 0)]
    for replies in ([whole], sums):
        for name, value in pyramid.combine(replies, params(), {}).delta.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-14, atol=1e-15)
