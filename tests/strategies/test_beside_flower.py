"""Rules and server optimisers beside Flower's: equal, or apart by exactly what is said here."""

from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy.bulyan import aggregate_n_closest_weights
from flwr.serverapp.strategy.multikrum import compute_distances
from torch import Tensor

from fedmeta.errors import ConfigError
from fedmeta.params import weighted_sum
from fedmeta.types import Metrics, Params
from strategies.bulyan import around_median, bulyan, repeated_krum
from strategies.flower import flower_step
from strategies.gathered import Gathered
from strategies.krum import krum, multi_krum, scores, squared_distances
from strategies.means import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi
from strategies.optimizers import ServerOptimizer
from strategies.robust import median, trimmed_mean
from strategies.weighting import Fair

SHAPES = {"weight": (4, 3), "bias": (3,), "scale": ()}
CLOSE = {"rtol": 1e-10, "atol": 1e-12}
"""Flower sees params - delta, which is rounded to float64; all numbers here are of size 1."""


def draw(seed: int, *leading: int) -> Params:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn((*leading, *shape), generator=generator, dtype=torch.float64)
        for name, shape in SHAPES.items()
    }


def rows(deltas: Params) -> Tensor:
    clients = len(deltas["weight"])
    return torch.cat([values.reshape(clients, -1) for values in deltas.values()], dim=1)


def numbers(delta: Params) -> Tensor:
    return torch.cat([value.reshape(-1) for value in delta.values()])


def said(clients: int, seed: int = 0) -> Metrics:
    generator = torch.Generator().manual_seed(seed)
    examples = torch.randint(1, 50, (clients,), generator=generator)
    return {
        "examples": examples.double(),
        "loss": torch.rand(clients, generator=generator).double() + 0.1,
    }


def flowers(kind: str, deltas: Params, columns: Metrics | None = None, **options: Any) -> Tensor:
    """What Flower makes of deltas, as numbers."""
    columns = columns or said(len(deltas["weight"]))
    return numbers(flower_step(kind, options, draw(99), deltas, columns, {})[0])


SAME = {1, 4, 5, 6}
"""Draws of 12 in which Krum chooses the same clients whether it scores them once or after every pick."""
seeds = pytest.mark.parametrize("seed", range(4))


@seeds
@pytest.mark.parametrize("clients", [1, 6, 7])
def test_means_and_medians(seed: int, clients: int) -> None:
    deltas, columns = draw(seed, clients), said(clients, seed)
    weights = columns["examples"] / columns["examples"].sum()
    mean = numbers(weighted_sum(deltas, weights))
    torch.testing.assert_close(flowers("FedAvg", deltas, columns), mean, **CLOSE)
    torch.testing.assert_close(flowers("FedMedian", deltas), median(rows(deltas)), **CLOSE)


@seeds
@pytest.mark.parametrize(("beta", "trim"), [(0.0, 0), (0.2, 2), (0.29, 2), (0.3, 3), (0.49, 4)])
def test_trimmed_means(seed: int, beta: float, trim: int) -> None:
    """Flower's beta is a share of the clients, rounded down: floor(10 beta)."""
    deltas = draw(seed, 10)
    found = flowers("FedTrimmedAvg", deltas, beta=beta)
    torch.testing.assert_close(found, trimmed_mean(rows(deltas), trim), **CLOSE)


@seeds
@pytest.mark.parametrize("attackers", [0, 1, 3])
def test_krum(seed: int, attackers: int) -> None:
    """And Multi-Krum where clients have equally many examples."""
    deltas, equal = draw(seed, 9), {"examples": torch.full((9,), 5)}
    found = flowers("Krum", deltas, num_malicious_nodes=attackers)
    torch.testing.assert_close(found, krum(rows(deltas), attackers).delta, **CLOSE)
    options = {"num_malicious_nodes": attackers, "num_nodes_to_select": 4}
    found = flowers("MultiKrum", deltas, equal, **options)
    torch.testing.assert_close(found, multi_krum(rows(deltas), attackers, 4).delta, **CLOSE)


def test_flowers_multi_krum_weighs_with_examples() -> None:
    """Which clients say themselves. Ours does not, like the paper."""
    deltas, columns = draw(0, 9), said(9)
    kept = multi_krum(rows(deltas), 2, 4).weights > 0
    weights = columns["examples"] * kept
    expected = (weights / weights.sum()).double() @ rows(deltas)
    options = {"num_malicious_nodes": 2, "num_nodes_to_select": 4}
    torch.testing.assert_close(flowers("MultiKrum", deltas, columns, **options), expected, **CLOSE)
    assert not torch.allclose(multi_krum(rows(deltas), 2, 4).delta, expected, rtol=1e-3)


