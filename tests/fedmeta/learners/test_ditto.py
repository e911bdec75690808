from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedmeta.errors import ConfigError
from fedmeta.learners.ditto import Ditto
from fedmeta.learners.sgd import LocalSgd
from fedmeta.models.mlp import Mlp
from fedmeta.objective import Objective, initial_params
from fedmeta.types import Batch, Episode, Params

RATE, LAM = 0.2, 2.0


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def both(w: Tensor, v: Tensor) -> Params:
    return {"w": w, "personal/w": v}


def uneven(points) -> Batch:
    """Five isotropic examples with centres of their own."""
    return Batch(torch.eye(4).double().expand(5, -1, -1), points(5, 4))


def split(batch: Batch, at: int) -> Episode:
    return Episode(Batch(*(part[:at] for part in batch)), Batch(*(part[at:] for part in batch)))


@pytest.mark.parametrize("epochs", [1, 3, 5])
def test_personal_params_on_the_isotropic_quadratic(quadratic, points, epochs: int) -> None:
    """``v* = (c + lam w) / (1 + lam)`` and ``v_E - v* = (1 - a (1 + lam))^E (v - v*)``."""
    w, v, support, query = points(4, 4)
    found = Ditto(RATE, epochs, batch_size=2, lam=LAM).update(
        quadratic, both(w, v), quadratic.episodes([support], [query])
    )
    best = ((support + query) / 2 + LAM * w) / (1 + LAM)
    expected = best + (1 - RATE * (1 + LAM)) ** epochs * (v - best)
    assert found.state.keys() == {"personal/w"}
    close(found.state["personal/w"], expected)
    gaps = expected - torch.stack([support, query])
    close(found.metrics["personal_loss"], (gaps**2).sum(dim=1).mean() / 2)


@pytest.mark.parametrize("epochs", [1, 4])
def test_personal_params_on_a_general_quadratic(quadratic, points, hessians, epochs: int) -> None:
    """``v_E - v* = (I - a (A + lam))^E (v - v*)`` about ``v* = (A + lam)^-1 (A c + lam w)``."""
    w, v, centre = points(3, 4)
    a, one = hessians(4), torch.eye(4).to(w)
    bowl = quadratic.batch(centre, a)
    found = Ditto(RATE, epochs, batch_size=2, lam=LAM).update(
        quadratic, both(w, v), quadratic.stack([Episode(bowl, bowl)])
    )
    best = torch.linalg.solve(a + LAM * one, a @ centre + LAM * w)
    shrink = torch.linalg.matrix_power(one - RATE * (a + LAM * one), epochs)
    close(found.state["personal/w"], best + shrink @ (v - best))


def test_personal_params_go_on_from_round_to_round(quadratic, points) -> None:
    """Three rounds with a new w each: ``v <- v - a (v - c + lam (v - w_t))`` throughout."""
    shared, v, centre = points(3, 4), points(4), points(4)
    learner, params = Ditto(RATE, 2, 2, LAM), both(shared[0], v)
    for w in shared:
        params = params | {"w": w}
        params |= learner.update(quadratic, params, quadratic.episodes([centre], [centre])).state
        for _ in range(2):
            v = v - RATE * (v - centre + LAM * (v - w))
    close(params["personal/w"], v)


