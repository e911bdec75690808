from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from fedmeta.adapters import feature_wise, low_rank, merged, own
from fedmeta.learners.maml import Maml
from fedmeta.models.conv4 import Conv4
from fedmeta.models.mlp import Mlp
from fedmeta.objective import Objective, initial_params
from fedmeta.types import Batch, Episode, Params

SHAPE, RANK = (2, 16, 16), 2
MODELS: dict[str, Conv4 | Mlp] = {
    "conv4 strided": Conv4(4),
    "conv4 pooled": Conv4(4, "pooled"),
    "mlp norm": Mlp([5, 6], norm=True, activation="tanh"),
    "mlp": Mlp([5, 6]),
}
LAYERS = {  # what lora bends, what film bends
    "conv4 strided": ([f"block{i}.conv" for i in range(4)], [f"block{i}.norm" for i in range(4)]),
    "conv4 pooled": ([f"block{i}.conv" for i in range(4)], [f"block{i}.norm" for i in range(4)]),
    "mlp norm": (["linear0", "linear1"], ["norm0", "norm1"]),
    "mlp": (["linear0", "linear1"], ["linear0", "linear1"]),
}
Draw = Callable[..., Tensor]


def opened(model: str) -> tuple[Objective, Params]:
    objective = Objective(MODELS[model].build(SHAPE, 3), "cross_entropy")
    return objective, initial_params(objective.module, 0, torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def adapters(kind: str, params: Params) -> Params:
    return low_rank(params, RANK, generator()) if kind == "lora" else feature_wise(params)


def anywhere(params: Params, points: Draw) -> Params:
    """The same names and shapes, with numbers that are 0 nowhere."""
    return {name: 0.3 * points(max(w.numel(), 1)).reshape(w.shape) for name, w in params.items()}


def hooked(
    objective: Objective,
    params: Params,
    x: Tensor,
    layers: list[str],
    change: Callable[..., Tensor],
) -> Tensor:
    """The module's own output, with ``change(layer's name, layer, input, output)`` in some layers."""
    handles = [
        objective.module.get_submodule(name).register_forward_hook(
            lambda layer, inputs, output, name=name: change(name, layer, inputs[0], output)
        )
        for name in layers
    ]
    try:
        return functional_call(objective.module, params, (x,))
    finally:
        for handle in handles:
            handle.remove()


# They act as layers would


@pytest.mark.parametrize("model", MODELS)
def test_lora_adds_a_narrow_layer_beside_each_layer(points, model: str) -> None:
    """``x W' + x A' B'`` for matrices; a filter bank of ``rank`` filters and a 1x1 one for filters."""
    objective, params = opened(model)
    beside = anywhere(adapters("lora", params), points)

    def add(name: str, layer: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        a, b = (beside[f"lora/{name}.weight/{end}"] for end in "ab")
        if isinstance(layer, nn.Linear):
            return output + x @ a.T @ b.T
        assert isinstance(layer, nn.Conv2d)
        filters = a.reshape(RANK, *layer.weight.shape[1:])
        narrow = F.conv2d(x, filters, None, layer.stride, layer.padding)
        return output + F.conv2d(narrow, b[:, :, None, None])

    x = points(5, *SHAPE)
    expected = hooked(objective, params, x, LAYERS[model][0], add)
    found = objective.predict(params | beside, x)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    assert (found - objective.predict(params, x)).abs().max() > 0.01


@pytest.mark.parametrize("model", MODELS)
def test_film_scales_and_shifts_what_a_layer_gives(points, model: str) -> None:
    """``(1 + scale) z + shift``: after the norm where there are norms, else after linear layers."""
    objective, params = opened(model)
    beside = anywhere(adapters("film", params), points)

    def bend(name: str, layer: nn.Module, x: Tensor, z: Tensor) -> Tensor:
        scale, shift = (
            beside[f"film/{name}/{part}"].reshape(-1, *[1] * (z.ndim - 2))
            for part in ("scale", "shift")
        )
        return (1 + scale) * z + shift

    x = points(5, *SHAPE)
    expected = hooked(objective, params, x, LAYERS[model][1], bend)
    found = objective.predict(params | beside, x)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    assert (found - objective.predict(params, x)).abs().max() > 0.01


def test_film_on_a_filter_bank_without_norms(points) -> None:
    """A net of convolutions alone: its filters are scaled, whatever their shape."""
    net = nn.Sequential()
    net.add_module("conv", nn.Conv2d(2, 4, 3))
    net.add_module("flat", nn.Flatten())
    net.add_module("head", nn.Linear(4 * 14 * 14, 3))
    objective = Objective(net, "cross_entropy")
    params = initial_params(net, 0, torch.float64)
    beside = anywhere(feature_wise(params), points)
    scale, shift = beside["film/conv/scale"], beside["film/conv/shift"]
    x = points(5, *SHAPE)
    expected = hooked(
        objective,
        params,
        x,
        ["conv"],
        lambda name, layer, x, z: (1 + scale[:, None, None]) * z + shift[:, None, None],
    )
    found = objective.predict(params | beside, x)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


# What they are


@pytest.mark.parametrize("kind", ["lora", "film"])
@pytest.mark.parametrize("model", MODELS)
def test_adapters_change_nothing_at_the_start(points, model: str, kind: str) -> None:
    objective, params = opened(model)
    x = points(5, *SHAPE)
    found = objective.predict(params | adapters(kind, params), x)
    assert torch.equal(found, objective.predict(params, x))


@pytest.mark.parametrize("model", MODELS)
def test_lora_has_two_factors_for_every_weight_but_the_heads(model: str) -> None:
    _, params = opened(model)
    found = adapters("lora", params)
    expected = {}
    for layer in LAYERS[model][0]:
        weight = params[f"{layer}.weight"]
        expected[f"lora/{layer}.weight/a"] = (RANK, weight[0].numel())
        expected[f"lora/{layer}.weight/b"] = (len(weight), RANK)
    assert {name: tuple(w.shape) for name, w in found.items()} == expected


@pytest.mark.parametrize("model", MODELS)
def test_film_has_a_scale_and_a_shift_for_every_channel(model: str) -> None:
    _, params = opened(model)
    expected = {
        f"film/{layer}/{part}": params[f"{layer}.bias"].shape
        for layer in LAYERS[model][1]
        for part in ("scale", "shift")
    }
    assert {name: w.shape for name, w in adapters("film", params).items()} == expected


@pytest.mark.parametrize("model", ["conv4 strided", "mlp"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_change_of_a_weight_has_the_rank(points, model: str, rank: int) -> None:
    _, params = opened(model)
    beside = anywhere(low_rank(params, rank, generator()), points)
    after = merged(params | beside)
    for layer in LAYERS[model][0]:
        change = after[f"{layer}.weight"] - params[f"{layer}.weight"]
        assert torch.linalg.matrix_rank(change.flatten(1)) == rank


def test_the_first_factor_is_drawn_with_variance_1_over_inputs() -> None:
    """So ``A x`` begins at the size of ``x``: mean square 1/1000, 5 standard errors of 2/n."""
    params = {"wide.weight": torch.zeros(3, 1000, dtype=torch.float64)}
    a = low_rank(params, 20, generator())["lora/wide.weight/a"]
    assert 1000 * a.square().mean().item() == pytest.approx(1, abs=5 * (2 / a.numel()) ** 0.5)


def test_adapters_follow_from_the_generator_and_the_params_dtype() -> None:
    _, params = opened("mlp")
    first, again, other = (low_rank(params, RANK, generator(seed)) for seed in (0, 0, 1))
    single = low_rank({n: w.float() for n, w in params.items()}, RANK, generator())
    for name, value in first.items():
        assert torch.equal(value, again[name])
        assert torch.equal(value.float(), single[name])
        assert torch.equal(value, other[name]) == name.endswith("/b")


@pytest.mark.parametrize("kind", ["lora", "film"])
def test_merging_gives_the_modules_params_and_leaves_its_arguments(points, kind: str) -> None:
    _, params = opened("conv4 strided")
    every = params | anywhere(adapters(kind, params), points) | {"rate/all": torch.ones(())}
    before = {name: w.clone() for name, w in every.items()}
    after = merged(every)
    assert list(after) == list(params) == list(own(every))
    bent = LAYERS["conv4 strided"][kind == "film"]
    for name, w in params.items():
        touched = name.rpartition(".")[0] in bent and (kind == "film" or name.endswith("weight"))
        assert torch.equal(after[name], w) != touched
    assert all(torch.equal(every[name], w) for name, w in before.items())


def test_without_adapters_merging_changes_nothing() -> None:
    _, params = opened("mlp")
    after = merged(params)
    assert all(after[name] is w for name, w in params.items())
    assert after.keys() == params.keys()


# Learning with them


@pytest.mark.parametrize("learn_rates", ["none", "scalar", "per_layer"])
@pytest.mark.parametrize("kind", ["lora", "film"])
@pytest.mark.parametrize("model", MODELS)
def test_frozen_only_adapters_head_and_rates_travel(points, model, kind, learn_rates) -> None:
    objective, params = opened(model)
    learner = Maml(0.1, 1, adapt=kind, freeze=True, rank=RANK, learn_rates=learn_rates)
    every = learner.init(objective, params, generator())
    x, y = points(1, 6, *SHAPE), torch.arange(3).repeat(2)[None]
    delta = learner.update(objective, every, Episode(Batch(x, y), Batch(x, y))).delta
    travels = {*adapters(kind, params), "head.weight", "head.bias"}
    rates = {
        "none": set(),
        "scalar": {"rate/all"},
        "per_layer": {f"rate/{name}" for name in travels},
    }[learn_rates]
    assert set(delta) == travels | rates
    assert learner.private(every) == set(params) - travels


@pytest.mark.parametrize("kind", ["lora", "film"])
def test_inner_steps_leave_the_modules_own_params(points, kind: str) -> None:
    """But for the head: two steps, as half of the factors do not move in the first."""
    objective, params = opened("conv4 strided")
    learner = Maml(0.1, 1, adapt=kind, rank=RANK)
    every = learner.init(objective, params, generator())
    support = Batch(points(6, *SHAPE), torch.arange(3).repeat(2))
    *_, adapted = learner.trajectory(objective, every, support, 2)
    for name, w in every.items():
        moves = name.startswith((kind, "head"))
        assert torch.equal(adapted[name], w) != moves


def test_film_equals_adapting_the_norms_where_gains_begin_at_1(points) -> None:
    """Then ``1 + scale`` and ``shift`` are gain and bias of the norm."""
    objective, params = opened("conv4 strided")
    support = Batch(points(6, *SHAPE), torch.arange(3).repeat(2))
    film, norm = Maml(0.1, 1, adapt="film"), Maml(0.1, 1, adapt=["*norm*", "head.*"])
    (*_, by_film), (*_, by_norm) = (
        one.trajectory(objective, one.init(objective, params, generator()), support, 3)
        for one in (film, norm)
    )
    after = merged(by_film)
    for name, w in by_norm.items():
        torch.testing.assert_close(after[name], w, atol=1e-12, rtol=0)
