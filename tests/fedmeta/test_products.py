"""Products of matrices by oneDNN: the numbers of torch's own, to rounding."""

import pytest
import torch
from torch import Tensor

from fedmeta.client_function import Own, Train, TrainWeighted
from fedmeta.engines.loop import Loop
from fedmeta.engines.lowrank import Lowrank
from fedmeta.engines.products import by_onednn, has_products, multiply_by_onednn
from fedmeta.engines.program import improve, record
from fedmeta.engines.recorded import Recorded
from fedmeta.learners.maml import Maml
from fedmeta.models.mlp import Mlp
from fedmeta.objective import Objective, initial_params
from fedmeta.types import Batch, Episode

aten, ours = torch.ops.aten, torch.ops.fedmeta
UNIT = 2.0**-24
"""Half the distance from 1 to the next float32."""


def product(a: Tensor, b: Tensor) -> list[Tensor]:
    return [a @ b]


def operations(program: torch.fx.GraphModule) -> set[object]:
    return {node.target for node in program.graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize("flipped", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("shape", [(7, 33, 12), (1, 5, 3), (64, 1, 9), (3, 40, 1)])
def test_a_product_is_that_of_torch_to_rounding(points, shape, flipped) -> None:
    """Of m terms each sum is off by ``m u / (1 - m u) |a| |b|`` at most, in whatever order (Higham)."""
    n, m, k = shape
    a = (points(m, n).t() if flipped[0] else points(n, m)).float()
    b = (points(k, m).t() if flipped[1] else points(m, k)).float()
    program = improve(record(product, a, b), multiply_by_onednn, a, b)
    assert operations(program) == {ours.multiply.default}
    bound = m * UNIT / (1 - m * UNIT) * (a.abs().double() @ b.abs().double())
    (found,) = program(a, b)
    assert found.dtype == torch.float32
    # one more unit for a sum that is rounded to float32 at its end
    assert ((found - a.double() @ b.double()).abs() <= bound + UNIT * found.abs()).all()


def test_float64_stays_with_torch(points) -> None:
    given = points(3, 4), points(4, 5)
    program = record(product, *given)
    assert not has_products(program)
    assert operations(improve(program, multiply_by_onednn, *given)) == {aten.mm.default}


def test_a_program_without_products_has_none(points) -> None:
    given = (points(3, 4).float(),)
    assert not has_products(record(lambda a: [a + 1], *given))


@pytest.mark.parametrize("kind", [Recorded, Lowrank])
def test_a_round_of_maml_is_that_of_the_loop(relative_error, points, kind) -> None:
    """In float32; the shared first layer is a product, and oneDNN's."""
    objective = Objective(Mlp([16, 16]).build((24,), 3), "cross_entropy")
    params = initial_params(objective.module, 0, torch.float32)
    batch = Batch(points(4, 1, 6, 24).float(), torch.arange(3).repeat(2).expand(4, 1, -1))
    train = Train(Maml(inner_lr=0.1, inner_steps=2), objective, 1.0, calls=2)
    own = Own(Episode(batch, batch), {}, torch.ones(4))
    engine = by_onednn(kind(4, Lowrank(4).passes))
    found, _ = engine.total(TrainWeighted(train, "one"), params, own)
    (program,) = engine.programs
    assert ours.multiply.default in operations(program.run)
    assert aten.mm.default not in operations(program.run)
    exact = {name: value.double() for name, value in params.items()}
    double = Batch(batch.x.double(), batch.y)
    own = Own(Episode(double, double), {}, torch.ones(4, dtype=torch.float64))
    expected, _ = Loop().total(TrainWeighted(train, "one"), exact, own)
    assert (
        relative_error(found, expected) < 1e-5
    )  # some hundred roundings of 6e-8, no kink in between
