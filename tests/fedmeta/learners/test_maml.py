from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torchopt
from torch import Tensor

from fedmeta.errors import ConfigError
from fedmeta.learners.inner_loop import last
from fedmeta.learners.maml import Maml
from fedmeta.models.conv4 import Conv4
from fedmeta.models.mlp import Mlp
from fedmeta.objective import Objective, initial_params
from fedmeta.types import Batch, Episode, Loss, Params

RATE = 0.3


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("order", [1, 2])
def test_isotropic_quadratic(quadratic, points, order: int, steps: int) -> None:
    """``w' = s + rho (w - s)``, ``rho = (1-a)^k``: first order ``w' - q``, second rho times it."""
    w, support, query = points(3, 4)
    found = Maml(RATE, steps, order).update(
        quadratic, {"w": w}, quadratic.episodes([support], [query])
    )
    rho = (1 - RATE) ** steps
    gap = support + rho * (w - support) - query
    close(found.delta["w"], gap if order == 1 else rho * gap)
    close(found.metrics["loss"], gap @ gap / 2)


@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("order", [1, 2])
def test_general_quadratic(quadratic, points, hessians, order: int, steps: int) -> None:
    """``w' = s + J (w - s)`` with ``J = (I - a A)^k``.

    First order ``B (w' - q)``, second order J transposed times it.
    """
    w, support, query = points(3, 4)
    curve_s, curve_q = hessians(4), hessians(4)
    episode = Episode(quadratic.batch(support, curve_s), quadratic.batch(query, curve_q))
    found = Maml(RATE, steps, order).update(quadratic, {"w": w}, quadratic.stack([episode]))
    jacobian = torch.linalg.matrix_power(torch.eye(4).to(w) - RATE * curve_s, steps)
    first = curve_q @ (support + jacobian @ (w - support) - query)
    close(found.delta["w"], first if order == 1 else jacobian.T @ first)


def test_several_episodes_are_averaged(quadratic, points) -> None:
    w, supports, queries = points(4), points(3, 4), points(3, 4)
    together = Maml(RATE, 2, episodes=3).update(
        quadratic, {"w": w}, quadratic.episodes(supports, queries)
    )
    alone = [
        Maml(RATE, 2).update(quadratic, {"w": w}, quadratic.episodes([s], [q]))
        for s, q in zip(supports, queries, strict=True)
    ]
    close(together.delta["w"], torch.stack([one.delta["w"] for one in alone]).mean(dim=0))
    close(together.metrics["loss"], torch.stack([one.metrics["loss"] for one in alone]).mean())


@pytest.mark.parametrize("order", [1, 2])
def test_local_steps_are_per_fedavg(quadratic, points, order: int) -> None:
    """After tau steps of rate b ``w - c`` has shrunk by ``(1 - b (1-a)^order)^tau``."""
    w, centre = points(2, 4)
    taken, rate = 4, 0.6
    learner = Maml(RATE, 1, order, local_steps=taken, local_lr=rate)
    found = learner.update(
        quadratic, {"w": w}, quadratic.episodes([centre] * taken, [centre] * taken)
    )
    shrunk = (1 - rate * (1 - RATE) ** order) ** taken
    close(found.delta["w"], (1 - shrunk) * (w - centre))


def test_every_local_step_has_its_own_episodes(quadratic, points) -> None:
    """Two steps on two episodes each: ``w_{t+1} = w_t - b mean rho (s + rho (w_t - s) - q)``."""
    w, supports, queries = points(4), points(4, 4), points(4, 4)
    learner = Maml(RATE, 1, episodes=2, local_steps=2, local_lr=0.6)
    assert learner.draws == 4
    found = learner.update(quadratic, {"w": w}, quadratic.episodes(supports, queries))
    rho, walked = 1 - RATE, w
    for first, end in pairwise([0, 2, 4]):
        s, q = supports[first:end], queries[first:end]
        walked = walked - 0.6 * (rho * (s + rho * (walked - s) - q)).mean(dim=0)
    close(found.delta["w"], w - walked)


