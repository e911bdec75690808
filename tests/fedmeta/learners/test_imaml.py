from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, jacrev

from fedmeta.errors import ConfigError
from fedmeta.learners.imaml import Imaml
from fedmeta.models.mlp import Mlp
from fedmeta.objective import Objective, initial_params
from fedmeta.types import Batch, Episode, Params

LAM, RATE = 2.0, 0.3
EXACT = {
    "gradient_descent": Imaml(LAM, RATE, 60, cg_steps=4),  # 1 - 0.3 (lam + [1, 2]): 0.2^60 is left
    "hessian_free": Imaml(LAM, 1.0, 1, inner="hessian_free", cg_steps=4),  # one Newton step
}


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


# Quadratics


@pytest.mark.parametrize("inner", EXACT)
def test_general_quadratic(quadratic, points, hessians, inner: str) -> None:
    """``v = (A + lam)^-1 (A s + lam w)``; the gradient is ``(I + A / lam)^-1 B (v - q)``."""
    w, support, query = points(3, 4)
    a, b, one = hessians(4), hessians(4), torch.eye(4).to(w)
    episode = Episode(quadratic.batch(support, a), quadratic.batch(query, b))
    found = EXACT[inner].update(quadratic, {"w": w}, quadratic.stack([episode]))
    near = torch.linalg.solve(a + LAM * one, a @ support + LAM * w)
    slope = b @ (near - query)
    close(found.delta["w"], torch.linalg.solve(one + a / LAM, slope))
    close(found.metrics["loss"], (near - query) @ slope / 2)
    assert found.metrics["cg_residual"] < 1e-12
    assert found.metrics["inner_gradient"] < 1e-12


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_isotropic_quadratic_takes_one_step_of_conjugate_gradient(
    quadratic, points, steps: int
) -> None:
    """``v* = (s + lam w) / (1 + lam)``, from which ``(1 - b (1 + lam))^k`` of ``w - v*`` is left.

    The gradient is ``lam / (1 + lam) (v - q)``, and the inner one ``(1 + lam) (v - v*)``.
    """
    w, support, query = points(3, 4)
    learner = Imaml(LAM, 0.2, steps, cg_steps=1)
    found = learner.update(quadratic, {"w": w}, quadratic.episodes([support], [query]))
    best = (support + LAM * w) / (1 + LAM)
    near = best + (1 - 0.2 * (1 + LAM)) ** steps * (w - best)
    close(found.delta["w"], LAM / (1 + LAM) * (near - query))
    close(found.metrics["inner_gradient"], (1 + LAM) * (near - best).norm())
    assert found.metrics["cg_residual"] < 1e-14


@pytest.mark.parametrize("damping", [0.5, 1.0])
def test_damping_is_added_to_the_diagonal(quadratic, points, hessians, damping: float) -> None:
    """``((1 + damping) I + A / lam) x = B (v - q)``."""
    w, support, query = points(3, 4)
    a, one = hessians(4), torch.eye(4).to(w)
    episode = Episode(quadratic.batch(support, a), quadratic.batch(query))
    learner = replace(EXACT["hessian_free"], damping=damping)
    found = learner.update(quadratic, {"w": w}, quadratic.stack([episode]))
    near = torch.linalg.solve(a + LAM * one, a @ support + LAM * w)
    close(found.delta["w"], torch.linalg.solve((1 + damping) * one + a / LAM, near - query))


@pytest.mark.parametrize("cg_steps", [1, 2, 3])
def test_cg_residual_is_that_of_the_delta(quadratic, points, hessians, cg_steps: int) -> None:
    """``|B (v - q) - (I + A / lam) delta| / |B (v - q)|``, not yet 0."""
    w, support, query = points(3, 6)
    a, b, one = hessians(6), hessians(6), torch.eye(6).to(w)
    episode = Episode(quadratic.batch(support, a), quadratic.batch(query, b))
    learner = replace(EXACT["gradient_descent"], cg_steps=cg_steps)
    found = learner.update(quadratic, {"w": w}, quadratic.stack([episode]))
    slope = b @ (torch.linalg.solve(a + LAM * one, a @ support + LAM * w) - query)
    left = slope - (one + a / LAM) @ found.delta["w"]
    close(found.metrics["cg_residual"], left.norm() / slope.norm())
    assert found.metrics["cg_residual"] > 1e-6


