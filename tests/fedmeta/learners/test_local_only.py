import pytest
import torch

from fedmeta.learners.sgd import LocalOnly, LocalSgd
from fedmeta.models.mlp import Mlp
from fedmeta.objective import Objective, initial_params
from fedmeta.types import Batch, Episode


def test_no_client_moves_the_server(points) -> None:
    """A delta of zeros for every param, whatever is learned on the client."""
    objective = Objective(Mlp([3]).build((2,), 1), "mean_squared_error")
    params = initial_params(objective.module, 0, torch.float64)
    episodes = Episode(*(Batch(points(1, n, 2), points(1, n, 1)) for n in (3, 2)))
    found = LocalOnly(0.1, 5, 2).update(objective, params, episodes)
    assert found.delta.keys() == params.keys()
    for name, values in found.delta.items():
        assert torch.equal(values, torch.zeros_like(params[name]))
    assert found.state == {}


@pytest.mark.parametrize("size", [1, 2, 9])
def test_its_loss_is_that_of_local_sgd(quadratic, points, size: int) -> None:
    w, support, query = points(3, 4)
    episode = Episode(quadratic.batch(support, None, 3), quadratic.batch(query, None, 2))
    alone, averaged = (
        kind(0.3, 4, size).update(quadratic, {"w": w}, quadratic.stack([episode]))
        for kind in (LocalOnly, LocalSgd)
    )
    assert torch.equal(alone.metrics["loss"], averaged.metrics["loss"])
    assert alone.metrics["loss"] < quadratic({"w": w}, episode.support)


def test_it_adapts_by_local_sgd(quadratic, points) -> None:
    """``w_j = c + (1 - a)^j (w - c)``."""
    w, centre = points(2, 4)
    walk = LocalOnly(0.3, 1, 1).trajectory(quadratic, {"w": w}, quadratic.batch(centre), 3)
    expected = [centre + 0.7**j * (w - centre) for j in range(4)]
    torch.testing.assert_close(
        torch.stack([p["w"] for p in walk]), torch.stack(expected), atol=1e-12, rtol=0
    )
