"""Outer products that are kept as factors: right, and really never formed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedmeta.client_function import Own, Train, TrainWeighted
from fedmeta.engines.loop import Loop
from fedmeta.engines.lowrank import Lowrank, keep_factors
from fedmeta.engines.program import improve, record
from fedmeta.learners import Learner
from fedmeta.learners.maml import Anil, Fomaml, Maml
from fedmeta.learners.reptile import Reptile
from fedmeta.models.mlp import Mlp
from fedmeta.objective import Objective, initial_params
from fedmeta.settings import EngineSettings
from fedmeta.types import Batch, Episode

CLIENTS, RANK, ROWS, COLUMNS = 4, 2, 16, 24
STACK = (CLIENTS, ROWS, COLUMNS)


@pytest.fixture
def factors(points) -> tuple[Tensor, ...]:
    """``[clients, rows, rank]``, ``[clients, rank, columns]`` twice, and shared ``[rows, columns]``."""
    sides = [(CLIENTS, ROWS, RANK), (CLIENTS, RANK, COLUMNS)] * 2
    return *(points(*shape) for shape in sides), points(ROWS, COLUMNS)


def sides(*factors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    left, right, other, across, shared = factors
    return torch.bmm(left, right), torch.bmm(other, across), shared


def rows_through(*factors: Tensor) -> Tensor:
    g, h, w = sides(*factors)
    x = factors[0].mT  # [clients, rank, rows]
    return torch.bmm(x, w - 0.1 * g) + torch.bmm(x, w - (0.1 * g + h / 2))


def columns_through(*factors: Tensor) -> Tensor:
    g, h, w = sides(*factors)
    return torch.bmm(w - 0.1 * g + h, factors[1].mT)


def product_of_two(*factors: Tensor) -> Tensor:
    g, h, w = sides(*factors)
    return torch.bmm(torch.bmm(g, (w + h).mT), factors[0])


def difference_summed(*factors: Tensor) -> Tensor:
    g, h, w = sides(*factors)
    return (w - (w - 0.1 * g - h)).sum(dim=0)


def weighted_sum(*factors: Tensor) -> Tensor:
    g, _, _ = sides(*factors)
    weights = torch.arange(1.0, CLIENTS + 1, dtype=g.dtype)
    return (weights.view(-1, 1, 1) * g).sum(dim=0)


def same_rows_twice(*factors: Tensor) -> Tensor:
    left, right, other, _, w = factors
    step = w - 0.1 * torch.bmm(right.mT, left.mT).mT
    return torch.bmm(left.mT, step - torch.bmm(right.mT, other.mT).mT)


def inner_product(*factors: Tensor) -> Tensor:
    g, h, w = sides(*factors)
    return ((g + w) * (h - w)).sum(dim=(1, 2))


def squared_norm(*factors: Tensor) -> Tensor:
    g, _, _ = sides(*factors)
    return ((-g) ** 2).sum(dim=(1, 2), keepdim=True)


UNFORMED = [
    rows_through,
    same_rows_twice,
    columns_through,
    product_of_two,
    difference_summed,
    weighted_sum,
    inner_product,
    squared_norm,
]


def entry_by_entry(*factors: Tensor) -> Tensor:
    g, h, w = sides(*factors)
    return (w - g).relu() + g * h + g.reshape(CLIENTS, -1).view(STACK) + (w * w + g)


def a_row_added(*factors: Tensor) -> Tensor:
    g, h, w = sides(*factors)
    row, column = w[:1], w[:, :1]
    return ((g + row) * (h + row)).sum(dim=(1, 2)) + ((g + column) ** 2).sum(dim=(1, 2))


def divided(*factors: Tensor) -> Tensor:
    g, h, w = sides(*factors)
    each = torch.arange(1.0, CLIENTS + 1, dtype=g.dtype).view(-1, 1, 1)
    return (g / torch.tensor(3) + h / 3 + g / each + g / w[0, 0]).sum(dim=0)


def divided_by_nothing(*factors: Tensor) -> Tensor:
    g, h, _ = sides(*factors)
    return (g / 0.0).isinf() & ~(h / torch.zeros((), dtype=g.dtype)).isfinite()


def one_for_all(*factors: Tensor) -> Tensor:
    left, right, other, across, _ = factors
    one, g = torch.bmm(left[:1], right[:1]), torch.bmm(other, across)
    numbers = torch.arange(1.0, CLIENTS + 1, dtype=g.dtype).view(-1, 1, 1)
    return (one + g) * one + one * numbers


def sum_of_everything(*factors: Tensor) -> Tensor:
    g, h, _ = sides(*factors)
    return g.sum() + (g * h).sum() + g.sum(dim=None) + torch.ops.aten.sum.dim_IntList(g * h, None)


def written_into(*factors: Tensor) -> Tensor:
    g, _, _ = sides(*factors)
    across = g.mT
    g.add_(1)
    return across.relu()


def written_into_a_view(*factors: Tensor) -> Tensor:
    g, _, _ = sides(*factors)
    across = g.mT
    g.reshape(-1)[:5].mul_(2)
    return across.relu()


def by_its_strides(*factors: Tensor) -> Tensor:
    g, _, _ = sides(*factors)
    return torch.as_strided(g.mT, (5,), (3,))


def wider(*factors: Tensor) -> Tensor:
    g, _, _ = sides(*factors)
    return g.float() * torch.tensor([0.1], dtype=torch.float64) + torch.full((CLIENTS, 1, 1), 0.1)


FORMED = [
    entry_by_entry,
    a_row_added,
    divided,
    divided_by_nothing,
    one_for_all,
    sum_of_everything,
    written_into,
    written_into_a_view,
    by_its_strides,
    wider,
]


def formed(program: torch.fx.GraphModule, shape: tuple[int, ...]) -> list[str]:
    """The steps of a program whose result holds as many numbers as a stack of matrices."""
    return [
        node.name
        for node in program.graph.nodes
        if node.op == "call_function"
        and isinstance(value := node.meta.get("val"), Tensor)
        and value.numel() >= shape[0] * shape[1] * shape[2]
    ]


@pytest.mark.parametrize("function", UNFORMED, ids=lambda f: f.__name__)
def test_factors_give_what_the_product_gives(factors, function) -> None:
    program = improve(record(function, *factors), keep_factors, *factors)
    torch.testing.assert_close(program(*factors), function(*factors), atol=1e-12, rtol=1e-12)
    assert formed(program, STACK) == []
    assert formed(record(function, *factors), STACK) != []


@pytest.mark.parametrize("function", FORMED, ids=lambda f: f.__name__)
def test_what_factors_cannot_do_is_done_with_the_product(factors, function) -> None:
    program = improve(record(function, *factors), keep_factors, *factors)
    found, expected = program(*factors), function(*factors)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


def test_examples_that_come_again_add_no_rank(factors) -> None:
    """Two steps on one batch are one step along the sum: no factors are put side by side."""
    program = improve(record(same_rows_twice, *factors), keep_factors, *factors)
    assert not [n for n in program.graph.nodes if n.target is torch.ops.aten.cat.default]


def test_what_is_the_same_is_computed_once(points) -> None:
    """Random numbers are never the same."""
    program = record(lambda a, b: {"sum": a @ b + (a @ b).sin()}, points(3, 4), points(4, 5))
    targets = [node.target for node in program.graph.nodes]
    assert targets.count(torch.ops.aten.mm.default) == 1
    noise = record(lambda a: torch.rand_like(a) - torch.rand_like(a), points(3))
    assert [node.target for node in noise.graph.nodes].count(torch.ops.aten.rand_like.default) == 2


def test_products_of_many_rows_are_formed(points) -> None:
    """16 x 24 of rank 10: the factors hold 400 numbers, the product 384."""
    sides = points(CLIENTS, ROWS, 10), points(CLIENTS, 10, COLUMNS)
    program = improve(record(torch.bmm, *sides), keep_factors, *sides)
    assert len(formed(program, STACK)) == 1


LEARNERS: dict[str, Learner] = {
    "maml": Maml(inner_lr=0.1, inner_steps=2),
    "rate per layer": Maml(inner_lr=0.1, inner_steps=1, learn_rates="per_layer"),
    "fomaml": Fomaml(inner_lr=0.1, inner_steps=3),
    "reptile": Reptile(inner_lr=0.1, inner_steps=3, batch_size=4),
    "anil": Anil(inner_lr=0.1, inner_steps=2),
}


def wide(
    ways: int, shots: int, queries: int, hidden: list[int], clients: int
) -> tuple[Objective, Own]:
    """Noise for a net of linear layers on 20 inputs, and shards of all sizes."""
    generator = torch.Generator().manual_seed(ways * shots)

    def batch(each: int) -> Batch:
        x = torch.randn(clients, 1, ways * each, 20, generator=generator, dtype=torch.float64)
        return Batch(x, torch.arange(ways).repeat(each).expand(clients, 1, -1))

    module = Mlp(hidden).build((20,), ways)
    sizes = torch.arange(1, clients + 1, dtype=torch.float64)
    return Objective(module, "cross_entropy"), Own(Episode(batch(shots), batch(queries)), {}, sizes)


def equal_to_loop(
    relative_error, learner: str, objective: Objective, own: Own, chunk: int
) -> Lowrank:
    """The engine, after its weighted sum was found to be the loop's."""
    params = LEARNERS[learner].init(
        objective, initial_params(objective.module, 0, torch.float64), torch.Generator()
    )
    function = TrainWeighted(Train(LEARNERS[learner], objective, 1.0, calls=2), "examples")
    engine = Lowrank.of(EngineSettings(chunk=chunk))
    delta, _ = engine.total(function, params, own)
    assert relative_error(delta, Loop().total(function, params, own)[0]) < 1e-12
    return engine


