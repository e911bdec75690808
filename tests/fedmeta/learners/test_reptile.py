import pytest
import torch
from torch import Tensor

from fedmeta.errors import ConfigError
from fedmeta.learners.reptile import Reptile
from fedmeta.learners.sgd import LocalSgd
from fedmeta.models.mlp import Mlp
from fedmeta.objective import Objective, initial_params
from fedmeta.types import Batch, Episode, Params

RATE = 0.3


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_isotropic_quadratic(quadratic, points, steps: int) -> None:
    """All examples pull to the mean c of the centres: ``w - w' = (1 - (1-a)^k) (w - c)``."""
    w, support, query = points(3, 4)
    found = Reptile(RATE, steps, batch_size=2).update(
        quadratic, {"w": w}, quadratic.episodes([support], [query])
    )
    centre, rho = (support + query) / 2, (1 - RATE) ** steps
    close(found.delta["w"], (1 - rho) * (w - centre))
    adapted = centre + rho * (w - centre)
    expected = sum((adapted - c) @ (adapted - c) / 2 for c in (support, query)) / 2
    close(found.metrics["loss"], expected)


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_minibatches_alternate_on_a_general_quadratic(
    quadratic, points, hessians, steps: int
) -> None:
    """One example a step: ``w <- s + (I - a A)(w - s)``, ``w <- q + (I - a B)(w - q)``, again."""
    w, support, query = points(3, 4)
    curves = [hessians(4), hessians(4)]
    episode = Episode(quadratic.batch(support, curves[0]), quadratic.batch(query, curves[1]))
    found = Reptile(RATE, steps, batch_size=1).update(
        quadratic, {"w": w}, quadratic.stack([episode])
    )
    walked = w
    for step in range(steps):
        centre = (support, query)[step % 2]
        walked = centre + (torch.eye(4).to(w) - RATE * curves[step % 2]) @ (walked - centre)
    close(found.delta["w"], w - walked)


def test_one_step_is_the_joint_gradient(quadratic, points, hessians) -> None:
    """``k = 1``: the delta is ``a`` times the gradient of the mean loss of all examples."""
    w, support, query = points(3, 4)
    curves = hessians(4), hessians(4)
    episode = Episode(quadratic.batch(support, curves[0], 3), quadratic.batch(query, curves[1], 5))
    found = Reptile(RATE, 1, batch_size=8).update(quadratic, {"w": w}, quadratic.stack([episode]))
    gradient = (3 * curves[0] @ (w - support) + 5 * curves[1] @ (w - query)) / 8
    close(found.delta["w"], RATE * gradient)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_is_the_displacement_of_federated_averaging(quadratic, points, batch_size: int) -> None:
    """With sgd inside and the steps of two epochs, Reptile's client is FedAvg's, to the bit."""
    w, support, query = points(3, 4)
    episode = quadratic.stack(
        [Episode(quadratic.batch(support, None, 3), quadratic.batch(query, None, 5))]
    )
    steps = 2 * -(-8 // batch_size)
    reptile = Reptile(RATE, steps, batch_size).update(quadratic, {"w": w}, episode)
    averaging = LocalSgd(RATE, 2, batch_size).update(quadratic, {"w": w}, episode)
    assert torch.equal(reptile.delta["w"], averaging.delta["w"])
    assert torch.equal(reptile.metrics["loss"], averaging.metrics["loss"])


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_full_batches_on_a_general_quadratic(quadratic, points, hessians, steps: int) -> None:
    """``w - w' = (I - J)(w - c)`` with ``J = (I - a H)^k``, the mean Hessian H and its centre c."""
    w, support, query = points(3, 4)
    a, b = hessians(4), hessians(4)
    episode = Episode(quadratic.batch(support, a, 2), quadratic.batch(query, b, 2))
    found = Reptile(RATE, steps, 4).update(quadratic, {"w": w}, quadratic.stack([episode]))
    mean = (a + b) / 2
    centre = torch.linalg.solve(mean, (a @ support + b @ query) / 2)
    left = torch.linalg.matrix_power(torch.eye(4).to(w) - RATE * mean, steps)
    close(found.delta["w"], (torch.eye(4).to(w) - left) @ (w - centre))


def test_server_rate_1_and_a_uniform_mean_are_federated_averaging(quadratic, points) -> None:
    """``w - mean(delta)`` is the mean of what the clients reach, ``c_i + rho (w - c_i)``."""
    w, centres = points(4), points(3, 4)
    deltas = [
        Reptile(RATE, 2, 2).update(quadratic, {"w": w}, quadratic.episodes([c], [c])).delta["w"]
        for c in centres
    ]
    reached = centres + (1 - RATE) ** 2 * (w - centres)
    close(w - torch.stack(deltas).mean(dim=0), reached.mean(dim=0))


@pytest.mark.parametrize("inner_optimizer", ["sgd", "adam"])
def test_several_episodes_are_averaged_and_share_no_moments(
    quadratic, points, inner_optimizer: str
) -> None:
    w, supports, queries = points(4), points(3, 4), points(3, 4)
    together = Reptile(0.1, 5, 2, inner_optimizer, episodes=3).update(
        quadratic, {"w": w}, quadratic.episodes(supports, queries)
    )
    alone = [
        Reptile(0.1, 5, 2, inner_optimizer)
        .update(quadratic, {"w": w}, quadratic.episodes([s], [q]))
        .delta["w"]
        for s, q in zip(supports, queries, strict=True)
    ]
    close(together.delta["w"], torch.stack(alone).mean(dim=0))


def test_local_steps_shrink_the_gap(quadratic, points) -> None:
    """A local step of rate b leaves ``1 - b (1 - rho)`` of ``w - c``."""
    w, centre = points(2, 4)
    learner = Reptile(RATE, 3, 2, local_steps=4, local_lr=0.6)
    assert learner.draws == 4
    found = learner.update(quadratic, {"w": w}, quadratic.episodes([centre] * 4, [centre] * 4))
    left = 1 - 0.6 * (1 - (1 - RATE) ** 3)
    close(found.delta["w"], (1 - left**4) * (w - centre))


TORCH = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.01),
    "adam": lambda params: torch.optim.Adam(params, lr=0.01, betas=(0.0, 0.999)),
}