def test_a_strong_pull_leaves_the_query_gradient_at_w(quadratic, points, hessians) -> None:
    """The difference is of order 1 / lam: a hundred times the lam, a hundredth of it."""
    w, support, query = points(3, 4)
    b = hessians(4)
    episode = Episode(quadratic.batch(support, hessians(4)), quadratic.batch(query, b))

    def gap(lam: float) -> Tensor:
        learner = replace(EXACT["hessian_free"], lam=lam)
        found = learner.update(quadratic, {"w": w}, quadratic.stack([episode]))
        return found.delta["w"] - b @ (w - query)

    torch.testing.assert_close(gap(1e6), gap(1e4) / 100, rtol=1e-3, atol=0)
    assert gap(1e6).norm() < 1e-4


@pytest.mark.parametrize("inner", EXACT)
def test_trajectory_solves_the_inner_problem(quadratic, points, hessians, inner: str) -> None:
    """Gradient descent: ``v_j = v* + (I - b (A + lam))^j (w - v*)``. Newton is there in one step."""
    w, support = points(2, 4)
    a, one = hessians(4), torch.eye(4).to(w)
    bowl = quadratic.batch(support, a)
    found = [p["w"] for p in EXACT[inner].trajectory(quadratic, {"w": w}, bowl, 3)]
    best = torch.linalg.solve(a + LAM * one, a @ support + LAM * w)
    shrink = one - RATE * (a + LAM * one) if inner == "gradient_descent" else 0 * one
    powers = [torch.linalg.matrix_power(shrink, j) for j in range(4)]
    close(torch.stack(found), torch.stack([best + power @ (w - best) for power in powers]))
    assert torch.equal(found[0], w)


@pytest.mark.parametrize(("rate", "taken"), [(0.3, 0.3), (1.0, 1.0), (1.6, 0.8), (4.0, 1.0)])
def test_a_newton_step_is_the_best_of_a_few_lengths(
    quadratic, points, hessians, rate: float, taken: float
) -> None:
    """A length t leaves ``1 - t`` of ``w - v*``. Tried are 1, 1/2, 1/4, 1/8 and 0 of the rate."""
    w, support = points(2, 4)
    a, one = hessians(4), torch.eye(4).to(w)
    learner = replace(EXACT["hessian_free"], inner_lr=rate)
    walk = learner.trajectory(quadratic, {"w": w}, quadratic.batch(support, a), 1)
    best = torch.linalg.solve(a + LAM * one, a @ support + LAM * w)
    close(list(walk)[-1]["w"], best + (1 - taken) * (w - best))


@pytest.mark.parametrize("inner", EXACT)
def test_negative_curvature_gives_numbers_and_a_remark(quadratic, points, inner: str) -> None:
    """``I + H / lam = -4 I`` has no positive direction: the query's gradient is taken as it is."""
    w, support, query = points(3, 4)
    saddle = quadratic.batch(support, -10 * torch.eye(4).to(w))
    learner = replace(EXACT[inner], inner_steps=1)
    found = learner.update(
        quadratic, {"w": w}, quadratic.stack([Episode(saddle, quadratic.batch(query))])
    )
    assert found.delta["w"].any()
    if inner == "gradient_descent":  # one step of the rate from w, on a saddle of curvature -10
        near = w + RATE * 10 * (w - support)
        close(found.delta["w"], near - query)
    assert all(value.isfinite() for value in found.metrics.values())
    assert found.metrics["cg_residual"] == 1
    assert learner.remark({name: float(v) for name, v in found.metrics.items()}) is not None


