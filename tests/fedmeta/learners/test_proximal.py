from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev

from fedmeta.errors import ConfigError
from fedmeta.learners.inner_loop import proximal
from fedmeta.learners.proximal import MinibatchProx, PFedMe
from fedmeta.models.mlp import Mlp
from fedmeta.objective import Objective, initial_params
from fedmeta.types import Batch, Episode, Params

LAM, RATE = 2.0, 0.2
LEFT = 1 - RATE * (1 + LAM)  # of ``w - v*``, by one inner step on the isotropic quadratic


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def bowls(points, total: int) -> Batch:
    """Isotropic examples with centres of their own."""
    return Batch(torch.eye(4).double().expand(total, -1, -1), points(total, 4))


def split(batch: Batch, at: int) -> Episode:
    return Episode(Batch(*(part[:at] for part in batch)), Batch(*(part[at:] for part in batch)))


def test_the_term_is_half_the_squared_distance_over_all_tensors(points) -> None:
    """``L + lam / 2 (|a - a_0|^2 + |b - b_0|^2)``; norms that are not squared would add up to less."""
    params, anchor = ({"a": points(3), "b": points(2, 2)} for _ in range(2))
    gaps = torch.cat([(params[name] - anchor[name]).flatten() for name in params])
    found = proximal(lambda params, batch: params["a"].sum(), anchor, 3.0)(params, bowls(points, 1))
    close(found, params["a"].sum() + 1.5 * gaps @ gaps)


@pytest.mark.parametrize("steps", [1, 3, 5, 80])
def test_isotropic_quadratic(quadratic, points, steps: int) -> None:
    """``v* = (c + lam w) / (1 + lam)`` and ``v_K - v* = (1 - b (1 + lam))^K (w - v*)``.

    All examples count, so c is the mean of both centres. The delta is ``lam (w - v_K)``.
    """
    w, support, query = points(3, 4)
    found = MinibatchProx(LAM, RATE, steps, batch_size=2).update(
        quadratic, {"w": w}, quadratic.episodes([support], [query])
    )
    centre = (support + query) / 2
    best = (centre + LAM * w) / (1 + LAM)
    near = best + LEFT**steps * (w - best)
    close(found.delta["w"], LAM * (w - near))
    gaps = near - torch.stack([support, query])
    close(found.metrics["loss"], (gaps**2).sum(dim=1).mean() / 2)
    if steps == 80:  # 0.4^80 is left: the envelope's own gradient
        close(found.delta["w"], LAM / (1 + LAM) * (w - centre))


def test_general_quadratic(quadratic, points, hessians) -> None:
    """``lam (A + lam)^-1 A (w - c)`` for the mean loss with ``A = (3 S + 5 Q) / 8`` and its centre c."""
    w, support, query = points(3, 4)
    s, q = hessians(4), hessians(4)
    episode = Episode(quadratic.batch(support, s, 3), quadratic.batch(query, q, 5))
    found = MinibatchProx(LAM, RATE, 60, batch_size=8).update(
        quadratic, {"w": w}, quadratic.stack([episode])
    )
    a = (3 * s + 5 * q) / 8
    centre = torch.linalg.solve(a, (3 * s @ support + 5 * q @ query) / 8)
    shrunk = torch.linalg.solve(a + LAM * torch.eye(4).to(w), a @ (w - centre))
    close(found.delta["w"], LAM * shrunk)


@pytest.mark.parametrize(("size", "steps"), [(1, 7), (2, 4), (3, 3), (5, 2), (9, 2)])
def test_inner_steps_run_through_minibatches_of_support_and_query(
    quadratic, points, size: int, steps: int
) -> None:
    """Five examples; a step pulls to the mean c of its batch and to the w of the start."""
    w, examples = points(4), bowls(points, 5)
    found = MinibatchProx(LAM, RATE, steps, size).update(
        quadratic, {"w": w}, quadratic.stack([split(examples, 3)])
    )
    v, full = w, min(size, 5)
    for step in range(steps):
        centre = examples.y[[i % 5 for i in range(step * full, (step + 1) * full)]].mean(dim=0)
        v = v - RATE * (v - centre + LAM * (v - w))
    close(found.delta["w"], LAM * (w - v))


def test_trajectory_is_held_near_where_it_began(quadratic, points) -> None:
    w, centre = points(2, 4)
    bowl = quadratic.batch(centre)
    found = [
        p["w"] for p in MinibatchProx(LAM, RATE, 9, 1).trajectory(quadratic, {"w": w}, bowl, 3)
    ]
    best = (centre + LAM * w) / (1 + LAM)
    close(torch.stack(found), torch.stack([best + LEFT**j * (w - best) for j in range(4)]))


@pytest.mark.parametrize("inner_steps", [1, 3, 80])
@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_local_rounds_of_pfedme(quadratic, points, rounds: int, inner_steps: int) -> None:
    """``w_R - c = (1 - eta lam / (1 + lam) (1 - rho))^R (w - c)``, ``rho = (1 - b (1 + lam))^K``.

    At K = 80 rho is 0, as with the exact personal params.
    """
    w, centre = points(2, 4)
    learner = PFedMe(LAM, RATE, inner_steps, 2, local_steps=rounds, local_lr=0.7)
    assert learner.draws == rounds
    found = learner.update(
        quadratic, {"w": w}, quadratic.episodes([centre] * rounds, [centre] * rounds)
    )
    left = 1 - 0.7 * LAM / (1 + LAM) * (1 - LEFT**inner_steps)
    close(found.delta["w"], (1 - left**rounds) * (w - centre))


