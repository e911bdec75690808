from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev

from fedmeta.errors import ConfigError
from fedmeta.learners.curvature import difference_quotient, hessian
from fedmeta.learners.per_fedavg import PerFedAvg
from fedmeta.models.mlp import Mlp
from fedmeta.objective import Objective, initial_params
from fedmeta.types import Batch, Episode, Params

ALPHA, BETA = 0.3, 0.6
POWER = {"exact": 2, "first_order": 1, "hessian_free": 2}


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-11, rtol=0)


def joined(*batches: Batch) -> Batch:
    return Batch(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("variant", POWER)
def test_isotropic_quadratic(quadratic, points, variant: str, steps: int) -> None:
    """A meta-step leaves ``1 - beta (1 - alpha)^2`` of ``w - c``; first order the power is 1."""
    w, centre = points(2, 4)
    learner = PerFedAvg(ALPHA, BETA, steps, batch_size=1, variant=variant)
    assert learner.draws == steps
    found = learner.update(
        quadratic, {"w": w}, quadratic.episodes([centre] * steps, [centre] * steps)
    )
    slope, shrunk = (1 - ALPHA) ** POWER[variant], 1 - ALPHA
    left = 1 - BETA * slope
    close(found.delta["w"], (1 - left**steps) * (w - centre))
    losses = [(shrunk * left**t * (w - centre)).norm() ** 2 / 2 for t in range(steps)]
    close(found.metrics["loss"], torch.stack(losses).mean())


@pytest.mark.parametrize("probe", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("variant", POWER)
def test_three_batches_have_a_role_each(
    quadratic, points, hessians, variant: str, probe: float
) -> None:
    """Examples with Hessians A, B, C and centres a, b, c, one in each of D, D', D''.

    ``v = w - alpha A (w - a)``, ``g = B (v - b)``, and the delta is ``beta (I - alpha C) g``: from
    two gradients without error, however far apart. First order it is ``beta g``.
    """
    w, a, b, c = points(4, 4)
    curve_a, curve_b, curve_c = hessians(4), hessians(4), hessians(4)
    query = joined(quadratic.batch(b, curve_b), quadratic.batch(c, curve_c))
    episode = quadratic.stack([Episode(quadratic.batch(a, curve_a), query)])
    found = PerFedAvg(ALPHA, BETA, 1, 1, variant, probe).update(quadratic, {"w": w}, episode)
    adapted = w - ALPHA * curve_a @ (w - a)
    g = curve_b @ (adapted - b)
    close(found.metrics["loss"], (adapted - b) @ g / 2)
    if variant != "first_order":
        g = g - ALPHA * curve_c @ g
    close(found.delta["w"], BETA * g)


def test_the_batches_share_no_example(quadratic, points) -> None:
    """Two examples each of six. D and D' show by their centres, D'' by its mean curvature 0.6."""
    w, centres = points(4), points(6, 4)
    curvatures = torch.tensor([1, 1, 1, 1, 0.5, 0.7], dtype=torch.float64)
    examples = Batch(curvatures[:, None, None] * torch.eye(4).double(), centres)
    episode = Episode(Batch(*(t[:3] for t in examples)), Batch(*(t[3:] for t in examples)))
    found = PerFedAvg(ALPHA, BETA, 1, 2).update(quadratic, {"w": w}, quadratic.stack([episode]))
    first, second = centres[:2].mean(dim=0), centres[2:4].mean(dim=0)
    g = first + (1 - ALPHA) * (w - first) - second
    close(found.delta["w"], BETA * (1 - ALPHA * 0.6) * g)


def test_a_small_episode_is_run_through_again(quadratic, points) -> None:
    """Four examples in batches of two: the third batch is the first."""
    w, centres = points(4), points(4, 4)
    curvatures = torch.tensor([0.5, 0.7, 1, 1], dtype=torch.float64)
    examples = Batch(curvatures[:, None, None] * torch.eye(4).double(), centres)
    episode = Episode(Batch(*(t[:1] for t in examples)), Batch(*(t[1:] for t in examples)))
    found = PerFedAvg(ALPHA, BETA, 1, 2).update(quadratic, {"w": w}, quadratic.stack([episode]))
    slope = (0.5 * (w - centres[0]) + 0.7 * (w - centres[1])) / 2
    g = w - ALPHA * slope - centres[2:].mean(dim=0)
    close(found.delta["w"], BETA * (1 - ALPHA * 0.6) * g)


def test_every_meta_step_has_its_own_episode(quadratic, points) -> None:
    """``w <- w - beta (1 - alpha) (v - q)`` with ``v = s + (1 - alpha)(w - s)``, D'' isotropic."""
    w, supports, queries = points(4), points(3, 4), points(3, 4)
    found = PerFedAvg(ALPHA, BETA, 3, 1).update(
        quadratic, {"w": w}, quadratic.episodes(supports, queries)
    )
    walked = w
    for s, q in zip(supports, queries, strict=True):
        walked = walked - BETA * (1 - ALPHA) * (s + (1 - ALPHA) * (walked - s) - q)
    close(found.delta["w"], w - walked)


def test_adaptation_takes_steps_of_rate_alpha(quadratic, points) -> None:
    """On the whole support, whatever the size of the batches in training."""
    w, first, second = points(3, 4)
    support = joined(quadratic.batch(first), quadratic.batch(second))
    walk = PerFedAvg(ALPHA, BETA, 1, 1).trajectory(quadratic, {"w": w}, support, 3)
    centre = (first + second) / 2
    expected = [centre + (1 - ALPHA) ** j * (w - centre) for j in range(4)]
    close(torch.stack([p["w"] for p in walk]), torch.stack(expected))


# A net


def tanh_net(points) -> tuple[Objective, Params, list[Batch]]:
    objective = Objective(Mlp([3], activation="tanh").build((2,), 1), "mean_squared_error")
    batches = [Batch(points(4, 2), points(4, 1)) for _ in range(3)]
    return objective, initial_params(objective.module, 0, torch.float64), batches


def flat(params: Params) -> Tensor:
    return torch.cat([value.flatten() for value in params.values()])


def one_vector(objective: Objective, like: Params, batch: Batch) -> Callable[[Tensor], Tensor]:
    def loss(vector: Tensor) -> Tensor:
        pieces = vector.split([value.numel() for value in like.values()])
        return objective(
            {n: p.reshape(like[n].shape) for n, p in zip(like, pieces, strict=True)}, batch
        )

    return loss


def exact(objective: Objective, params: Params, batches: list[Batch], order: int) -> Tensor:
    """``(I - alpha H(w; D'')) grad L(w - alpha grad L(w; D); D')`` with the full Hessian."""
    first, second, third = (one_vector(objective, params, batch) for batch in batches)
    w = flat(params)
    g = grad(second)(w - ALPHA * grad(first)(w))
    return g if order == 1 else g - ALPHA * jacrev(grad(third))(w) @ g


def found(learner: PerFedAvg, objective: Objective, params: Params, batches: list[Batch]) -> Tensor:
    """The batches are 2 + 10 examples of one episode."""
    every = joined(*batches)
    episode = Episode(
        Batch(every.x[None, :2], every.y[None, :2]), Batch(*(t[None, 2:] for t in every))
    )
    return flat(learner.update(objective, params, episode).delta) / BETA


@pytest.mark.parametrize("variant", POWER)
def test_is_the_exact_meta_gradient(points, variant: str) -> None:
    """But for two gradients with a step of 1e-4: truncation of order 1e-8, rounding 1e-16 / 1e-4."""
    net = tanh_net(points)
    expected = exact(*net, POWER[variant])
    error = (found(PerFedAvg(ALPHA, BETA, 1, 4, variant, 1e-4), *net) - expected).norm()
    assert error < (1e-8 if variant == "hessian_free" else 1e-12) * expected.norm()


def test_the_error_falls_with_the_square_of_the_probe(points) -> None:
    """Central differences: a third of the probe, a ninth of the error, and probe^2 of that."""
    net = tanh_net(points)
    learner = PerFedAvg(ALPHA, BETA, 1, 4, "hessian_free")
    errors = [
        found(replace(learner, probe=probe), *net) - exact(*net, 2) for probe in (0.03, 0.01, 0.003)
    ]
    assert errors[0].norm() > 1e-9
    torch.testing.assert_close(
        errors[0], 9 * errors[1], rtol=0, atol=2e-3 * errors[0].norm().item()
    )
    torch.testing.assert_close(
        errors[1], (0.01 / 0.003) ** 2 * errors[2], rtol=0, atol=2e-3 * errors[1].norm().item()
    )


def test_the_probe_is_a_length(points) -> None:
    """Gradients are asked for at ``w +- probe v / |v|``, however long v is."""
    asked = []

    def loss(params: Params, batch: Batch) -> Tensor:
        asked.append(flat(params))
        return (flat(params) ** 4).sum()

    w, v = {"a": points(3), "b": points(2, 2)}, {"a": 1e3 * points(3), "b": points(2, 2)}
    quotient = difference_quotient(loss, w, Batch(points(1), points(1)), v, 0.1)
    unit = flat(v) / flat(v).norm()
    close(asked[0], flat(w) + 0.1 * unit)
    close(asked[1], flat(w) - 0.1 * unit)
    slopes = [4 * (flat(w) + side * 0.1 * unit) ** 3 for side in (1, -1)]
    expected = (slopes[0] - slopes[1]) / 0.2 * flat(v).norm()
    torch.testing.assert_close(flat(quotient), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("probe", [1e-2, 1e-4])
def test_a_kink_is_seen_by_differences_alone(probe: float) -> None:
    """|w| + w^2/2 at 0.001: curvature 1; across the kink the quotient adds 2 / (2 probe) to it."""

    def loss(params: Params, batch: Batch) -> Tensor:
        return params["w"].abs().sum() + (params["w"] ** 2).sum() / 2

    w, v = {"w": torch.tensor([1e-3]).double()}, {"w": torch.tensor([1.0]).double()}
    nothing = Batch(torch.zeros(1), torch.zeros(1))
    close(hessian(loss, w, nothing, "")(v)["w"], v["w"])
    crossed = 1 / probe if probe > 1e-3 else 0.0
    quotient = difference_quotient(loss, w, nothing, v, probe)["w"]
    torch.testing.assert_close(quotient, v["w"] + crossed, atol=1e-9, rtol=0)


@pytest.mark.parametrize("variant", POWER)
def test_at_the_optimum_it_stays(quadratic, points, variant: str) -> None:
    """``g = 0`` has no direction to probe along."""
    w = points(4)
    learner = PerFedAvg(ALPHA, BETA, 2, 1, variant)
    episodes = quadratic.episodes([w, w], [w, w])
    assert torch.equal(
        learner.update(quadratic, {"w": w}, episodes).delta["w"], torch.zeros_like(w)
    )


@pytest.mark.parametrize("variant", POWER)
def test_a_step_against_the_delta_lowers_the_loss(quadratic, points, variant: str) -> None:
    """delta = server - client: the server goes along -delta."""
    w, support, query = points(3, 4)
    learner, episodes = PerFedAvg(ALPHA, 0.1, 1, 1, variant), quadratic.episodes([support], [query])
    before = learner.update(quadratic, {"w": w}, episodes)
    after = learner.update(quadratic, {"w": w - before.delta["w"]}, episodes)
    assert after.metrics["loss"] < before.metrics["loss"]


def test_update_is_pure(points) -> None:
    objective, params, batches = tanh_net(points)
    before = flat(params)
    learner = PerFedAvg(ALPHA, BETA, 1, 4)
    first, again = (found(learner, objective, params, batches) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(flat(params), before)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("alpha", 0.0),
        ("alpha", float("inf")),
        ("beta", -1.0),
        ("probe", 0.0),
        ("probe", float("nan")),
        ("local_steps", 0),
        ("batch_size", -3),
    ],
)
def test_settings_out_of_range(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^learner\.{key} must .*, got {value}$"):
        PerFedAvg(**({"alpha": 0.1, "beta": 0.1, "local_steps": 1, "batch_size": 1} | {key: value}))
