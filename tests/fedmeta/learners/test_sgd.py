import pytest
import torch
from torch import Tensor

from fedmeta.errors import ConfigError
from fedmeta.learners.sgd import LocalSgd
from fedmeta.models.mlp import Mlp
from fedmeta.objective import Objective, initial_params
from fedmeta.types import Batch, Episode

RATE = 0.3


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("epochs", [1, 3, 5])
def test_full_batches_on_the_isotropic_quadratic(quadratic, points, epochs: int) -> None:
    """``w - w' = (1 - (1-a)^E) (w - c)`` with c the mean of the centres."""
    w, support, query = points(3, 4)
    found = LocalSgd(RATE, epochs, batch_size=2).update(
        quadratic, {"w": w}, quadratic.episodes([support], [query])
    )
    centre, rho = (support + query) / 2, (1 - RATE) ** epochs
    close(found.delta["w"], (1 - rho) * (w - centre))
    gaps = centre + rho * (w - centre) - torch.stack([support, query])
    close(found.metrics["loss"], (gaps**2).sum(dim=-1).mean() / 2)


@pytest.mark.parametrize(("size", "steps"), [(1, 10), (2, 5), (3, 4), (4, 3), (5, 2), (9, 2)])
def test_two_epochs_of_minibatches_see_every_example_twice(
    quadratic, points, size: int, steps: int
) -> None:
    """Five examples with centres of their own; a step pulls to the mean c of its batch.

    Batches run on across the end of an epoch; 2 x 5 examples make ceil(10 / size) of them.
    """
    w, centres = points(4), points(5, 4)
    bowls = Batch(torch.eye(4).to(w).expand(5, -1, -1), centres)
    episode = Episode(Batch(*(t[:2] for t in bowls)), Batch(*(t[2:] for t in bowls)))
    found = LocalSgd(RATE, 2, size).update(quadratic, {"w": w}, quadratic.stack([episode]))
    walked = w
    full = min(size, 5)
    for step in range(steps):
        centre = centres[[i % 5 for i in range(step * full, (step + 1) * full)]].mean(dim=0)
        walked = centre + (1 - RATE) * (walked - centre)
    assert steps * full >= 2 * 5 > (steps - 1) * full
    close(found.delta["w"], w - walked)


@pytest.mark.parametrize("epochs", [1, 3])
def test_full_batches_on_a_general_quadratic(quadratic, points, hessians, epochs: int) -> None:
    """``w - w' = (I - J)(w - c)`` with ``J = (I - a H)^E``, the mean Hessian H and its centre c."""
    w, support, query = points(3, 4)
    a, b = hessians(4), hessians(4)
    episode = Episode(quadratic.batch(support, a), quadratic.batch(query, b))
    found = LocalSgd(RATE, epochs, 2).update(quadratic, {"w": w}, quadratic.stack([episode]))
    mean, eye = (a + b) / 2, torch.eye(4).to(w)
    centre = torch.linalg.solve(mean, (a @ support + b @ query) / 2)
    left = torch.linalg.matrix_power(eye - RATE * mean, epochs)
    close(found.delta["w"], (eye - left) @ (w - centre))


def test_one_full_batch_is_a_step_of_federated_sgd(points, relative_error) -> None:
    """The delta is the rate times the gradient of the mean loss over all examples."""
    objective = Objective(Mlp([4], activation="tanh").build((3,), 3), "cross_entropy")
    params = initial_params(objective.module, 0, torch.float64)
    x, y = points(1, 9, 3), torch.arange(3).repeat(3)[None]
    episodes = Episode(Batch(x[:, :3], y[:, :3]), Batch(x[:, 3:], y[:, 3:]))
    found = LocalSgd(RATE, 1, 9).update(objective, params, episodes).delta
    leaves = {name: w.clone().requires_grad_() for name, w in params.items()}
    grads = torch.autograd.grad(objective(leaves, Batch(x[0], y[0])), list(leaves.values()))
    expected = {name: RATE * g for name, g in zip(params, grads, strict=True)}
    assert relative_error(found, expected) < 1e-12


