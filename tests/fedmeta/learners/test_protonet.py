from collections.abc import Callable
from math import log

import pytest
import torch
from torch import Tensor

from fedmeta.errors import ConfigError
from fedmeta.learners.inner_loop import last
from fedmeta.learners.protonet import ProtoNet
from fedmeta.models.mlp import Mlp
from fedmeta.objective import Objective, initial_params
from fedmeta.types import Batch, Episode, Params

WAYS = 4
HEAD = {"head.weight", "head.bias"}


def net(points) -> tuple[Objective, Params]:
    objective = Objective(Mlp([3, 5], activation="tanh").build((2,), WAYS), "cross_entropy")
    return objective, initial_params(objective.module, 0, torch.float64)


def labelled(points, *classes: int) -> Batch:
    return Batch(points(len(classes), 2), torch.tensor(classes))


def drawn(*episodes: Episode) -> Episode:
    return Episode(
        *(
            Batch(*(torch.stack(parts) for parts in zip(*side, strict=True)))
            for side in zip(*episodes, strict=True)
        )
    )


def features(objective: Objective, params: Params, x: Tensor) -> Tensor:
    """What the module hands to its head, by a hook on the head."""
    seen: list[Tensor] = []
    hook = objective.module.get_submodule("head").register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    objective.predict(params, x)
    hook.remove()
    return seen[0]


def distances(objective: Objective, params: Params, support: Batch, x: Tensor) -> Tensor:
    """``|f(x) - c_y|^2`` for the classes that the support has, in their order; ``[examples, classes]``."""
    found, given = (features(objective, params, part) for part in (x, support.x))
    centres = [given[support.y == label].mean(dim=0) for label in support.y.unique()]
    return torch.stack([((found - centre) ** 2).sum(dim=1) for centre in centres], dim=1)


UNEVEN = (2, 0, 1, 1, 3, 0, 1)


def test_the_head_is_the_distances_up_to_a_constant_of_each_example(points) -> None:
    """``2 c'x - |c|^2 = |x|^2 - |x - c|^2``; classes of two, three, one and one example."""
    objective, params = net(points)
    support, x = labelled(points, *UNEVEN), points(6, 2)
    adapted = last(ProtoNet().trajectory(objective, params, support, 1))
    logits, away = objective.predict(adapted, x), distances(objective, params, support, x)
    constant = (features(objective, params, x) ** 2).sum(dim=1, keepdim=True)
    torch.testing.assert_close(logits, constant - away, atol=1e-12, rtol=0)
    torch.testing.assert_close(
        logits.softmax(dim=1), torch.softmax(-away, dim=1), atol=1e-12, rtol=0
    )
    assert torch.equal(logits.argmax(dim=1), away.argmin(dim=1))


def test_the_first_step_sets_it_and_more_change_nothing(points) -> None:
    objective, params = net(points)
    walk = list(ProtoNet().trajectory(objective, params, labelled(points, *UNEVEN), 3))
    assert len(walk) == 4
    for params_at in walk:
        assert params_at.keys() == params.keys()
        assert all(torch.equal(params_at[n], w) for n, w in params.items() if n not in HEAD)
    for later in walk[2:]:
        assert all(torch.equal(later[name], walk[1][name]) for name in HEAD)


def test_before_adaptation_it_is_at_chance(points) -> None:
    """Every class has probability 1 / n: the loss is ``log n``, whatever head there was."""
    objective, params = net(points)
    start = next(ProtoNet().trajectory(objective, params, labelled(points, 0, 1), 1))
    scores = objective.scores(start, labelled(points, *range(WAYS)))
    assert float(scores["loss"]) == pytest.approx(log(WAYS), abs=1e-15)
    assert scores["accuracy"] == 1 / WAYS


# The gradient


def query_loss(objective: Objective, params: Params, episode: Episode) -> Tensor:
    """The paper's, without a head: ``-log softmax(-|f(x) - c|^2)`` at the label."""
    away = distances(objective, params, episode.support, episode.query.x)
    return -torch.log_softmax(-away, dim=1).gather(1, episode.query.y[:, None]).mean()


def by_autograd(objective: Objective, params: Params, episode: Episode) -> Params:
    start = {name: w.clone().requires_grad_() for name, w in params.items()}
    body = {name: w for name, w in start.items() if name not in HEAD}
    grads = torch.autograd.grad(query_loss(objective, start, episode), list(body.values()))
    return dict(zip(body, grads, strict=True))


def by_differences(function: Callable[[Params], Tensor], params: Params) -> Params:
    """Five points with step h: truncation of order h^4 = 1e-12, rounding of order 1e-16 / h."""
    slopes = {name: torch.zeros_like(w) for name, w in params.items() if name not in HEAD}
    for name, slope in slopes.items():
        for index in range(slope.numel()):
            for weight, length in ((8, 1e-3), (-8, -1e-3), (-1, 2e-3), (1, -2e-3)):
                moved = params[name].clone()
                moved.view(-1)[index] += length
                slope.view(-1)[index] += weight * function({**params, name: moved}) / 12e-3
    return slopes


def test_the_delta_is_the_gradient_in_the_body(points, relative_error) -> None:
    """Through features of queries and prototypes alike, against autograd and finite differences."""
    objective, params = net(points)
    episode = Episode(labelled(points, *UNEVEN), labelled(points, 3, 0, 2, 1, 1))
    found = ProtoNet().update(objective, params, drawn(episode))
    assert relative_error(found.delta, by_autograd(objective, params, episode)) < 1e-12
    slopes = by_differences(lambda p: query_loss(objective, p, episode), params)
    assert relative_error(found.delta, slopes) < 1e-9
    expected = query_loss(objective, params, episode)
    torch.testing.assert_close(found.metrics["loss"], expected, atol=1e-12, rtol=0)