@pytest.mark.parametrize("learner", LEARNERS)
def test_adapted_weights_are_never_formed(relative_error, learner: str) -> None:
    """A 64 x 48 layer of 6 clients: no step of the program holds 6 of it, nor of their deltas."""
    objective, own = wide(2, 1, 2, [48, 64], clients=6)
    engine = equal_to_loop(relative_error, learner, objective, own, chunk=6)
    (program,) = engine.programs
    assert formed(program.run, (6, 64, 48)) == []


any_shape = given(
    learner=st.sampled_from(sorted(LEARNERS)),
    ways=st.integers(2, 4),
    shots=st.integers(1, 3),
    queries=st.integers(1, 4),
    hidden=st.lists(st.integers(1, 30), min_size=1, max_size=2),
    clients=st.integers(1, 5),
)


@settings(deadline=None, max_examples=2, derandomize=True)
@any_shape
def test_any_shape(relative_error, learner, ways, shots, queries, hidden, clients) -> None:
    objective, own = wide(ways, shots, queries, hidden, clients)
    equal_to_loop(relative_error, learner, objective, own, chunk=3)


@pytest.mark.slow
@settings(deadline=None, max_examples=20, derandomize=True)
@any_shape
def test_any_of_many_shapes(relative_error, learner, ways, shots, queries, hidden, clients) -> None:
    objective, own = wide(ways, shots, queries, hidden, clients)
    equal_to_loop(relative_error, learner, objective, own, chunk=3)
