import pytest
import torch
from torch import Tensor

from fedmeta.errors import ConfigError
from fedmeta.learners.sgd import FedProx, LocalSgd
from fedmeta.types import Batch, Episode, Params

RATE, MU = 0.3, 1.5


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def bowls(points, total: int) -> Batch:
    return Batch(torch.eye(4).double().expand(total, -1, -1), points(total, 4))


def split(batch: Batch, at: int) -> Episode:
    return Episode(Batch(*(part[:at] for part in batch)), Batch(*(part[at:] for part in batch)))


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_isotropic_quadratic(quadratic, points, epochs: int) -> None:
    """``p = (c + mu w) / (1 + mu)`` and ``w_E = p + (1 - a (1 + mu))^E (w - p)``."""
    w, support, query = points(3, 4)
    found = FedProx(RATE, epochs, batch_size=2, mu=MU).update(
        quadratic, {"w": w}, quadratic.episodes([support], [query])
    )
    best = ((support + query) / 2 + MU * w) / (1 + MU)
    trained = best + (1 - RATE * (1 + MU)) ** epochs * (w - best)
    close(found.delta["w"], w - trained)
    gaps = trained - torch.stack([support, query])
    close(found.metrics["loss"], (gaps**2).sum(dim=1).mean() / 2)  # without the term


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_general_quadratic(quadratic, points, hessians, epochs: int) -> None:
    """``w_E - p = (I - a (A + mu))^E (w - p)`` about ``p = (A + mu)^-1 (A c + mu w)``."""
    w, centre = points(2, 4)
    a, one = hessians(4), torch.eye(4).to(w)
    bowl = quadratic.batch(centre, a)
    found = FedProx(RATE, epochs, batch_size=2, mu=MU).update(
        quadratic, {"w": w}, quadratic.stack([Episode(bowl, bowl)])
    )
    best = torch.linalg.solve(a + MU * one, a @ centre + MU * w)
    shrink = torch.linalg.matrix_power(one - RATE * (a + MU * one), epochs)
    close(found.delta["w"], w - best - shrink @ (w - best))


@pytest.mark.parametrize("size", [1, 2, 4, 9])
def test_minibatches_run_on_with_one_anchor(quadratic, points, size: int) -> None:
    """Three epochs over five examples; every step is drawn to the w that was received."""
    w, examples = points(4), bowls(points, 5)
    found = FedProx(RATE, 3, size, MU).update(
        quadratic, {"w": w}, quadratic.stack([split(examples, 2)])
    )
    walked, full = w, min(size, 5)
    for step in range(-(-15 // full)):
        centre = examples.y[[i % 5 for i in range(step * full, (step + 1) * full)]].mean(dim=0)
        walked = walked - RATE * (walked - centre + MU * (walked - w))
    close(found.delta["w"], w - walked)


def test_the_squared_norm_goes_over_all_tensors(quadratic, points) -> None:
    """It separates, so either tensor shrinks by the closed form of its own.

    A norm that is not squared would pull with a force of constant length, however far a tensor is.
    """
    params, centre = {"a": points(3), "b": 100 * points(2, 2)}, points(7)

    def loss(params: Params, batch: Batch) -> Tensor:
        return quadratic({"w": torch.cat([w.flatten() for w in params.values()])}, batch)

    found = FedProx(RATE, 4, 2, MU).update(loss, params, quadratic.episodes([centre], [centre]))
    left = 1 - (1 - RATE * (1 + MU)) ** 4
    close(found.delta["a"], left * (params["a"] - centre[:3]) / (1 + MU))
    close(found.delta["b"], left * (params["b"] - centre[3:].reshape(2, 2)) / (1 + MU))


@pytest.mark.parametrize("size", [1, 2, 9])
def test_without_the_term_it_is_local_sgd_to_the_bit(quadratic, points, size: int) -> None:
    w, episode = points(4), quadratic.stack([split(bowls(points, 5), 2)])
    prox = FedProx(RATE, 3, size, mu=0.0).update(quadratic, {"w": w}, episode)
    plain = LocalSgd(RATE, 3, size).update(quadratic, {"w": w}, episode)
    assert torch.equal(prox.delta["w"], plain.delta["w"])
    assert torch.equal(prox.metrics["loss"], plain.metrics["loss"])


def test_the_first_step_does_not_feel_the_term(quadratic, points) -> None:
    """Its gradient at the anchor is 0, where a norm that is not squared has none."""
    w, support, query = points(3, 4)
    episode = quadratic.episodes([support], [query])
    prox = FedProx(RATE, 1, 2, MU).update(quadratic, {"w": w}, episode)
    plain = LocalSgd(RATE, 1, 2).update(quadratic, {"w": w}, episode)
    assert torch.equal(prox.delta["w"], plain.delta["w"])


def test_fine_tuning_is_without_the_term(quadratic, points) -> None:
    """``w_j = c + (1 - a)^j (w - c)``, as after federated averaging."""
    w, centre = points(2, 4)
    walk = FedProx(RATE, 1, 1, MU).trajectory(quadratic, {"w": w}, quadratic.batch(centre), 3)
    expected = [centre + (1 - RATE) ** j * (w - centre) for j in range(4)]
    close(torch.stack([p["w"] for p in walk]), torch.stack(expected))


@pytest.mark.parametrize(
    ("key", "value"),
    [("mu", -0.1), ("mu", float("nan")), ("mu", float("inf")), ("lr", 0.0), ("epochs", 0)],
)
def test_settings_out_of_range(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^learner\.{key} must .*, got {value}$"):
        FedProx(**({"lr": 0.1, "epochs": 1, "batch_size": 1, "mu": 0.1} | {key: value}))


def test_a_term_that_diverges_is_refused() -> None:
    message = r"^learner\.mu times learner\.lr must be below 2, .*; got 20\.0 \* 0\.1 = 2$"
    with pytest.raises(ConfigError, match=message):
        FedProx(0.1, 1, 1, mu=20.0)
    assert FedProx(0.1, 1, 1, mu=19.9).draws == 1