@pytest.mark.parametrize("inner", EXACT)
def test_nothing_to_learn_gives_zero(quadratic, points, inner: str) -> None:
    """All at the centre: both gradients are 0."""
    w = points(4)
    found = EXACT[inner].update(quadratic, {"w": w}, quadratic.episodes([w], [w]))
    assert torch.equal(found.delta["w"], torch.zeros_like(w))
    assert all(value == 0 for value in found.metrics.values())


@pytest.mark.parametrize(("residual", "warned"), [(0.0, False), (0.1, False), (0.11, True)])
def test_remarks_on_an_unsolved_system(residual: float, warned: bool) -> None:
    remark = Imaml(LAM, RATE, 1, cg_steps=7).remark({"loss": 1.0, "cg_residual": residual})
    if warned:
        assert "residual of 0.11 after 7 steps: raise learner.cg_steps" in str(remark)
    else:
        assert remark is None


def test_has_no_remark_on_metrics_of_others() -> None:
    assert Imaml(LAM, RATE, 1).remark({"loss": 1.0}) is None


# A net, whose 9 params are also one vector


def tanh_net(points) -> tuple[Objective, Params, Episode]:
    objective = Objective(Mlp([2], activation="tanh").build((2,), 1), "mean_squared_error")
    support, query = (Batch(points(examples, 2), points(examples, 1)) for examples in (6, 4))
    return objective, initial_params(objective.module, 0, torch.float64), Episode(support, query)


def flat(params: Params) -> Tensor:
    return torch.cat([value.flatten() for value in params.values()])


def shaped(vector: Tensor, like: Params) -> Params:
    pieces = vector.split([value.numel() for value in like.values()])
    return {n: p.reshape(like[n].shape) for n, p in zip(like, pieces, strict=True)}


