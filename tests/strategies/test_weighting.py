"""What a delta counts: papers' formulas computed plainly, oracles of other libraries, and limits."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import spence
from torch import Tensor

from fedmeta.measuring import loss_sigmoid
from strategies.gathered import Gathered, Memory
from strategies.optimizers import ServerOptimizer
from strategies.rules import Rules
from strategies.weighting import (
    WEIGHTINGS,
    Fair,
    LossSigmoid,
    Minimax,
    Stale,
    Tilted,
    Weighting,
    on_simplex,
)

SGD = ServerOptimizer("SGD", 1.0)
LOSSES = [0.1, 0.5, 1.0, 2.0, 4.0]


def gathered(losses: list[float], deltas: Tensor | None = None, **columns: list[float]) -> Gathered:
    """Clients 0, 1, ... with these losses after adaptation."""
    count = len(losses)
    deltas = torch.ones(count, 2, dtype=torch.float64) if deltas is None else deltas
    said = {"loss_after": losses, "examples": [1.0 + c for c in range(count)], **columns}
    doubles = {name: torch.tensor(values, dtype=torch.float64) for name, values in said.items()}
    return Gathered(torch.arange(count), {"w": deltas}, doubles)


def alphas(losses: list[float]) -> list[float]:
    """Of clients with one query example each."""
    one = torch.ones(1, dtype=torch.float64)
    return [float(loss_sigmoid(loss * one, one)) for loss in losses]


def weigh(weighting: Weighting, found: Gathered, memory: Memory | None = None) -> list[float]:
    return weighting(found, memory or {})[0].tolist()


# A federation of clients with the losses h |w - c|^2 / 2 + f, whose delta is the gradient


@dataclass(frozen=True)
class Quadratics:
    curvatures: Tensor
    centres: Tensor
    """``[clients, numbers]``"""
    floors: Tensor

    def losses(self, w: Tensor) -> Tensor:
        return self.curvatures * (w - self.centres).square().sum(dim=1) / 2 + self.floors

    def gradients(self, w: Tensor) -> Tensor:
        return self.curvatures[:, None] * (w - self.centres)

    def gathered(self, w: Tensor, lr: float = 1.0) -> Gathered:
        losses = self.losses(w).tolist()
        return gathered(losses, lr * self.gradients(w))

    def descended(self, rules: Rules, steps: int, lr: float = 1.0) -> Tensor:
        """What rounds with all clients, of one gradient step each, come to from the origin."""
        w, memory = torch.zeros(self.centres.shape[1], dtype=torch.float64), Memory()
        for _ in range(steps):
            outcome = rules.weigh(self.gathered(w, lr), memory)
            memory = outcome.memory
            w = w - rules.optimizer.lr * outcome.delta["w"]
        return w


def drawn(seed: int, clients: int = 5) -> Quadratics:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    return Quadratics(0.5 + draw(clients), 3 * draw(clients, 2), draw(clients))


def slope(function: Callable[[Tensor], float], w: Tensor) -> Tensor:
    """By central differences: of a smooth function off by about ``step^2``."""
    steps = 1e-5 * torch.eye(len(w), dtype=torch.float64)
    return torch.tensor([(function(w + s) - function(w - s)) / 2e-5 for s in steps]).double()


def test_the_raw_sum_of_loss_sigmoid_weights_descends_its_objective() -> None:
    """``sum_i alpha_i grad L_i = grad sum_i Phi(L_i)`` for one example a client, where
    ``Phi(L) = logit a - ln(a)^2 / 2 - Li2(a) + pi^2 / 12``."""
    clients, w = drawn(0), torch.tensor([0.3, -0.2], dtype=torch.float64)
    losses = clients.losses(w).tolist()
    said = gathered(losses, clients.gradients(w), alpha=alphas(losses))
    found = Rules(LossSigmoid(normalise="none"), SGD).weigh(said, {}).delta["w"]
    expected = slope(lambda v: sum(map(phi, clients.losses(v).tolist())), w)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def phi(loss: float) -> float:
    (a,) = alphas([loss])
    dilogarithm = spence(1 - a)
    return float(np.log(a / (1 - a)) - np.log(a) ** 2 / 2 - dilogarithm + np.pi**2 / 12)


@pytest.mark.parametrize(("loss", "value"), [(1, 0.57381), (2.303, 1.59094), (6, 5.18003), (0, 0)])
def test_the_objective_of_loss_sigmoid_weights(loss: float, value: float) -> None:
    assert phi(loss) == pytest.approx(value, abs=5e-6)


def test_normalisations_of_loss_sigmoid_weights() -> None:
    each = alphas(LOSSES)
    found = gathered(LOSSES, alpha=each)
    divisors = {"sum": sum(each), "mean": 5, "none": 1}
    for normalise, divisor in divisors.items():
        weights = weigh(LossSigmoid(normalise=normalise), found)  # type: ignore[arg-type]
        assert weights == pytest.approx([a / divisor for a in each], rel=1e-15)


@pytest.mark.parametrize("loss", [0.0, 0.7, 1e3])
def test_equal_losses_weigh_as_if_nobody_looked_at_them(loss: float) -> None:
    """The whole step is that of the unweighted method: to the bit, for all shares are ``a / 5 a``."""
    deltas = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = gathered([loss] * 5, deltas, alpha=alphas([loss] * 5))
    rules, plain = (Rules(w, SGD) for w in (LossSigmoid(), WEIGHTINGS["uniform"]))
    params = {"w": torch.ones(3, dtype=torch.float64)}
    stepped, expected = (
        r.optimizer.step(params, r.weigh(found, {}).delta, {}, 0.0)[0]["w"] for r in (rules, plain)
    )
    torch.testing.assert_close(stepped, expected, rtol=1e-15, atol=1e-15)


def test_sizes_and_nothing_are_what_is_said_or_one() -> None:
    found = gathered(
        LOSSES, one=[9.0, 1.0, 1.0, 1.0, 1.0]
    )  # a column that a client may well call so
    assert weigh(WEIGHTINGS["examples"], found) == [(c + 1) / 15 for c in range(5)]
    assert weigh(WEIGHTINGS["uniform"], found) == [1 / 5] * 5


@given(st.integers(0, 99), st.sampled_from([0, 0.3, 1, 2.5, 5]), st.sampled_from([0.01, 1, 7]))
@settings(max_examples=60, deadline=None)
def test_the_step_of_q_fedavg_is_the_papers(seed: int, q: float, lr: float) -> None:
    """Li et al. 2020, Algorithm 2, with ``L = 1 / lr``; ``w - w_k`` is the delta."""
    clients, w = drawn(seed), torch.tensor([0.3, -0.2], dtype=torch.float64)
    found = clients.gathered(w, lr)
    numerator, denominator = np.zeros(2), 0.0
    for loss, delta in zip(clients.losses(w).tolist(), found.deltas["w"].numpy(), strict=True):
        step = delta / lr
        numerator += loss**q * step
        denominator += q * loss ** (q - 1) * (step**2).sum() + loss**q / lr
    delta = Rules(Fair(q, lr), SGD).weigh(found, {}).delta["w"]
    np.testing.assert_allclose(delta.numpy(), numerator / denominator, rtol=1e-13, atol=1e-16)


def test_without_q_all_clients_count_the_same() -> None:
    for local_lr in (0.01, 1.0, 3.0):
        assert weigh(Fair(0.0, local_lr), gathered(LOSSES)) == pytest.approx([0.2] * 5, rel=1e-15)


def test_a_q_fair_step_of_one_client_has_no_rate_to_choose() -> None:
    """Of ``F = h w^2 / 2`` alone with q = 1: ``F g / (g^2 + L F)``, and ``g^2 = 2 h F``: the step is
    ``w h / (2 h + L)``, whatever the loss is and however far the minimum."""
    for w in (1e-3, 1.0, 1e4):
        h, lr = 3.0, 0.05
        delta = torch.tensor([[lr * h * w]], dtype=torch.float64)
        (weight,) = weigh(Fair(1.0, lr), gathered([h * w**2 / 2], delta))
        assert weight * float(delta) == pytest.approx(w * h / (2 * h + 1 / lr), rel=1e-12)


def test_the_larger_q_the_more_alike_are_the_losses() -> None:
    """At what q-FedAvg converges to on one and the same federation; q = 0 has the least mean loss."""
    clients = drawn(3)
    found = [
        clients.losses(clients.descended(Rules(Fair(q, 0.3), SGD), 200, 0.3)) for q in (0, 1, 5)
    ]
    spreads, means = [float(each.std()) for each in found], [float(each.mean()) for each in found]
    assert spreads[0] > spreads[1] > spreads[2]
    assert means[0] < means[1] < means[2]


@pytest.mark.parametrize("q", [0.0, 0.5, 1.0, 5.0])
def test_losses_of_any_size_give_a_finite_step(q: float) -> None:
    """0 has no power below 0, and the fifth power of 1e70 is no number."""
    weights = torch.tensor(weigh(Fair(q, 0.1), gathered([0.0, 1e-300, 1.0, 1e70])))
    assert weights.isfinite().all()
    assert 0 < weights.sum() <= 1 + 1e-12
    assert torch.tensor(weigh(Fair(q, 0.1), gathered([0.0, 0.0]))).isfinite().all()


def test_tilted_weights_descend_the_tilted_loss() -> None:
    """``(1/t) log mean_i exp(t F_i)`` (Li et al. 2021, Lemma 1), for both signs of t."""
    clients, w = drawn(1), torch.tensor([0.3, -0.2], dtype=torch.float64)
    for t in (-2.0, 0.5, 3.0):
        found = Rules(Tilted(t), SGD).weigh(clients.gathered(w), {}).delta["w"]
        expected = slope(lambda v, t=t: float((t * clients.losses(v)).exp().mean().log() / t), w)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_limits_of_the_tilt() -> None:
    """0 is the uniform mean; at 2000 a loss 0.4 from the extreme counts exp(-800), which is 0."""
    assert weigh(Tilted(0.0), gathered(LOSSES)) == [0.2] * 5
    assert weigh(Tilted(2000.0), gathered(LOSSES)) == [0, 0, 0, 0, 1]
    assert weigh(Tilted(-2000.0), gathered(LOSSES)) == [1, 0, 0, 0, 0]
    assert weigh(Tilted(1.0), gathered([1e5, 1e5])) == [0.5, 0.5]


def nearest(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The one shift at which what is left above 0 sums to 1, by bisection: the projection's KKT point."""
    most = values.max()
    shift = brentq(lambda s: np.maximum(values - s, 0).sum() - 1, most - 1 - 1e-9, most, xtol=1e-15)
    return np.maximum(values - shift, 0)


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_the_nearest_point_of_the_simplex(values: list[float]) -> None:
    found = on_simplex(torch.tensor(values, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(found, nearest(np.array(values)), atol=1e-12)
    others = np.random.default_rng(0).dirichlet(np.ones(len(values)), size=200)
    assert (((others - values) ** 2).sum(axis=1) >= ((found - values) ** 2).sum() - 1e-12).all()


def test_lambda_after_one_round() -> None:
    """From 1/3 each, up by 0.1 times 1, 2 and 4: 0.4333, 0.5333, 0.7333, and 0.7/3 less to sum to 1."""
    weights, memory = Minimax(0.1)(gathered([1.0, 2.0, 4.0]), {})
    assert weights.tolist() == pytest.approx([1 / 3] * 3)
    risen = np.array([1 / 3 + 0.1, 1 / 3 + 0.2, 1 / 3 + 0.4])
    assert memory["lambda"].tolist() == pytest.approx((risen - 0.7 / 3).tolist())
    assert memory["clients"].tolist() == [0, 1, 2]


def test_lambda_of_clients_that_come_and_go() -> None:
    """Client 5 comes in with the mean of 0.7 and 0.3, so all are 2/3 of what they were; of the two that
    are there it counts 1/3 in 1/3 + 0.2. Client 2, which is away, has no part in the ascent."""
    before = {"clients": torch.tensor([2, 9]), "lambda": torch.tensor([0.7, 0.3]).double()}
    here = gathered([3.0, 1.0]).some(torch.tensor([0, 1]))
    here = Gathered(torch.tensor([5, 9]), here.deltas, here.columns)
    weights, memory = Minimax(0.01)(here, before)
    assert memory["clients"].tolist() == [2, 5, 9]
    new, old, away = 1 / 3, 0.2, 0.7 / 1.5
    assert weights.tolist() == pytest.approx([new / (new + old), old / (new + old)])
    assert memory["lambda"].tolist() == pytest.approx(
        [away - 0.04 / 3, new + 0.03 - 0.04 / 3, old + 0.01 - 0.04 / 3]
    )
    assert before["clients"].tolist() == [2, 9]


def test_clients_whose_lambda_is_zero_share_a_round_alike() -> None:
    before = {"clients": torch.tensor([0, 1, 7]), "lambda": torch.tensor([0, 0, 1.0]).double()}
    assert weigh(Minimax(0.1), gathered([1.0, 2.0]), before) == [0.5, 0.5]


def test_a_huge_loss_takes_lambda_and_stops_nothing() -> None:
    """Beside 1e38 the 1 that shares sum to is below the last bit."""
    _, memory = Minimax(0.1)(gathered([1.0, 1e38, 2.0]), {})
    assert memory["lambda"].tolist() == [0, 1, 0]


def test_afl_comes_to_the_minimax_point_of_two_quadratics() -> None:
    """``w^2 / 2`` and ``4 (w - 1)^2 / 2`` are equal where ``w = 2 (1 - w)``: at 2/3, and there
    ``lambda w = 4 (1 - lambda) (1 - w)``: lambda is 2/3 too. The mean alone would come to 4/5."""
    clients = Quadratics(
        torch.tensor([1.0, 4.0]).double(),
        torch.tensor([[0.0], [1.0]]).double(),
        torch.zeros(2).double(),
    )
    optimizer = ServerOptimizer("SGD", 0.1)
    fair = clients.descended(Rules(Minimax(0.1), optimizer), 200)
    assert float(fair) == pytest.approx(2 / 3, abs=1e-6)
    assert clients.losses(fair).tolist() == pytest.approx([2 / 9, 2 / 9], abs=1e-6)
    mean = clients.descended(Rules(WEIGHTINGS["uniform"], optimizer), 200)
    assert float(mean) == pytest.approx(4 / 5, abs=1e-6)


def test_lambda_at_the_minimax_point_stays() -> None:
    """Where losses are equal the ascent is along (1, 1), which the projection takes back."""
    before = {"clients": torch.arange(2), "lambda": torch.tensor([2 / 3, 1 / 3]).double()}
    _, memory = Minimax(0.1)(gathered([2 / 9, 2 / 9]), before)
    assert memory["lambda"].tolist() == pytest.approx([2 / 3, 1 / 3])


def test_stale_deltas_count_less_and_others_not_more() -> None:
    """FedBuff: ``(1 + s)^-1/2`` in K = 4."""
    found = gathered([1.0] * 4, staleness=[0.0, 1.0, 3.0, 8.0])
    assert weigh(Stale(0.5), found) == pytest.approx([1 / 4, 2**-0.5 / 4, 1 / 8, 1 / 12])
    assert weigh(Stale(0.0), found) == [1 / 4] * 4