@pytest.mark.parametrize("inner_optimizer", TORCH)
def test_equals_a_torch_optimiser_on_a_net(points, relative_error, inner_optimizer: str) -> None:
    """Seven steps in batches of 4 through 6 + 5 examples, on across the end."""
    objective = Objective(Mlp([5], activation="tanh").build((2,), 1), "mean_squared_error")
    params = initial_params(objective.module, 0, torch.float64)
    x, y = points(11, 2), points(11, 1)
    episodes = Episode(Batch(x[None, :6], y[None, :6]), Batch(x[None, 6:], y[None, 6:]))
    found = Reptile(0.01, 7, 4, inner_optimizer).update(objective, params, episodes)
    assert relative_error(found.delta, walked(objective, params, x, y, inner_optimizer)) < 1e-12


def walked(objective: Objective, params: Params, x: Tensor, y: Tensor, optimizer: str) -> Params:
    objective.module.load_state_dict({name: w.clone() for name, w in params.items()}, assign=True)
    net = objective.module.requires_grad_()
    steps = TORCH[optimizer](net.parameters())
    for start in range(0, 28, 4):
        batch = [i % 11 for i in range(start, start + 4)]
        steps.zero_grad()
        torch.nn.functional.mse_loss(net(x[batch]), y[batch]).backward()
        steps.step()
    return {name: params[name] - w.detach() for name, w in net.named_parameters()}


def test_trajectory_walks_minibatches_of_the_support(quadratic, points) -> None:
    w, first, second = points(3, 4)
    support = Batch(
        *(
            torch.cat(parts)
            for parts in zip(quadratic.batch(first), quadratic.batch(second), strict=True)
        )
    )
    found = [p["w"] for p in Reptile(RATE, 1, 1).trajectory(quadratic, {"w": w}, support, 3)]
    expected = [w]
    for centre in (first, second, first):
        expected.append(centre + (1 - RATE) * (expected[-1] - centre))
    close(torch.stack(found), torch.stack(expected))


def test_update_is_pure(quadratic, points) -> None:
    w, support, query = points(3, 4)
    params, episodes = {"w": w.clone()}, quadratic.episodes([support], [query])
    first, again = (
        Reptile(0.1, 3, 1, "adam").update(quadratic, params, episodes) for _ in range(2)
    )
    assert torch.equal(first.delta["w"], again.delta["w"])
    assert torch.equal(params["w"], w)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("inner_lr", 0.0),
        ("local_lr", -1.0),
        ("inner_steps", 0),
        ("batch_size", 0),
        ("episodes", 0),
        ("local_steps", 0),
    ],
)
def test_settings_out_of_range(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^learner\.{key} must .*, got {value}$"):
        Reptile(**({"inner_lr": 0.1, "inner_steps": 1, "batch_size": 1} | {key: value}))