def hessian(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return jacrev(grad(function))


def inner_solution(objective: Objective, params: Params, support: Batch) -> Tensor:
    """By full Newton steps, until its gradient is 0."""
    start = flat(params)

    def inner(v: Tensor) -> Tensor:
        return objective(shaped(v, params), support) + LAM / 2 * ((v - start) ** 2).sum()

    v = start
    for _ in range(5):
        v = v - torch.linalg.solve(hessian(inner)(v), grad(inner)(v))
    assert grad(inner)(v).norm() < 1e-13
    return v


def five_point_differences(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Truncation is of order step^4 = 1e-12, rounding of order 1e-16 / step = 1e-13."""
    step, slopes = 1e-3, torch.empty_like(x)
    for i, unit in enumerate(torch.eye(len(x)).to(x)):
        near, far = (function(x + m * unit) - function(x - m * unit) for m in (step, 2 * step))
        slopes[i] = (8 * near - far) / (12 * step)
    return slopes


def delta(learner: Imaml, objective: Objective, params: Params, episode: Episode) -> Params:
    drawn = Episode(*(Batch(part.x[None], part.y[None]) for part in episode))
    return learner.update(objective, params, drawn).delta


NET = {
    "gradient_descent": Imaml(LAM, 0.2, 100, cg_steps=9),
    "hessian_free": Imaml(LAM, 1.0, 6, inner="hessian_free", cg_steps=9),
}


@pytest.mark.parametrize("inner", NET)
def test_finite_differences_of_the_implicit_function(points, relative_error, inner: str) -> None:
    """The line search sees losses, and nothing nearer to the solution than their rounding's root."""
    objective, params, episode = tanh_net(points)

    def query_loss(w: Tensor) -> Tensor:
        v = inner_solution(objective, shaped(w, params), episode.support)
        return objective(shaped(v, params), episode.query)

    expected = shaped(five_point_differences(query_loss, flat(params)), params)
    found = delta(NET[inner], objective, params, episode)
    assert relative_error(found, expected) < (1e-9 if inner == "gradient_descent" else 1e-7)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("damping", [0.0, 1.0])
def test_equals_a_direct_solve_with_the_full_hessian(
    points, relative_error, steps: int, damping: float
) -> None:
    """At wherever plain gradient steps on the proximal problem have come to."""
    objective, params, episode = tanh_net(points)
    learner = Imaml(LAM, 0.2, steps, cg_steps=9, damping=damping)
    v = start = flat(params)
    for _ in range(steps):
        slope = grad(lambda v: objective(shaped(v, params), episode.support))(v)
        v = v - 0.2 * (slope + LAM * (v - start))
    curved = hessian(lambda v: objective(shaped(v, params), episode.support))(v)
    towards = grad(lambda v: objective(shaped(v, params), episode.query))(v)
    system = (1 + damping) * torch.eye(len(v)).to(v) + curved / LAM
    expected = shaped(torch.linalg.solve(system, towards), params)
    assert relative_error(delta(learner, objective, params, episode), expected) < 1e-10


@pytest.mark.parametrize("inner", NET)
def test_vmap_equals_the_loop(points, relative_error, inner: str) -> None:
    objective, params, _ = tanh_net(points)
    learner = replace(NET[inner], inner_steps=2)
    clients = Episode(
        *(Batch(points(3, 1, n, 2), points(3, 1, n, 1)) for n in (6, 4))  # [clients, draws, ...]
    )
    together = torch.vmap(lambda episodes: learner.update(objective, params, episodes))(clients)
    for client in range(3):
        alone = learner.update(objective, params, clients.draw(client))
        found = {name: values[client] for name, values in together.delta.items()}
        assert relative_error(found, alone.delta) < 1e-9
        loss = {"loss": together.metrics["loss"][client]}
        assert relative_error(loss, {"loss": alone.metrics["loss"]}) < 1e-9
        assert together.metrics["cg_residual"][client] < 1e-9


def test_a_step_against_the_delta_lowers_the_query_loss(points) -> None:
    """delta = server - client: the server goes along -delta."""
    objective, params, episode = tanh_net(points)
    drawn = Episode(*(Batch(part.x[None], part.y[None]) for part in episode))
    before = NET["gradient_descent"].update(objective, params, drawn)
    moved = {name: w - 0.01 * before.delta[name] for name, w in params.items()}
    after = NET["gradient_descent"].update(objective, moved, drawn)
    fall = before.metrics["loss"] - after.metrics["loss"]
    slope = sum((g**2).sum() for g in before.delta.values())
    torch.testing.assert_close(fall, 0.01 * slope, rtol=0.05, atol=0)


def test_update_is_pure(points) -> None:
    objective, params, episode = tanh_net(points)
    before = flat(params)
    first, again = (delta(NET["hessian_free"], objective, params, episode) for _ in range(2))
    assert torch.equal(flat(first), flat(again))
    assert torch.equal(flat(params), before)
    assert not any(w.requires_grad for w in [*params.values(), *first.values()])


class Distances(nn.Module):
    """To learned places, in a norm that torch cannot differentiate twice."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.zeros(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(x, self.places, p=1.5)


@pytest.mark.parametrize("inner", EXACT)
def test_an_operator_without_second_derivatives_is_named(points, inner: str) -> None:
    batch, objective = (
        Batch(points(1, 4, 2), points(1, 4, 3)),
        Objective(Distances(), "mean_squared_error"),
    )
    with pytest.raises(ConfigError, match=r"^learner\.name: imaml needs second .*_cdist_backward"):
        EXACT[inner].update(objective, {"places": points(3, 2)}, Episode(batch, batch))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lam", 0.0),
        ("lam", float("inf")),
        ("inner_lr", -0.1),
        ("damping", -0.5),
        ("damping", float("nan")),
        ("inner_steps", 0),
        ("cg_steps", 0),
    ],
)
def test_settings_out_of_range(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^learner\.{key} must .*, got {value}$"):
        Imaml(**({"lam": 1.0, "inner_lr": 0.1, "inner_steps": 1} | {key: value}))


def test_a_rate_that_diverges_is_refused() -> None:
    """The proximal term alone multiplies by ``1 - lam lr``; Newton steps look before they go."""
    with pytest.raises(ConfigError, match=r"must be below 2, .*; got 20\.0 \* 0\.1 = 2$"):
        Imaml(20.0, 0.1, 1)
    assert Imaml(20.0, 0.1, 1, inner="hessian_free").draws == 1