def test_every_local_step_has_its_own_episode_and_anchor(quadratic, points) -> None:
    """``w <- w - eta lam / (1 + lam) (w - c_r)`` through episodes with centres ``c_r``."""
    w, supports, queries = points(4), points(3, 4), points(3, 4)
    found = PFedMe(LAM, RATE, 80, 2, local_steps=3, local_lr=0.7).update(
        quadratic, {"w": w}, quadratic.episodes(supports, queries)
    )
    walked = w
    for centre in (supports + queries) / 2:
        walked = walked - 0.7 * LAM / (1 + LAM) * (walked - centre)
    close(found.delta["w"], w - walked)


def test_one_local_step_of_rate_1_is_the_envelope_gradient(quadratic, points) -> None:
    w, episode = points(4), quadratic.stack([split(bowls(points, 5), 3)])
    prox = MinibatchProx(LAM, RATE, 3, 2).update(quadratic, {"w": w}, episode)
    pfedme = PFedMe(LAM, RATE, 3, 2, local_steps=1, local_lr=1.0)
    assert torch.equal(pfedme.update(quadratic, {"w": w}, episode).delta["w"], prox.delta["w"])


def test_finite_differences_of_the_envelope(points, relative_error) -> None:
    """Of ``min_v L(v) + lam / 2 |v - w|^2`` on a net of 9 params, minimised by full Newton steps.

    Five points with step h: truncation of order h^4 = 1e-12, rounding of order 1e-16 / h = 1e-13.
    """
    objective = Objective(Mlp([2], activation="tanh").build((2,), 1), "mean_squared_error")
    params = initial_params(objective.module, 0, torch.float64)
    examples = Batch(points(7, 2), points(7, 1))

    def envelope(w: Tensor) -> Tensor:
        def inner(v: Tensor) -> Tensor:
            return objective(shaped(v, params), examples) + LAM / 2 * ((v - w) ** 2).sum()

        v = w
        for _ in range(5):
            v = v - torch.linalg.solve(jacrev(grad(inner))(v), grad(inner)(v))
        return inner(v)

    w = torch.cat([value.flatten() for value in params.values()])
    expected = shaped(five_point_differences(envelope, w), params)
    drawn = Episode(*(Batch(part.x[None], part.y[None]) for part in split(examples, 3)))
    found = MinibatchProx(LAM, RATE, 100, batch_size=7).update(objective, params, drawn)
    assert relative_error(found.delta, expected) < 1e-9


def shaped(vector: Tensor, like: Params) -> Params:
    pieces = vector.split([value.numel() for value in like.values()])
    return {n: p.reshape(like[n].shape) for n, p in zip(like, pieces, strict=True)}


def five_point_differences(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    step, slopes = 1e-3, torch.empty_like(x)
    for i, unit in enumerate(torch.eye(len(x)).to(x)):
        near, far = (function(x + m * unit) - function(x - m * unit) for m in (step, 2 * step))
        slopes[i] = (8 * near - far) / (12 * step)
    return slopes


def test_a_step_against_the_delta_lowers_the_loss(quadratic, points) -> None:
    """delta = server - client: the server goes along -delta."""
    w, episode = points(4), quadratic.stack([split(bowls(points, 5), 3)])
    learner = MinibatchProx(LAM, RATE, 60, 5)
    before = learner.update(quadratic, {"w": w}, episode)
    after = learner.update(quadratic, {"w": w - 0.1 * before.delta["w"]}, episode)
    assert after.metrics["loss"] < before.metrics["loss"]


def test_update_is_pure(quadratic, points) -> None:
    w, episode = points(4), quadratic.stack([split(bowls(points, 5), 3)])
    params = {"w": w.clone()}
    first, again = (
        MinibatchProx(LAM, RATE, 3, 2).update(quadratic, params, episode) for _ in range(2)
    )
    assert torch.equal(first.delta["w"], again.delta["w"])
    assert torch.equal(params["w"], w)


SETTINGS = {"lam": 1.0, "inner_lr": 0.1, "inner_steps": 1, "batch_size": 1}


@pytest.mark.parametrize("learner", [MinibatchProx, PFedMe])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lam", 0.0),
        ("lam", -1.0),
        ("lam", float("inf")),
        ("inner_lr", float("nan")),
        ("inner_steps", 0),
        ("batch_size", -2),
        ("local_steps", 0),
        ("local_lr", 0.0),
    ],
)
def test_settings_out_of_range(learner: type[MinibatchProx], key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^learner\.{key} must .*, got {value}$"):
        learner(**(SETTINGS | {key: value}))


@pytest.mark.parametrize("rate", ["inner_lr", "local_lr"])
def test_rates_that_diverge_are_refused(rate: str) -> None:
    """Steps on the proximal term alone multiply by ``1 - lam lr``: at 2 they no longer shrink."""
    many = SETTINGS | {"lam": 4.0, "local_steps": 2, "local_lr": 0.1}
    message = rf"^learner\.lam times learner\.{rate} must be below 2, .*; got 4\.0 \* 0\.5 = 2$"
    with pytest.raises(ConfigError, match=message):
        MinibatchProx(**(many | {rate: 0.5}))
    MinibatchProx(**(many | {rate: 0.49}))


def test_a_single_local_step_may_have_any_rate() -> None:
    """It scales the delta and iterates nothing."""
    assert MinibatchProx(**(SETTINGS | {"lam": 4.0})).local_lr == 1.0