def test_flowers_krum_takes_any_number_of_attackers() -> None:
    """Of 5 clients 4 may attack: it then looks at one neighbour, and two attackers win."""
    deltas = draw(0, 5)
    deltas = {name: torch.cat([values[:3], 50 + 0 * values[3:]]) for name, values in deltas.items()}
    found = flowers("Krum", deltas, num_malicious_nodes=4)
    torch.testing.assert_close(found, torch.full_like(found, 50.0), **CLOSE)
    with pytest.raises(ConfigError, match=r"strategy\.attackers 4 needs 11 clients or more, got 5"):
        krum(rows(deltas), 4)


def test_flowers_distances_are_between_params_and_lose_their_digits() -> None:
    """1,000 params of 1000 have a square of 10^9. There float32 is in steps of 64, so |x|^2 + |y|^2 - 2 x.y
    is 0 or 64 at least; the clients' squared distance is 2 1000 0.001^2.
    """
    deltas = 1e-3 * torch.randn(8, 1000, generator=torch.Generator().manual_seed(0))
    others = ~np.eye(8, dtype=bool)
    true = squared_distances(deltas.double())[others]
    clients = [ArrayRecord({"w": Array((1000 - delta).numpy())}) for delta in deltas]
    theirs = compute_distances(clients)
    np.testing.assert_allclose(true, 2e-3, rtol=0.2)
    assert (theirs % 64 == 0).all()
    np.testing.assert_allclose(squared_distances(deltas)[others], true, rtol=1e-5)


