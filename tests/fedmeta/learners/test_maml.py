from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, Literal, get_args

import pytest
import torch
import torchopt
from torch import Tensor, nn
from torch.func import grad

from fedmeta.errors import ConfigError
from fedmeta.learners.adaptation import LearnedRates
from fedmeta.learners.inner_loop import last
from fedmeta.learners.maml import Anil, Boil, Fomaml, Maml, MamlPlusPlus, MetaSgd
from fedmeta.models.conv4 import Conv4
from fedmeta.models.mlp import Mlp
from fedmeta.objective import Objective, initial_params
from fedmeta.types import Batch, Episode, Loss, Params
from tests.fedmeta.conftest import Quadratic

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


# Any choice of params and rates, against one closed form

SHAPES = {"block0.w": (2,), "block1.w": (2, 2), "head.w": (2,)}
MOVING: dict[str, list[str]] = {
    "all": list(SHAPES),
    "head": ["head.w"],
    "body": ["block0.w", "block1.w"],
    "patterns": ["block0.w", "head.w"],
}
KINDS = get_args(LearnedRates)


def choice(adapt: str) -> Any:
    return ["block0.*", "head.w"] if adapt == "patterns" else adapt


@dataclass(frozen=True)
class Bowls:
    """One support and one query quadratic over three blocks of params, with full Hessians.

    Step j of rates ``D_j`` (0 where nothing moves) leaves ``w_j = s + J_j (w - s)`` with ``J_j =
    (I - D_j A) ... (I - D_1 A)``: what does not move is coupled to what does by ``A``.
    """

    w: Tensor
    hessians: tuple[Tensor, Tensor]
    centres: tuple[Tensor, Tensor]

    @property
    def params(self) -> Params:
        sizes = [prod(shape) for shape in SHAPES.values()]
        pieces = zip(SHAPES.items(), self.w.split(sizes), strict=True)
        return {name: piece.reshape(shape) for (name, shape), piece in pieces}

    def loss(self, params: Params, batch: Batch) -> Tensor:
        return Quadratic()({"w": torch.cat([params[name].flatten() for name in SHAPES])}, batch)

    @property
    def episodes(self) -> Episode:
        sides = zip(self.centres, self.hessians, strict=True)
        return Quadratic.stack([Episode(*(Quadratic.batch(c, h) for c, h in sides))])

    def gradients(
        self, rates: Tensor, weights: Sequence[float], order: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Value of ``F = sum_j v_j L_Q(w_j)``, its gradient in ``w`` and in the rates ``[steps, 8]``.

        First order takes the inner gradients as constants.
        """
        (a, b), (s, q) = self.hessians, self.centres
        eye, steps = torch.eye(8).to(a), len(rates)
        shrink = [eye - torch.diag(rate) @ a for rate in rates]
        walked = [self.w]
        for matrix in shrink:
            walked.append(s + matrix @ (walked[-1] - s))
        pulls = [v * b @ (w - q) for v, w in zip(weights, walked, strict=True)]

        def back(last: int, first: int) -> Tensor:
            """``dw_last / dw_first``."""
            found = eye
            for matrix in shrink[first:last] if order == 2 else []:
                found = matrix @ found
            return found

        in_w = sum(back(j, 0).T @ pull for j, pull in enumerate(pulls))
        in_rates = [
            -(a @ (walked[j - 1] - s))
            * sum(back(after, j).T @ pulls[after] for after in range(j, steps + 1))
            for j in range(1, steps + 1)
        ]
        value = sum(v * (w - q) @ b @ (w - q) / 2 for v, w in zip(weights, walked, strict=True))
        return value, in_w, torch.stack(in_rates)


@pytest.fixture
def bowls(points, hessians) -> Bowls:
    return Bowls(points(8), (hessians(8), hessians(8)), (points(8), points(8)))


def spread(rates: Params, moving: Sequence[str], steps: int, kind: str) -> Tensor:
    """The learned rates as one for every step and number, ``[steps, 8]``; 0 where nothing moves."""
    rows = torch.zeros(steps, 8, dtype=torch.float64)
    for name, where in SLICES.items():
        if name not in moving:
            continue
        if kind == "none":
            rows[:, where] = RATE
        elif kind == "per_parameter":
            rows[:, where] = rates[f"rate/{name}"].flatten()
        else:
            rate = rates["rate/all" if kind == "scalar" else f"rate/{name}"]
            rows[:, where] = rate[:, None] if kind == "per_layer_per_step" else rate
    return rows


def gathered(slopes: Tensor, moving: Sequence[str], kind: str) -> Params:
    """The gradient of shared rates is the sum over all that share them."""
    if kind == "scalar":
        return {"rate/all": sum(slopes[:, SLICES[name]].sum() for name in moving)}
    found = {}
    for name in moving if kind != "none" else []:
        part = slopes[:, SLICES[name]]
        found[f"rate/{name}"] = {
            "per_layer": part.sum(),
            "per_layer_per_step": part.sum(dim=1),
            "per_parameter": part.sum(dim=0).reshape(SHAPES[name]),
        }[kind]
    return found


SLICES = {"block0.w": slice(0, 2), "block1.w": slice(2, 6), "head.w": slice(6, 8)}


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize(
    ("steps", "multi_step"), [(1, False), (3, False), (3, True)], ids=["1", "3", "3 multi"]
)
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adapt", MOVING)
def test_every_choice_on_a_coupled_quadratic(
    bowls, points, relative_error, adapt, kind, order, steps, multi_step, checkpoint
) -> None:
    """ANIL, BOIL, Meta-SGD, LSLR and the multi-step loss are one formula with masks, rates, weights."""
    learner = Maml(
        RATE,
        steps,
        order,
        choice(adapt),
        kind,
        multi_step_until=0.5 * multi_step,
        checkpoint=checkpoint,
    )
    every = learner.init(bowls.loss, bowls.params, torch.Generator())
    for name in [name for name in every if name.startswith("rate/")]:
        every[name] = RATE + 0.1 * points(max(every[name].numel(), 1)).reshape(every[name].shape)
    found = learner.update(bowls.loss, every, bowls.episodes, 0.1)  # a fifth of the multi-step part
    rates = spread(every, MOVING[adapt], steps, kind)
    weights = [0.0, 0.8 / 3, 0.8 / 3, 1 - 1.6 / 3] if multi_step else [0.0] * steps + [1.0]
    value, in_w, in_rates = bowls.gradients(rates, weights, order)
    expected = Bowls(in_w, bowls.hessians, bowls.centres).params
    expected |= gathered(in_rates, MOVING[adapt], kind)
    assert relative_error(found.delta, expected) < 1e-12
    close(found.metrics["loss"], value)


@pytest.mark.parametrize("adapt", MOVING)
def test_the_closed_form_is_the_gradient_of_the_closed_value(bowls, points, adapt) -> None:
    """The oracle itself, by autograd on its value."""
    rates = spread({}, MOVING[adapt], 3, "none").requires_grad_()
    w = bowls.w.clone().requires_grad_()
    weights = [0.0, 0.2, 0.3, 0.5]
    moved = Bowls(w, bowls.hessians, bowls.centres)
    value, in_w, in_rates = moved.gradients(rates, weights, 2)
    for slope, by_autograd in zip(
        (in_w, in_rates), torch.autograd.grad(value, (w, rates)), strict=True
    ):
        close(slope.detach(), by_autograd)


@pytest.mark.parametrize("adapt", MOVING)
def test_what_does_not_adapt_keeps_its_bytes(bowls, adapt) -> None:
    """ANIL's body and BOIL's head, in every step; all that adapts moves in every step."""
    walked = Maml(RATE, 1, adapt=choice(adapt)).trajectory(
        bowls.loss, bowls.params, bowls.episodes.draw(0).support, 3
    )
    for before, after in pairwise(walked):
        for name in SHAPES:
            assert bool((before[name] != after[name]).all()) == (name in MOVING[adapt])
            assert torch.equal(before[name], after[name]) == (name not in MOVING[adapt])


@pytest.mark.parametrize("learn_rates", ["none", "per_layer_per_step"])
@pytest.mark.parametrize("adapt", MOVING)
def test_freeze_keeps_values_and_sends_less(bowls, adapt, learn_rates) -> None:
    """Also over local steps, in which what is frozen does not move."""
    settings = {"adapt": choice(adapt), "learn_rates": learn_rates}
    free, frozen = (Maml(RATE, 3, freeze=freeze, **settings) for freeze in (False, True))
    every = free.init(bowls.loss, bowls.params, torch.Generator())
    whole, part = (one.update(bowls.loss, every, bowls.episodes) for one in (free, frozen))
    rates = [f"rate/{name}" for name in MOVING[adapt] if learn_rates != "none"]
    assert set(part.delta) == {*MOVING[adapt], *rates}
    for name, value in part.delta.items():
        close(value, whole.delta[name])
    close(part.metrics["loss"], whole.metrics["loss"])


def test_freeze_holds_in_local_steps(bowls) -> None:
    """``w <- w - b M J' B (J (w - s) + s - q)`` twice, with M the numbers that adapt."""
    learner = Maml(RATE, 2, adapt="head", freeze=True, local_steps=2, local_lr=0.4)
    twice = Episode(*(Batch(*(t.expand(2, *t.shape[1:]) for t in side)) for side in bowls.episodes))
    found = learner.update(bowls.loss, bowls.params, twice)
    w, rates = bowls.w, spread({}, ["head.w"], 2, "none")
    for _ in range(2):
        _, slope, _ = Bowls(w, bowls.hessians, bowls.centres).gradients(rates, [0.0, 0.0, 1.0], 2)
        w = torch.cat([w[:6], w[6:] - 0.4 * slope[6:]])
    assert list(found.delta) == ["head.w"]
    close(found.delta["head.w"], bowls.w[6:] - w[6:])


# Schedules


def step_weights(learner: Maml, progress: float) -> list[float]:
    """What the query loss after 0, 1, ... steps counts.

    The support loss ``w`` takes w to -1, -2, ... at rate 1; the query loss is 1 at one of these.
    """

    def loss(params: Params, batch: Batch) -> Tensor:
        here = params["w"] == -torch.arange(learner.inner_steps + 1)
        return batch.x.sum() * params["w"] + (batch.y * here).sum()

    one, zero = torch.ones(1, 1), torch.zeros(1, learner.inner_steps + 1)
    found = []
    for step in torch.eye(learner.inner_steps + 1, dtype=torch.float64):
        episodes = Episode(Batch(one, zero), Batch(0 * one, step[None]))
        params = {"w": torch.zeros((), dtype=torch.float64)}
        found.append(learner.update(loss, params, episodes, progress).metrics["loss"].item())
    return found


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize(
    ("epoch", "early", "last"),
    [
        (0, 0.2, 0.2),
        (7, 8 / 75, 43 / 75),  # 0.1067, 0.5733
        (14, 1 / 75, 71 / 75),  # 0.0133, 0.9467
        (14.6, 0.006, 0.976),  # no less than 0.03 / k each
        (15, 0.0, 1.0),
        (29, 0.0, 1.0),
    ],
)
def test_multi_step_weights_are_annealed(epoch, early, last, checkpoint) -> None:
    """``1/k - e/(kE)`` with k = 5, for E = 15 of 30 epochs (Antoniou et al. 2019)."""
    learner = Maml(1.0, 5, multi_step_until=0.5, checkpoint=checkpoint)
    found = step_weights(learner, epoch / 30)
    assert found == pytest.approx([0.0] + [early] * 4 + [last], abs=1e-12)


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.49, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_multi_step_weights_sum_to_1(steps, progress) -> None:
    found = step_weights(Maml(1.0, steps, multi_step_until=0.5), progress)
    assert sum(found) == pytest.approx(1.0, abs=1e-12)
    assert min(found) >= 0
    assert found[0] == 0


def test_maml_plus_plus_anneals_over_the_first_tenth() -> None:
    """From 1/5 each to the last alone."""
    learner = MamlPlusPlus(1.0, 5)
    assert step_weights(Maml(1.0, 5, multi_step_until=0.1), 0.05)[1] == pytest.approx(0.1)
    params = {"w": torch.zeros(2)}
    assert learner.init(None, params, torch.Generator())["rate/w"].shape == (5,)
    assert (learner.multi_step_until, learner.order) == (0.1, 2)


@pytest.mark.parametrize(
    ("progress", "order"), [(0.0, 1), (0.25, 1), (0.49, 1), (0.5, 2), (0.75, 2), (0.99, 2)]
)
@pytest.mark.parametrize("multi_step_until", [0.0, 0.75])
def test_derivative_order_is_annealed(bowls, relative_error, progress, order, multi_step_until):
    """First order in the first half of the run, second order after it; other schedules go on."""
    learner = Maml(RATE, 3, first_order_until=0.5, multi_step_until=multi_step_until)
    plain = Maml(RATE, 3, order, multi_step_until=multi_step_until)
    other = Maml(RATE, 3, 3 - order, multi_step_until=multi_step_until)
    found, expected, wrong = (
        one.update(bowls.loss, bowls.params, bowls.episodes, progress).delta
        for one in (learner, plain, other)
    )
    assert relative_error(found, expected) == 0
    assert relative_error(found, wrong) > 0.01


# Degenerate limits


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
def test_equal_rates_are_maml(points, relative_error, kind, order) -> None:
    objective, params, episode = image_net(points)
    plain, rated = Maml(RATE, 2, order), Maml(RATE, 2, order, learn_rates=kind)
    every = rated.init(objective, params, torch.Generator())
    expected, found = (
        delta(one, objective, p, episode) for one, p in ((plain, params), (rated, every))
    )
    assert relative_error({name: found[name] for name in params}, expected) < 1e-12


@pytest.mark.parametrize(
    ("learner", "plain"),
    [
        (Fomaml(RATE, 2), Maml(RATE, 2, 1)),
        (Anil(RATE, 2), Maml(RATE, 2, adapt=["head.*"])),
        (Boil(RATE, 2), Maml(RATE, 2, adapt=["block*"])),
        (MetaSgd(RATE, 2), Maml(RATE, 2, learn_rates="per_parameter")),
        (
            MamlPlusPlus(RATE, 2),
            Maml(RATE, 2, learn_rates="per_layer_per_step", multi_step_until=0.1),
        ),
        (Maml(RATE, 1, multi_step_until=1.0), Maml(RATE, 1)),
        (Maml(RATE, 2, first_order_until=1.0), Fomaml(RATE, 2)),
        (Maml(RATE, 2, adapt=["*"]), Maml(RATE, 2)),
    ],
    ids=lambda learner: type(learner).__name__,
)
def test_a_name_is_maml_with_settings(points, relative_error, learner, plain) -> None:
    objective, params, episode = image_net(points)
    every = learner.init(objective, params, torch.Generator())
    found, expected = (delta(one, objective, every, episode) for one in (learner, plain))
    assert relative_error(found, expected) == 0


@pytest.mark.parametrize(
    ("kind", "name", "own", "other"),
    [
        (Fomaml, "order", 1, 2),
        (Anil, "adapt", "head", "body"),
        (Boil, "adapt", "body", ["head.*"]),
        (MetaSgd, "learn_rates", "per_parameter", "none"),
        (MamlPlusPlus, "learn_rates", "per_layer_per_step", "scalar"),
    ],
)
def test_a_name_means_what_it_says(kind: type[Maml], name: str, own: Any, other: Any) -> None:
    assert kind(RATE, 2, **{name: own}) == kind(RATE, 2)
    with pytest.raises(ConfigError) as refusal:
        kind(RATE, 2, **{name: other})
    assert str(refusal.value) == (
        f"learner.{name} is {own} by the name of this learner, got {other!r}; "
        "learner.name: maml has all of them"
    )
    assert getattr(Maml(RATE, 2, **{name: other}), name) == other


def test_maml_plus_plus_after_its_first_tenth_is_maml(points, relative_error) -> None:
    objective, params, episode = image_net(points)
    learner = MamlPlusPlus(RATE, 2)
    every = learner.init(objective, params, torch.Generator())
    early, late = (
        learner.update(objective, every, drawn(episode), progress).delta for progress in (0.0, 0.1)
    )
    expected = delta(Maml(RATE, 2), objective, params, episode)
    assert relative_error({name: late[name] for name in params}, expected) < 1e-12
    assert relative_error({name: early[name] for name in params}, expected) > 1e-3


def test_a_net_that_is_all_head_makes_anil_maml(points, relative_error) -> None:
    objective = Objective(
        nn.Sequential(OrderedDict([("head", nn.Linear(2, 3))])), "mean_squared_error"
    )
    params = initial_params(objective.module, 0, torch.float64)
    episode = Episode(*(Batch(points(4, 2), points(4, 3)) for _ in range(2)))
    found, expected = (delta(one(RATE, 3), objective, params, episode) for one in (Anil, Maml))
    assert relative_error(found, expected) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_orders_agree_on_a_linear_loss_with_learned_rates(points, relative_error, kind) -> None:
    """Rates have gradients, ``-<g_S, g_Q>``; curvature, of which there is none, is in no order."""

    def linear(params: Params, batch: Batch) -> Tensor:
        return (batch.x @ params["w"]).mean()

    directions, nothing = points(2, 1, 5, 4), torch.zeros(1, 5).to(torch.float64)
    episodes = Episode(Batch(directions[0], nothing), Batch(directions[1], nothing))
    first, second = (Maml(RATE, 3, order, learn_rates=kind) for order in (1, 2))
    every = first.init(linear, {"w": points(4)}, torch.Generator())
    found, expected = (one.update(linear, every, episodes).delta for one in (first, second))
    assert relative_error(found, expected) < 1e-12
    if kind == "scalar":
        support, query = directions.mean(dim=(1, 2))
        close(found["rate/all"], -3 * support @ query)


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


def drawn(episode: Episode) -> Episode:
    return Episode(*(Batch(part.x[None], part.y[None]) for part in episode))


def delta(learner: Maml, objective: Objective, params: Params, episode: Episode) -> Params:
    return learner.update(objective, params, drawn(episode)).delta


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


# Every learned number of every choice, by finite differences


def fine_differences(function: Callable[[Params], Tensor], params: Params) -> Params:
    """By points at distances h and 2h, all at once: truncation is of order h^4, rounding 1e-16 / h."""
    h, sizes = 5e-5, [w.numel() for w in params.values()]
    flat = torch.cat([w.flatten() for w in params.values()])

    def at(flat: Tensor) -> Tensor:
        pieces = zip(params.items(), flat.split(sizes), strict=True)
        return function({name: piece.reshape(w.shape) for (name, w), piece in pieces})

    sides = h * torch.tensor([1.0, -1.0, 2.0, -2.0]).to(flat)[:, None, None] * torch.eye(len(flat))
    ends = torch.vmap(at)((flat + sides).flatten(0, 1)).reshape(4, -1)
    slopes = (8 * (ends[0] - ends[1]) - (ends[2] - ends[3])) / (12 * h)
    pieces = zip(params.items(), slopes.split(sizes), strict=True)
    return {name: piece.reshape(w.shape) for (name, w), piece in pieces}


def smooth(kind: Literal["cross_entropy", "mean_squared_error"], points) -> tuple[Any, ...]:
    objective = Objective(Mlp([3, 2], norm=True, activation="tanh").build((2,), 3), kind)
    x, classes = points(2, 6, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    y = [classes, classes.roll(1)] if kind == "cross_entropy" else points(2, 6, 3)
    episode = Episode(Batch(x[0], y[0]), Batch(x[1], y[1]))
    return objective, initial_params(objective.module, 0, torch.float64), episode


ENDS = ("weight", "bias")
HEAD = [f"head.{end}" for end in ENDS]
BODY = [f"{layer}{i}.{end}" for i in (0, 1) for layer in ("linear", "norm") for end in ENDS]
ADAPTS: dict[str, tuple[Any, Sequence[str]]] = {
    "all": ("all", [*BODY, *HEAD]),
    "head": ("head", HEAD),
    "body": ("body", BODY),
    "norm": ("norm", [name for name in BODY if "norm" in name]),
    "lora": ("lora", [*(f"lora/linear{i}.weight/{end}" for i in (0, 1) for end in "ab"), *HEAD]),
    "film": (
        "film",
        [*(f"film/norm{i}/{end}" for i in (0, 1) for end in ("scale", "shift")), *HEAD],
    ),
    "patterns": (["head.*", "linear1.*"], ["linear1.weight", "linear1.bias", *HEAD]),
}


def rate_of(params: Params, kind: str, name: str, step: int) -> Tensor | float:
    if kind == "none":
        return RATE
    rate = params["rate/all" if kind == "scalar" else f"rate/{name}"]
    return rate[step] if kind == "per_layer_per_step" else rate


@pytest.mark.parametrize("loss", ["cross_entropy", "mean_squared_error"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adapt", ADAPTS)
def test_every_gradient_is_that_of_finite_differences(
    points, relative_error, adapt, kind, loss
) -> None:
    """Of ``F = sum_j v_j L_Q(w_j)`` in all numbers: the model's, the adapters', the rates'.

    Away from the beginning, where half of the adapters are 0 and rates are equal.
    """
    objective, model, episode = smooth(loss, points)
    choice, moving = ADAPTS[adapt]
    learner = Maml(RATE, 2, adapt=choice, learn_rates=kind, multi_step_until=0.5, rank=2)
    params = learner.init(objective, model, torch.Generator().manual_seed(0))
    params = {
        name: w + 0.1 * points(max(w.numel(), 1)).reshape(w.shape) for name, w in params.items()
    }

    def value(params: Params) -> Tensor:
        fast, total = {name: params[name] for name in moving}, 0.0
        for step, weight in enumerate([0.25, 0.75]):  # half way through the schedule of two steps
            grads = grad(lambda fast: objective(params | fast, episode.support))(fast)
            fast = {n: w - rate_of(params, kind, n, step) * grads[n] for n, w in fast.items()}
            total = total + weight * objective(params | fast, episode.query)
        return total

    found = learner.update(objective, params, drawn(episode), 0.25)
    close(found.metrics["loss"], value(params))
    assert found.delta.keys() == params.keys()
    assert relative_error(found.delta, fine_differences(value, params)) < 1e-9
    slopes = [slope.abs().max() for name, slope in found.delta.items() if name.startswith("rate/")]
    assert bool(slopes) == (kind != "none")
    assert not slopes or max(slopes) > 1e-3  # not lost in the scale of the others


# Settings


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
        ("rank", 0),
        ("first_order_until", 1.5),
        ("first_order_until", -0.1),
        ("multi_step_until", float("nan")),
        ("multi_step_until", 50),
    ],
)
def test_settings_out_of_range(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^learner\.{key} must .*, got {value}$"):
        Maml(**({"inner_lr": 0.1, "inner_steps": 1} | {key: value}))
