"""The server's step: torch beside it, the papers' formulas, and nothing remembered in secret."""

from copy import deepcopy
from math import cos, pi

import numpy as np
import pytest
import torch
from torch import Tensor

from fedmeta.errors import ConfigError
from fedmeta.types import Params
from strategies.means import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi, ReptileStep
from strategies.optimizers import ServerOptimizer, State
from strategies.rules import Rules

OPTIMIZERS = {
    "adam": ("Adam", {"betas": (0.9, 0.99), "eps": 1e-3}),
    "amsgrad": ("Adam", {"amsgrad": True}),
    "adamw": ("AdamW", {"weight_decay": 0.1}),
    "nadam": ("NAdam", {}),
    "adagrad": ("Adagrad", {"initial_accumulator_value": 1e-6, "eps": 1e-3}),
    "rmsprop": ("RMSprop", {"momentum": 0.5, "centered": True}),
    "sgd": ("SGD", {}),
    "momentum": ("SGD", {"momentum": 0.9}),
    "nesterov": ("SGD", {"momentum": 0.9, "nesterov": True, "foreach": True}),
}
every_optimizer = pytest.mark.parametrize(
    ("name", "options"), OPTIMIZERS.values(), ids=OPTIMIZERS.keys()
)


def draw(seed: int, dtype: torch.dtype = torch.float32) -> Params:
    """Normal params of three ranks."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"layer.weight": (3, 2), "layer.bias": (2,), "rate": ()}
    return {
        name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in shapes.items()
    }


def run(
    optimizer: ServerOptimizer, params: Params, deltas: list[Params], progress: float = 0.0
) -> tuple[Params, State]:
    """Some steps, with the state handed from one to the next."""
    state: State = {}
    for delta in deltas:
        params, state = optimizer.step(params, delta, state, progress)
    return params, state


def one(value: float) -> Params:
    return {"w": torch.tensor([value], dtype=torch.float64)}


def close(found: Tensor, expected: object) -> None:
    """Equal to rounding in float64."""
    wanted = torch.as_tensor(expected, dtype=torch.float64).expand_as(found)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


@every_optimizer
def test_steps_equal_torch_bit_for_bit(name: str, options: dict[str, object]) -> None:
    deltas = [draw(seed) for seed in range(1, 21)]
    leaves = list(draw(0).values())
    oracle = getattr(torch.optim, name)(leaves, lr=0.05, **options)
    for delta in deltas:
        for leaf, gradient in zip(leaves, delta.values(), strict=True):
            leaf.grad = gradient.clone()
        oracle.step()
    ours, _ = run(ServerOptimizer(name, 0.05, options), draw(0), deltas)
    assert all(torch.equal(a, b) for a, b in zip(ours.values(), leaves, strict=True))


@every_optimizer
def test_a_step_leaves_its_inputs_alone(name: str, options: dict[str, object]) -> None:
    optimizer = ServerOptimizer(name, 0.05, options)
    params, state = run(optimizer, draw(0), [draw(1), draw(2)])
    inputs = (params, draw(3), state)
    before = deepcopy(inputs)
    optimizer.step(*inputs, 0.5)
    torch.testing.assert_close(inputs, before, rtol=0, atol=0)


@every_optimizer
def test_a_step_is_a_function_of_its_inputs(name: str, options: dict[str, object]) -> None:
    optimizer = ServerOptimizer(name, 0.05, options)
    params, state = run(optimizer, draw(0), [draw(1)])
    first = optimizer.step(params, draw(2), state, 0.0)
    again = ServerOptimizer(name, 0.05, options).step(params, draw(2), state, 0.0)
    torch.testing.assert_close(first, again, rtol=0, atol=0)


def test_fedavg_with_rate_1_subtracts_the_mean_delta() -> None:
    params, delta = draw(0), draw(1)
    stepped, _ = FedAvg().rules().optimizer.step(params, delta, {}, 0.0)
    assert all(torch.equal(stepped[name], params[name] - delta[name]) for name in params)


def test_fedavgm_under_a_constant_delta() -> None:
    """m_t = (1 - b^t) / (1 - b) for delta 1; w_T is minus the rate times their sum over t."""
    rate, b, rounds = 0.5, 0.9, 25
    found, _ = run(FedAvgM(rate, b).rules().optimizer, one(0.0), [one(1.0)] * rounds)
    close(found["w"], -rate * (rounds - b * (1 - b**rounds) / (1 - b)) / (1 - b))


def test_fedadam_corrects_the_bias() -> None:
    """Of a constant delta the corrected moments are delta and delta^2 from the first step on."""
    rate, tau, rounds, delta = 0.1, 1e-3, 7, -3.0
    found, _ = run(FedAdam(rate, tau).rules().optimizer, one(0.0), [one(delta)] * rounds)
    close(found["w"], -rounds * rate * delta / (abs(delta) + tau))


def reddi(
    w: np.ndarray, deltas: list[np.ndarray], lr: float, tau: float, b1: float, b2: float, name: str
) -> np.ndarray:
    """Reddi et al. 2021, Algorithm 2, v from tau^2, no bias correction; their Delta is -delta."""
    m, v = np.zeros_like(w), np.full_like(w, tau**2)
    for delta in deltas:
        m = b1 * m + (1 - b1) * -delta
        if name == "adagrad":
            v = v + delta**2
        if name == "yogi":
            v = v - (1 - b2) * delta**2 * np.sign(v - delta**2)
        w = w + lr * m / (np.sqrt(v) + tau)
    return w


@pytest.mark.parametrize("name", ["adagrad", "yogi"])
def test_adaptive_strategies_equal_algorithm_2_of_reddi(name: str) -> None:
    rate, tau, b1, b2 = 0.1, 0.3, {"adagrad": 0.0, "yogi": 0.9}[name], 0.99
    strategy = {"adagrad": FedAdagrad(rate, tau), "yogi": FedYogi(rate, tau, b1, b2)}[name]
    deltas = [draw(seed, torch.float64) for seed in range(1, 31)]
    found, _ = run(strategy.rules().optimizer, draw(0, torch.float64), deltas)
    for key, start in draw(0, torch.float64).items():
        gradients = [delta[key].numpy() for delta in deltas]
        expected = reddi(start.numpy(), gradients, rate, tau, b1, b2, name)
        torch.testing.assert_close(found[key], torch.tensor(expected), rtol=1e-11, atol=1e-13)


def test_yogi_keeps_v_where_it_equals_the_squared_delta() -> None:
    """sign(0) = 0: with delta = tau, v stays tau^2, so the step is lr (1 - b1) tau / (2 tau)."""
    found, state = FedYogi(lr=0.5, tau=0.25).rules().optimizer.step(one(0.0), one(0.25), {}, 0.0)
    assert state["w"]["v"].item() == 0.25**2
    close(found["w"], -0.5 * (1 - 0.9) / 2)


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5, 0.75])
def test_schedules_scale_the_rate(progress: float) -> None:
    factors = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + cos(pi * progress)) / 2}
    for schedule, factor in factors.items():
        optimizer = ServerOptimizer("SGD", 0.5, {}, schedule)  # type: ignore[arg-type]
        found, _ = optimizer.step(one(0.0), one(1.0), {}, progress)
        close(found["w"], -0.5 * factor)


@pytest.mark.parametrize("name", ["Adam", "Yogi"])
def test_the_schedule_scales_steps_that_have_a_state(name: str) -> None:
    """The step is linear in the rate, also where the optimiser comes with a memory."""
    optimizer = ServerOptimizer(name, 0.5, schedule="linear")
    params, state = optimizer.step(one(0.0), one(1.0), {}, 0.0)
    whole, tenth = (
        optimizer.step(params, one(2.0), state, progress)[0]["w"] - params["w"]
        for progress in (0.0, 0.9)
    )
    torch.testing.assert_close(tenth, 0.1 * whole, rtol=1e-12, atol=0)


def test_reptile_falls_linearly_over_the_run() -> None:
    """Rates lr (1 - r / R) for r = 0 .. R-1 sum up to lr (R + 1) / 2."""
    rounds, params, state = 10, one(0.0), {}
    optimizer = ReptileStep(lr=0.3).rules().optimizer
    for r in range(rounds):
        params, state = optimizer.step(params, one(1.0), state, r / rounds)
    close(params["w"], -0.3 * (rounds + 1) / 2)


def test_a_zero_delta_is_a_fixed_point(rules: Rules) -> None:
    params = draw(0)
    zero = {name: torch.zeros_like(value) for name, value in params.items()}
    moved, _ = run(rules.optimizer, params, [zero, zero])
    assert all(torch.equal(moved[name], params[name]) for name in params)


def test_steps_keep_names_shapes_and_dtypes(rules: Rules) -> None:
    for dtype in (torch.float32, torch.float64):
        params = draw(0, dtype)
        moved, _ = run(rules.optimizer, params, [draw(1, dtype)])
        assert {k: (v.shape, v.dtype) for k, v in moved.items()} == {
            k: (v.shape, v.dtype) for k, v in params.items()
        }
        assert all(not torch.equal(moved[name], params[name]) for name in params)


@pytest.mark.parametrize("name", ["Adamm", "adam", "lr_scheduler", "Optimizer", "__doc__", ""])
def test_an_unknown_optimizer_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"strategy\.optimizer must be Yogi or .*, got '{name}'"):
        ServerOptimizer(name, 0.1)


@pytest.mark.parametrize("name", ["LBFGS", "SparseAdam"])
def test_an_optimizer_that_one_dense_gradient_cannot_feed_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"strategy\.optimizer '{name}' cannot be used"):
        ServerOptimizer(name, 0.1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"momentum": -1.0}),
        ("SGD", {"momentun": 0.9}),
        ("SGD", {"lr": 0.2}),
        ("Adam", {"betas": [0.9]}),
        ("Adam", {"betas": [0.9, 1.0]}),
        ("Adam", {"capturable": True}),
        ("Yogi", {"betas": [0.9, 1.5]}),
        ("Yogi", {"betas": [-0.1, 0.9]}),
        ("Yogi", {"eps": 0.0}),
        ("Yogi", {"eps": float("nan")}),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=rf"'{name}' cannot be used with .*{next(iter(options))}"):
        ServerOptimizer(name, 0.1, options)


@pytest.mark.parametrize("lr", [0.0, -0.1, float("nan"), float("inf")])
def test_a_bad_rate_is_refused(lr: float) -> None:
    with pytest.raises(ConfigError, match=rf"strategy\.lr must be a finite number > 0, got {lr}"):
        FedAvg(lr=lr).rules()