@pytest.mark.parametrize("size", [1, 2, 9])
def test_both_models_see_the_same_minibatches(quadratic, points, size: int) -> None:
    """Three epochs over five examples, on across the end of an epoch."""
    w, v, examples = points(4), points(4), uneven(points)
    found = Ditto(RATE, 3, size, LAM).update(
        quadratic, both(w, v), quadratic.stack([split(examples, 2)])
    )
    walked, full = w, min(size, 5)
    for step in range(-(-15 // full)):
        centre = examples.y[[i % 5 for i in range(step * full, (step + 1) * full)]].mean(dim=0)
        walked = walked - RATE * (walked - centre)
        v = v - RATE * (v - centre + LAM * (v - w))
    close(found.delta["w"], w - walked)
    close(found.state["personal/w"], v)


@pytest.mark.parametrize("far", [0.0, 1.0, 100.0])
def test_the_shared_params_are_averaged_as_if_alone(quadratic, points, far: float) -> None:
    """To the bit what local SGD sends, wherever the personal params are."""
    w, v, examples = points(4), far * points(4), uneven(points)
    episode = quadratic.stack([split(examples, 2)])
    found = Ditto(RATE, 3, 2, LAM).update(quadratic, both(w, v), episode)
    plain = LocalSgd(RATE, 3, 2).update(quadratic, {"w": w}, episode)
    assert found.delta.keys() == {"w"}
    assert torch.equal(found.delta["w"], plain.delta["w"])
    assert torch.equal(found.metrics["loss"], plain.metrics["loss"])


def test_without_the_pull_it_is_local_training(quadratic, points) -> None:
    """``lam = 0``: v goes where local SGD takes it, and w is of no account."""
    w, v, examples = points(4), points(4), uneven(points)
    episode = quadratic.stack([split(examples, 2)])
    found = Ditto(RATE, 3, 2, lam=0.0).update(quadratic, both(w, v), episode)
    alone = LocalSgd(RATE, 3, 2).update(quadratic, {"w": v}, episode)
    close(found.state["personal/w"], v - alone.delta["w"])


def test_a_strong_pull_brings_it_to_the_shared_params(quadratic, points) -> None:
    """``v* - w = (c - w) / (1 + lam)``: a hundred times the lam, about a hundredth of it."""
    w, v, centre = points(3, 4)
    for lam in (1e2, 1e4):
        found = Ditto(1 / (1 + lam), 1, 2, lam).update(  # this rate leaves nothing of v - v*
            quadratic, both(w, v), quadratic.episodes([centre], [centre])
        )
        close(found.state["personal/w"] - w, (centre - w) / (1 + lam))


def test_an_unseen_client_begins_with_the_shared_params(quadratic, points) -> None:
    """``v_j = v* + (1 - a (1 + lam))^j (w - v*)``; what another has as its own plays no part."""
    w, v, centre = points(3, 4)
    walk = list(
        Ditto(RATE, 1, 1, LAM).trajectory(quadratic, both(w, v), quadratic.batch(centre), 3)
    )
    best = (centre + LAM * w) / (1 + LAM)
    expected = [best + (1 - RATE * (1 + LAM)) ** j * (w - best) for j in range(4)]
    assert all(params.keys() == {"w"} for params in walk)
    close(torch.stack([params["w"] for params in walk]), torch.stack(expected))


def test_it_begins_with_copies_and_keeps_them_private(points) -> None:
    objective = Objective(Mlp([3]).build((2,), 1), "mean_squared_error")
    model = initial_params(objective.module, 0, torch.float64)
    learner = Ditto(RATE, 1, 2, LAM)
    params = learner.init(objective, model, torch.Generator())
    mine = {f"personal/{name}" for name in model}
    assert learner.keeps_state
    assert params.keys() == model.keys() | mine
    assert learner.private(params) == mine
    for name, w in model.items():
        assert torch.equal(params[f"personal/{name}"], w)
        assert params[f"personal/{name}"].data_ptr() != w.data_ptr()
    episodes = Episode(*(Batch(points(1, n, 2), points(1, n, 1)) for n in (3, 2)))
    before = {name: w.clone() for name, w in params.items()}
    found = learner.update(objective, params, episodes)
    assert found.delta.keys() == model.keys()
    assert found.state.keys() == mine
    assert all(torch.equal(params[name], w) for name, w in before.items())


def test_on_a_net_the_pull_is_the_gradient_of_the_term(points, relative_error) -> None:
    """By torch.optim: ``L(v) + lam / 2 |v - w|^2``, four steps through two batches."""
    objective = Objective(Mlp([3], activation="tanh").build((2,), 1), "mean_squared_error")
    params = initial_params(objective.module, 0, torch.float64)
    params |= {
        f"personal/{n}": w for n, w in initial_params(objective.module, 1, torch.float64).items()
    }
    x, y = points(6, 2), points(6, 1)
    episode = Episode(Batch(x[None, :2], y[None, :2]), Batch(x[None, 2:], y[None, 2:]))
    found = Ditto(RATE, 2, 3, LAM).update(objective, params, episode)

    net = objective.module
    shared = {n: w for n, w in params.items() if not n.startswith("personal/")}
    net.load_state_dict({n: params[f"personal/{n}"].clone() for n in shared}, assign=True)
    net.requires_grad_()
    steps = torch.optim.SGD(net.parameters(), lr=RATE)
    for start in (0, 3, 0, 3):
        steps.zero_grad()
        fit = torch.nn.functional.mse_loss(net(x[start : start + 3]), y[start : start + 3])
        term = sum(((v - shared[n]) ** 2).sum() for n, v in net.named_parameters())
        (fit + LAM / 2 * term).backward()
        steps.step()
    expected = {f"personal/{n}": v.detach() for n, v in net.named_parameters()}
    assert relative_error(found.state, expected) < 1e-12


@pytest.mark.parametrize(
    ("key", "value"), [("lam", -0.1), ("lam", float("nan")), ("lr", 0.0), ("batch_size", 0)]
)
def test_settings_out_of_range(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^learner\.{key} must .*, got {value}$"):
        replace(Ditto(0.1, 1, 1, 0.1), **{key: value})


def test_a_pull_that_diverges_is_refused() -> None:
    message = r"^learner\.lam times learner\.lr must be below 2, .*; got 20\.0 \* 0\.1 = 2$"
    with pytest.raises(ConfigError, match=message):
        Ditto(0.1, 1, 1, lam=20.0)