@pytest.mark.parametrize("size", [2, 4, 9])
def test_equals_torch_sgd_on_a_net(points, relative_error, size: int) -> None:
    """Two epochs of 9 examples, batches that run on across the end."""
    objective = Objective(Mlp([4], activation="tanh").build((3,), 2), "mean_squared_error")
    params = initial_params(objective.module, 0, torch.float64)
    x, y = points(9, 3), points(9, 2)
    episodes = Episode(Batch(x[None, :4], y[None, :4]), Batch(x[None, 4:], y[None, 4:]))
    found = LocalSgd(RATE, 2, size).update(objective, params, episodes)
    leaves = {name: w.clone().requires_grad_() for name, w in params.items()}
    steps = torch.optim.SGD(leaves.values(), lr=RATE)
    for start in range(0, 18, size):
        batch = [i % 9 for i in range(start, start + size)]
        steps.zero_grad()
        objective(leaves, Batch(x[batch], y[batch])).backward()
        steps.step()
    expected = {name: params[name] - w.detach() for name, w in leaves.items()}
    assert relative_error(found.delta, expected) < 1e-12
    close(found.metrics["loss"], objective(leaves, Batch(x, y)).detach())


def test_equal_curvatures_settle_at_the_weighted_mean_of_the_centres(quadratic, points) -> None:
    """FedAvg of clients with centres c_i and weights p_i stands still at ``sum p_i c_i``."""
    centres, weights = points(3, 4), torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    settled = weights @ centres
    deltas = [
        LocalSgd(RATE, 4, 2)
        .update(quadratic, {"w": settled}, quadratic.episodes([c], [c]))
        .delta["w"]
        for c in centres
    ]
    close(weights @ torch.stack(deltas), torch.zeros(4).to(centres))


def test_unequal_curvatures_drift(quadratic, points) -> None:
    """Curvature h_i weighs ``p_i (1 - (1 - a h_i)^E)``, not the minimiser's ``p_i h_i``."""
    centres, weights = points(3, 4), torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    curvatures, epochs = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64), 4
    pulls = weights * (1 - (1 - RATE * curvatures) ** epochs)
    settled = pulls @ centres / pulls.sum()
    minimiser = (weights * curvatures) @ centres / (weights @ curvatures)
    assert (settled - minimiser).norm() > 0.01 * minimiser.norm()

    def mean_delta(w: Tensor) -> Tensor:
        deltas = []
        for centre, curvature in zip(centres, curvatures, strict=True):
            bowl = quadratic.batch(centre, curvature * torch.eye(4).to(w))
            episode = quadratic.stack([Episode(bowl, bowl)])
            deltas.append(LocalSgd(RATE, epochs, 2).update(quadratic, {"w": w}, episode).delta["w"])
        return weights @ torch.stack(deltas)

    close(mean_delta(settled), torch.zeros(4).to(centres))
    close(mean_delta(minimiser), pulls.sum() * (minimiser - settled))


def test_fine_tuning_walks_the_support(quadratic, points) -> None:
    w, support = points(2, 4)
    found = [
        p["w"]
        for p in LocalSgd(RATE, 1, 1).trajectory(quadratic, {"w": w}, quadratic.batch(support), 3)
    ]
    close(
        torch.stack(found),
        torch.stack([support + (1 - RATE) ** j * (w - support) for j in range(4)]),
    )


def test_one_episode_is_one_update() -> None:
    assert LocalSgd(0.1, 3, 10).draws == 1


@pytest.mark.parametrize(
    ("key", "value"), [("lr", 0.0), ("lr", float("nan")), ("epochs", 0), ("batch_size", -2)]
)
def test_settings_out_of_range(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^learner\.{key} must .*, got {value}$"):
        LocalSgd(**({"lr": 0.1, "epochs": 1, "batch_size": 1} | {key: value}))