def test_orders_agree_on_a_linear_loss(points) -> None:
    """Without curvature the inner step moves every gradient by nothing."""

    def linear(params: Params, batch: Batch) -> Tensor:
        return (batch.x @ params["w"]).mean()

    w, directions, nothing = points(4), points(2, 1, 5, 4), torch.zeros(1, 5).to(torch.float64)
    episodes = Episode(Batch(directions[0], nothing), Batch(directions[1], nothing))
    first, second = (Maml(RATE, 3, order).update(linear, {"w": w}, episodes) for order in (1, 2))
    close(first.delta["w"], directions[1, 0].mean(dim=0))
    close(second.delta["w"], first.delta["w"])


def test_trajectory_starts_at_the_params_and_has_every_step(quadratic, points) -> None:
    w, centre = points(2, 4)
    walked = list(Maml(RATE, 1).trajectory(quadratic, {"w": w}, quadratic.batch(centre), 3))
    assert torch.equal(walked[0]["w"], w)
    for step, params in enumerate(walked):
        close(params["w"], centre + (1 - RATE) ** step * (w - centre))
    assert len(walked) == 4


def test_a_step_against_the_delta_lowers_the_query_loss(quadratic, points) -> None:
    """delta = server - client: the server goes along -delta."""
    w, support, query = points(3, 4)
    episodes, learner = quadratic.episodes([support], [query]), Maml(RATE, 2)
    before = learner.update(quadratic, {"w": w}, episodes)
    after = learner.update(quadratic, {"w": w - 0.1 * before.delta["w"]}, episodes)
    assert after.metrics["loss"] < before.metrics["loss"]


# Nets


def tanh_net(points) -> tuple[Objective, Params, Episode]:
    objective = Objective(Mlp([3, 3], activation="tanh").build((2,), 1), "mean_squared_error")
    support, query = (Batch(points(examples, 2), points(examples, 1)) for examples in (6, 4))
    return objective, initial_params(objective.module, 0, torch.float64), Episode(support, query)


def image_net(points) -> tuple[Objective, Params, Episode]:
    """Three classes, two drawings each in support and query; batch norm with affine weights."""
    objective = Objective(Conv4(filters=4).build((1, 14, 14), 3), "cross_entropy")
    support, query = (Batch(points(6, 1, 14, 14), torch.arange(3).repeat(2)) for _ in range(2))
    return objective, initial_params(objective.module, 0, torch.float64), Episode(support, query)


NETS = {"tanh": tanh_net, "conv4": image_net}


def adapted_by_autograd(
    loss: Loss, params: Params, support: Batch, steps: int, graph: bool
) -> Params:
    fast = params
    for _ in range(steps):
        grads = torch.autograd.grad(loss(fast, support), list(fast.values()), create_graph=graph)
        fast = {name: w - RATE * g for (name, w), g in zip(fast.items(), grads, strict=True)}
    return fast


def meta_gradient_by_autograd(
    loss: Loss, params: Params, episode: Episode, steps: int, order: int
) -> Params:
    """The textbook way, without torch.func."""
    start = {name: w.clone().requires_grad_() for name, w in params.items()}
    fast = adapted_by_autograd(loss, start, episode.support, steps, graph=order == 2)
    grads = torch.autograd.grad(loss(fast, episode.query), list(start.values()))
    return dict(zip(start, grads, strict=True))


def meta_gradient_by_torchopt(
    objective: Objective, params: Params, episode: Episode, steps: int
) -> Params:
    objective.module.load_state_dict(params, assign=True)
    net, names = objective.module, list(params)
    start = [net.get_parameter(name).requires_grad_() for name in names]
    loss = (
        torch.nn.MSELoss()
        if objective.kind == "mean_squared_error"
        else torch.nn.CrossEntropyLoss()
    )
    inner = torchopt.MetaSGD(net, lr=RATE)
    for _ in range(steps):
        inner.step(loss(net(episode.support.x), episode.support.y))
    grads = torch.autograd.grad(loss(net(episode.query.x), episode.query.y), start)
    return dict(zip(names, grads, strict=True))


def central_differences(
    function: Callable[[Params], Tensor], params: Params, step: float = 1e-5
) -> Params:
    """Truncation is of order step^2 = 1e-10, rounding of order 1e-16 / step = 1e-11."""
    slopes = {name: torch.empty_like(w) for name, w in params.items()}
    for name, w in params.items():
        for index in range(w.numel()):
            ends = []
            for sign in (1, -1):
                moved = w.clone()
                moved.view(-1)[index] += sign * step
                ends.append(function({**params, name: moved}))
            slopes[name].view(-1)[index] = (ends[0] - ends[1]) / (2 * step)
    return slopes