def test_several_episodes_are_averaged(points, relative_error) -> None:
    objective, params = net(points)
    episodes = [
        Episode(labelled(points, *range(WAYS)), labelled(points, 3, 1, 0)) for _ in range(3)
    ]
    learner = ProtoNet(episodes=3)
    assert learner.draws == 3
    found = learner.update(objective, params, drawn(*episodes))
    alone = [by_autograd(objective, params, episode) for episode in episodes]
    means = {name: sum(one[name] for one in alone) / 3 for name in alone[0]}
    assert relative_error(found.delta, means) < 1e-12


def test_queries_do_not_enter_the_prototypes(points) -> None:
    """Or the loss on several would not be the mean of the losses on each."""
    objective, params = net(points)
    support, query = labelled(points, *range(WAYS)), labelled(points, 0, 3, 1)

    def loss(chosen: slice) -> Tensor:
        part = Batch(query.x[chosen], query.y[chosen])
        return ProtoNet().update(objective, params, drawn(Episode(support, part))).metrics["loss"]

    alone = torch.stack([loss(slice(i, i + 1)) for i in range(3)])
    torch.testing.assert_close(loss(slice(3)), alone.mean(), atol=1e-14, rtol=0)


def test_the_head_neither_trains_nor_travels_nor_matters(points) -> None:
    objective, params = net(points)
    learner = ProtoNet()
    episode = drawn(Episode(labelled(points, *range(WAYS)), labelled(points, 0, 3)))
    assert learner.init(objective, params, torch.Generator()) is params
    assert learner.private(params) == HEAD
    found = learner.update(objective, params, episode)
    assert found.delta.keys() == params.keys() - HEAD
    assert found.state == {}
    other = params | {name: 100 * params[name] - 7 for name in HEAD}
    again = learner.update(objective, other, episode)
    assert all(torch.equal(found.delta[name], again.delta[name]) for name in found.delta)


def test_a_step_against_the_delta_lowers_the_query_loss(points) -> None:
    """By the step times the squared length of the gradient, and less than a twentieth off."""
    objective, params = net(points)
    episode = drawn(Episode(labelled(points, *UNEVEN), labelled(points, 3, 0, 2, 1)))
    before = ProtoNet().update(objective, params, episode)
    moved = params | {n: params[n] - 1e-3 * g for n, g in before.delta.items()}
    fall = before.metrics["loss"] - ProtoNet().update(objective, moved, episode).metrics["loss"]
    slope = sum((g**2).sum() for g in before.delta.values())
    torch.testing.assert_close(fall, 1e-3 * slope, rtol=0.05, atol=0)


# Classes without examples


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_absent_class_is_never_predicted(points, dtype: torch.dtype) -> None:
    """Its prototype would be 0, where one query lies; its probability is 0 all the same."""
    objective, params = net(points)
    params = {name: w.to(dtype) for name, w in params.items()}
    params["linear1.bias"] = torch.zeros_like(params["linear1.bias"])
    params["linear1.weight"] = torch.zeros_like(params["linear1.weight"])  # all features are 0
    support = Batch(points(3, 2).to(dtype), torch.tensor([0, 3, 3]))
    adapted = last(ProtoNet().trajectory(objective, params, support, 1))
    chances = objective.predict(adapted, points(5, 2).to(dtype)).softmax(dim=1)
    expected = torch.tensor([0.5, 0, 0, 0.5], dtype=dtype).expand(5, -1)
    assert torch.equal(chances, expected)


def test_an_absent_class_harms_no_number(points, relative_error) -> None:
    """Loss and gradient are those of a problem with the other classes alone."""
    objective, params = net(points)
    support, query = labelled(points, 0, 3, 3), labelled(points, 3, 0, 0)
    found = ProtoNet().update(objective, params, drawn(Episode(support, query)))
    fewer = Episode(Batch(support.x, support.y.clamp(max=1)), Batch(query.x, query.y.clamp(max=1)))
    assert relative_error(found.delta, by_autograd(objective, params, fewer)) < 1e-12
    expected = query_loss(objective, params, fewer)
    torch.testing.assert_close(found.metrics["loss"], expected, atol=1e-12, rtol=0)


# What does not fit


def test_values_are_refused(points) -> None:
    _, params = net(points)
    objective = Objective(Mlp([3]).build((2,), 1), "mean_squared_error")
    message = r"^learner\.name: protonet needs classes, the data has mean_squared_error$"
    with pytest.raises(ConfigError, match=message):
        ProtoNet().init(objective, params, torch.Generator())


@pytest.mark.parametrize(
    "change",
    [
        {"head.bias": None},
        {"head.weight": torch.zeros(4, 5, 1, 1)},
        {"head.scale": torch.zeros(4)},
    ],
    ids=["no bias", "a convolution", "more than linear"],
)
def test_a_head_of_another_kind_is_refused(points, change: dict[str, Tensor | None]) -> None:
    objective, params = net(points)
    changed = {name: w for name, w in (params | change).items() if w is not None}
    with pytest.raises(ConfigError, match=r"^learner\.name: protonet needs a linear head"):
        ProtoNet().init(objective, changed, torch.Generator())


def test_a_model_without_a_head_is_refused(points) -> None:
    objective, params = net(points)
    body = {name: w for name, w in params.items() if name not in HEAD}
    with pytest.raises(ConfigError, match=r"needs a head, params named head\.\*"):
        ProtoNet().init(objective, body, torch.Generator())


def test_settings_out_of_range() -> None:
    with pytest.raises(ConfigError, match=r"^learner\.episodes must be 1 or more, got 0$"):
        ProtoNet(episodes=0)