@seeds
def test_bulyan_without_attackers_and_of_few_numbers(seed: int) -> None:
    """What it does with the clients it has chosen is the same."""
    deltas = draw(seed, 5)
    torch.testing.assert_close(flowers("Bulyan", deltas), bulyan(rows(deltas), 0), **CLOSE)
    values = rows(draw(seed, 9)).numpy()
    middle = np.median(values, axis=0)
    (theirs,) = aggregate_n_closest_weights([middle], [[row] for row in values], 5)
    np.testing.assert_allclose(around_median(np.sort(values, axis=0).T, 5), theirs, rtol=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_flowers_bulyan_scores_clients_once(seed: int) -> None:
    """The paper runs Krum again among those left after each pick; both then average in the same way."""
    clients, attackers = 15, 3
    deltas = draw(seed, clients)
    stack = rows(deltas)
    distances = squared_distances(stack)
    once = np.argsort(scores(distances, attackers))[: clients - 2 * attackers]
    again = repeated_krum(distances, attackers, clients - 2 * attackers)
    found = flowers("Bulyan", deltas, num_malicious_nodes=attackers)
    ordered = np.sort(stack[torch.from_numpy(once)].numpy(), axis=0).T
    expected = torch.from_numpy(around_median(ordered, clients - 4 * attackers))
    torch.testing.assert_close(found, expected, **CLOSE)
    same = set(once.tolist()) == set(again.tolist())
    assert torch.allclose(found, bulyan(stack, attackers)) == same
    assert same == (seed in SAME)


def both(
    ours: ServerOptimizer,
    kind: str,
    options: dict[str, Any],
    memory: dict[str, Tensor],
    rounds: int,
) -> tuple[Params, Params]:
    """Params after some rounds, each by its own way, and Flower's memory at first."""
    left = right = draw(99)
    state: dict[str, dict[str, Tensor]] = {}
    for round in range(rounds):
        deltas, columns = draw(round, 6), said(6, round)
        mean = weighted_sum(deltas, columns["examples"] / columns["examples"].sum())
        left, state = ours.step(left, mean, state, 0.0)
        delta, memory = flower_step(kind, options, right, deltas, columns, memory)
        right = {name: value - delta[name] for name, value in right.items()}
    return left, right


def second_moments(value: float) -> dict[str, Tensor]:
    """Flower's memory with other second moments than none."""
    return {f"v_t/{name}": torch.full_like(old, value) for name, old in draw(99).items()}


def equal(both: tuple[Params, Params]) -> None:
    for name, value in both[0].items():
        torch.testing.assert_close(both[1][name], value, **CLOSE)


def test_fedavg_and_fedavgm() -> None:
    equal(both(FedAvg().rules().optimizer, "FedAvg", {}, {}, 5))
    options = {"server_learning_rate": 0.3, "server_momentum": 0.9}
    equal(both(FedAvgM(0.3, 0.9).rules().optimizer, "FedAvgM", options, {}, 5))


@pytest.mark.parametrize(
    ("ours", "kind"),
    [(FedAdagrad(0.1, 0.3), "FedAdagrad"), (FedYogi(0.1, 0.3, 0.9, 0.99), "FedYogi")],
)
def test_fedadagrad_and_fedyogi_but_for_where_second_moments_begin(
    ours: FedAdagrad | FedYogi, kind: str
) -> None:
    """Algorithm 2 of Reddi et al. 2021 wants v >= tau^2 at first; Flower's is 0."""
    optimizer, options = ours.rules().optimizer, {"eta": 0.1, "tau": 0.3}
    equal(both(optimizer, kind, options, second_moments(0.3**2), 5))
    left, right = both(optimizer, kind, options, {}, 1)
    assert all(bool((abs(right[name] - left[name]) > 1e-4).any()) for name in left)


def first_step(kind: str, options: dict[str, float], delta: float) -> float:
    """Flower's first step from 0 with one client, along the delta."""
    params, columns = {"w": torch.zeros(1).double()}, {"examples": torch.ones(1)}
    deltas = {"w": torch.full((1, 1), delta, dtype=torch.float64)}
    return flower_step(kind, options, params, deltas, columns, {})[0]["w"].item()


@pytest.mark.parametrize(
    ("kind", "ours", "momentum", "growth"),
    [
        ("FedAdagrad", FedAdagrad(0.1, 0.3), 1.0, 1.0),
        ("FedYogi", FedYogi(0.1, 0.3, 0.9, 0.99), 0.1, 0.01),
    ],
)
def test_first_steps_of_fedadagrad_and_fedyogi(
    kind: str, ours: FedAdagrad | FedYogi, momentum: float, growth: float
) -> None:
    """lr (1 - b1) d / (sqrt(v) + tau) with v = growth d^2, for ours plus tau^2, of a delta d > tau."""
    d, tau, lr = 2.0, 0.3, 0.1
    theirs = lr * momentum * d / ((growth * d**2) ** 0.5 + tau)
    assert first_step(kind, {"eta": lr, "tau": tau}, d) == pytest.approx(theirs, rel=1e-12)
    moved, _ = ours.rules().optimizer.step(
        {"w": torch.zeros(1).double()}, {"w": torch.full((1,), d).double()}, {}, 0.0
    )
    expected = lr * momentum * d / ((growth * d**2 + tau**2) ** 0.5 + tau)
    assert -moved["w"].item() == pytest.approx(expected, rel=1e-12)


def test_fedadam_but_for_the_round_that_its_bias_correction_counts() -> None:
    """Flower corrects with the powers of round + 1. From round 0 on it is torch's Adam, for a small tau.

    In its first step, m / (1 - b1) = d and v / (1 - b2) = d^2 are corrected as if after two:
    sqrt(1 - b2^2) / (1 - b1^2) of (1 - b1) / sqrt(1 - b2) is sqrt(1 + b2) / (1 + b1).
    """
    lr, b1, b2, tau = 0.1, 0.9, 0.99, 1e-13
    optimizer = FedAdam(lr, tau, b1, b2).rules().optimizer
    options = {"eta": lr, "beta_1": b1, "beta_2": b2, "tau": tau}
    equal(both(optimizer, "FedAdam", options, {"round": torch.tensor(-1)}, 5))
    ratio = ((1 + b2) ** 0.5) / (1 + b1)
    assert first_step("FedAdam", options, 2.0) == pytest.approx(lr * ratio, rel=1e-9)


def test_fedadam_adds_tau_before_the_bias_correction() -> None:
    """So tau weighs more in early rounds: by 1 / sqrt(1 - b2^2) in the first, of a delta d."""
    lr, b1, b2, tau, d = 0.1, 0.9, 0.99, 0.3, 2.0
    correction = (1 - b2**2) ** 0.5 / (1 - b1**2)
    theirs = lr * correction * (1 - b1) * d / ((1 - b2) ** 0.5 * d + tau)
    options = {"eta": lr, "beta_1": b1, "beta_2": b2, "tau": tau}
    assert first_step("FedAdam", options, d) == pytest.approx(theirs, rel=1e-12)
    zero, delta = {"w": torch.zeros(1).double()}, {"w": torch.full((1,), d).double()}
    moved, _ = FedAdam(lr, tau, b1, b2).rules().optimizer.step(zero, delta, {}, 0.0)
    assert -moved["w"].item() == pytest.approx(lr * d / (d + tau), rel=1e-12)


@seeds
@pytest.mark.parametrize("q", [0.0, 0.5, 2.0])
def test_qfedavg(seed: int, q: float) -> None:
    """Flower adds 1e-10 to the losses, here above 0.1: a relative 1e-9 for each power of q."""
    deltas, columns = draw(seed, 6), said(6, seed)
    found = flowers("QFedAvg", deltas, columns, q=q, client_learning_rate=0.2)
    gathered = Gathered(torch.arange(6), deltas, {"loss_after": columns["loss"]})
    weights, _ = Fair(q, 0.2)(gathered, {})
    expected = numbers(weighted_sum(deltas, weights))
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