def delta(learner: Maml, objective: Objective, params: Params, episode: Episode) -> Params:
    drawn = Episode(*(Batch(part.x[None], part.y[None]) for part in episode))
    return learner.update(objective, params, drawn).delta


def test_finite_differences(points, relative_error) -> None:
    """Of the query loss after adaptation, with adaptation by plain autograd."""
    objective, params, episode = tanh_net(points)

    def query_loss(params: Params) -> Tensor:
        start = {name: w.clone().requires_grad_() for name, w in params.items()}
        fast = adapted_by_autograd(objective, start, episode.support, 3, graph=False)
        return objective(fast, episode.query).detach()

    found = delta(Maml(RATE, 3), objective, params, episode)
    assert relative_error(found, central_differences(query_loss, params)) < 1e-6


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("net", NETS)
def test_equals_plain_autograd(points, relative_error, net: str, order: int, steps: int) -> None:
    """1e-9 is far above rounding, far below the 1e-4 of wrong gradients through affine norms."""
    objective, params, episode = NETS[net](points)
    expected = meta_gradient_by_autograd(objective, params, episode, steps, order)
    found = delta(Maml(RATE, steps, order), objective, params, episode)
    assert relative_error(found, expected) < 1e-9


@pytest.mark.parametrize("net", NETS)
def test_equals_torchopt(points, relative_error, net: str) -> None:
    objective, params, episode = NETS[net](points)
    found = delta(Maml(RATE, 2), objective, params, episode)
    expected = meta_gradient_by_torchopt(objective, params, episode, 2)
    assert relative_error(found, expected) < 1e-9


@pytest.mark.parametrize("net", NETS)
def test_first_order_is_the_gradient_at_a_detached_copy(points, relative_error, net: str) -> None:
    objective, params, episode = NETS[net](points)
    learner = Maml(RATE, 2, order=1)
    fast = last(learner.trajectory(objective, params, episode.support, 2))
    copy = {name: w.detach().clone().requires_grad_() for name, w in fast.items()}
    grads = torch.autograd.grad(objective(copy, episode.query), list(copy.values()))
    found = delta(learner, objective, params, episode)
    assert relative_error(found, dict(zip(copy, grads, strict=True))) < 1e-12


@pytest.mark.parametrize("net", NETS)
def test_orders_differ_on_a_curved_loss(points, relative_error, net: str) -> None:
    """By about ``a |H|``, a tenth and more here; a cut graph would make them equal."""
    objective, params, episode = NETS[net](points)
    first, second = (delta(Maml(RATE, 1, order), objective, params, episode) for order in (1, 2))
    assert relative_error(first, second) > 0.01


def test_orders_agree_as_the_rate_goes_to_0(points) -> None:
    """``SO - FO = -a H_S g_Q + O(a^2)``: a hundredth of the rate, a hundredth of it and O(a)."""
    objective, params, episode = tanh_net(points)

    def difference(rate: float) -> Tensor:
        first, second = (
            delta(Maml(rate, 1, order), objective, params, episode) for order in (1, 2)
        )
        return torch.cat([(second[name] - first[name]).flatten() for name in params])

    large, small = difference(1e-3), difference(1e-5)
    assert (large / 100 - small).norm() < 0.01 * small.norm()


def test_update_is_pure(points) -> None:
    objective, params, episode = image_net(points)
    before = {name: w.clone() for name, w in params.items()}
    first, again = (delta(Maml(RATE, 2), objective, params, episode) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in params)
    assert all(torch.equal(params[name], before[name]) for name in params)
    assert not any(w.requires_grad for w in [*params.values(), *first.values()])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("inner_lr", 0.0),
        ("inner_lr", -0.1),
        ("inner_lr", float("inf")),
        ("inner_lr", float("nan")),
        ("local_lr", 0.0),
        ("inner_steps", 0),
        ("episodes", 0),
        ("local_steps", -1),
        ("order", 3),
    ],
)
def test_settings_out_of_range(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^learner\.{key} must .*, got {value}$"):
        Maml(**({"inner_lr": 0.1, "inner_steps": 1} | {key: value}))
