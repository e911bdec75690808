import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from fedmeta.errors import ConfigError
from fedmeta.learners.adaptation import LearnedRates, RatedSgd, adapted, first_rates
from fedmeta.learners.inner_loop import descend
from fedmeta.learners.maml import Anil, Maml, MamlPlusPlus, MetaSgd
from fedmeta.models.conv4 import Conv4
from fedmeta.models.mlp import Mlp
from fedmeta.objective import Objective, initial_params
from fedmeta.types import Params

CONV4 = [f"block{i}.{part}" for i in range(4) for part in ("conv.{}", "norm.{}")]
CONV4 = [name.format(end) for name in CONV4 for end in ("weight", "bias")]
HEAD = ["head.weight", "head.bias"]
NO_HEAD = {"first.weight": torch.zeros(2, 2), "first.bias": torch.zeros(2)}


def objective(model: Conv4 | Mlp) -> Objective:
    return Objective(model.build((1, 16, 16), 3), "cross_entropy")


def params(model: Conv4 | Mlp) -> Params:
    return initial_params(objective(model).module, 0, torch.float64)


def begin(learner: Maml, model: Conv4 | Mlp, seed: int = 0) -> Params:
    return learner.init(objective(model), params(model), torch.Generator().manual_seed(seed))


# Which params move


@pytest.mark.parametrize(
    ("adapt", "expected"),
    [
        ("all", [*CONV4, *HEAD]),
        ("head", HEAD),
        ("body", CONV4),
        ("norm", [name for name in CONV4 if "norm" in name]),
        (["head.*"], HEAD),
        (["head.*", "block3.*"], [*CONV4[-4:], *HEAD]),
        (["block3.conv.*", "block0.*", "block3.*"], [*CONV4[:4], *CONV4[-4:]]),
        (["*.bias"], [name for name in [*CONV4, *HEAD] if name.endswith("bias")]),
        (["block[02].norm.weight"], ["block0.norm.weight", "block2.norm.weight"]),
        (["*"], [*CONV4, *HEAD]),
    ],
    ids=str,
)
def test_a_choice_names_params_of_the_model(adapt: Any, expected: list[str]) -> None:
    """In the model's order, each once, and never a learned rate or an adapter."""
    names = [*params(Conv4(2)), "rate/head.weight", "lora/block0.conv.weight/a", "film/x/scale"]
    assert adapted(adapt, names) == expected


@pytest.mark.parametrize("kind", ["lora", "film"])
def test_adapters_move_with_the_head_and_without_the_rest(kind: str) -> None:
    every = begin(Maml(0.1, 1, adapt=kind, learn_rates="per_layer"), Conv4(2))
    moving = adapted(kind, every)
    assert set(moving) == {name for name in every if name.startswith(kind)} | set(HEAD)
    assert len(moving) == 8 + 2  # two for each of four layers
    assert {name for name in every if name.startswith("rate/")} == {f"rate/{n}" for n in moving}


def test_body_and_head_are_all_and_share_nothing() -> None:
    every = params(Mlp([4, 4], norm=True))
    head, body = adapted("head", every), adapted("body", every)
    assert not set(head) & set(body)
    assert set(head) | set(body) == set(every)


@pytest.mark.parametrize("adapt", ["head", "body", "lora", "film"])
def test_a_model_without_a_head_is_refused_with_its_params_named(adapt: str) -> None:
    message = (
        rf"^learner: {adapt} needs a head, params named head\.\*; "
        r"the model has first\.weight, first\.bias$"
    )
    with pytest.raises(ConfigError, match=message):
        adapted(adapt, NO_HEAD)
    with pytest.raises(ConfigError, match=message):
        Maml(0.1, 1, adapt=adapt).init(objective(Mlp([2])), NO_HEAD, torch.Generator())


def test_a_model_without_a_head_can_adapt_as_a_whole() -> None:
    assert adapted("all", NO_HEAD) == list(NO_HEAD)


@pytest.mark.parametrize(
    ("adapt", "pattern"), [(["heads.*"], "heads.*"), (["first.*", "block9.*"], "block9.*")]
)
def test_a_pattern_without_a_match_is_refused(adapt: list[str], pattern: str) -> None:
    """Even beside one that matches: it is a slip of the pen."""
    message = rf"^learner\.adapt: '{pattern}' matches no param; the model has first\.weight, first"
    with pytest.raises(ConfigError, match=message):
        Maml(0.1, 1, adapt=adapt).init(objective(Mlp([2])), NO_HEAD, torch.Generator())


def test_norm_is_refused_where_there_is_none() -> None:
    with pytest.raises(ConfigError, match=r"^learner\.adapt: '\*norm\*' matches no param; "):
        begin(Maml(0.1, 1, adapt="norm"), Mlp([2]))


@pytest.mark.parametrize("kind", ["lora", "film"])
def test_adapters_are_refused_where_they_find_no_layer(kind: str) -> None:
    """Else it would be ANIL under another name."""
    only = {"head.weight": torch.zeros(3, 2), "head.bias": torch.zeros(3)}
    with pytest.raises(ConfigError, match=rf"^learner\.adapt: {kind} .*head\.weight, head\.bias$"):
        Maml(0.1, 1, adapt=kind).init(objective(Mlp([2])), only, torch.Generator())


@pytest.mark.parametrize("adapt", ["heads", "", None, 3, [], [1], ["head.*", None], {"head": 1}])
def test_an_unknown_choice_is_refused(adapt: Any) -> None:
    message = r"^learner\.adapt must be one of all, head, body, norm, lora, film or a list of patt"
    with pytest.raises(ConfigError, match=message) as refused:
        Maml(0.1, 1, adapt=adapt)
    assert str(refused.value).endswith(f"got {adapt!r}")


# What travels


@pytest.mark.parametrize("adapt", ["all", "head", "body", "norm", "lora", "film", ["block0.*"]])
def test_freeze_lets_travel_what_adapts_and_its_rates(adapt: Any) -> None:
    learner = Maml(0.1, 1, adapt=adapt, learn_rates="per_layer", freeze=True)
    every = begin(learner, Conv4(2))
    rates = {name for name in every if name.startswith("rate/")}
    travels = set(every) - learner.private(every)
    assert travels == set(adapted(adapt, every)) | rates
    assert rates == {f"rate/{name}" for name in travels - rates}


def test_without_freeze_all_travels() -> None:
    learner = Maml(0.1, 1, adapt="lora", learn_rates="scalar")
    assert learner.private(begin(learner, Conv4(2))) == frozenset()


# Rates


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", get_args(LearnedRates))
def test_rates_begin_at_the_inner_rate_in_the_precision_of_the_params(
    kind: LearnedRates, dtype: torch.dtype
) -> None:
    fast = {"a": torch.zeros(2, 3, dtype=dtype), "b": torch.zeros((), dtype=dtype)}
    found = first_rates(kind, 0.1, fast, 4)
    shapes = {
        "none": {},
        "scalar": {"rate/all": ()},
        "per_layer": {"rate/a": (), "rate/b": ()},
        "per_layer_per_step": {"rate/a": (4,), "rate/b": (4,)},
        "per_parameter": {"rate/a": (2, 3), "rate/b": ()},
    }[kind]
    assert {name: tuple(rate.shape) for name, rate in found.items()} == shapes
    for rate in found.values():
        assert torch.equal(rate, torch.full_like(rate, 0.1))
        assert rate.dtype == dtype


@pytest.mark.parametrize(
    ("learner", "names", "numbers"),
    [
        (MetaSgd(0.1, 3), 6, 0),
        (MamlPlusPlus(0.1, 3), 6, 3 * 6),
        (Anil(0.1, 3, learn_rates="per_layer_per_step"), 2, 3 * 2),
        (Maml(0.1, 3, learn_rates="scalar"), 1, 1),
        (Maml(0.1, 3), 0, 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_adapts_has_rates(learner: Maml, names: int, numbers: int) -> None:
    every = begin(learner, Mlp([4, 4]))
    model = params(Mlp([4, 4]))
    rates = {name: rate for name, rate in every.items() if name.startswith("rate/")}
    expected = numbers or sum(w.numel() for w in model.values()) * (names > 0)
    assert len(rates) == names
    assert sum(rate.numel() for rate in rates.values()) == expected
    assert all(torch.equal(every[name], w) for name, w in model.items())


def rated(kind: LearnedRates, w: Tensor, rates: Tensor) -> RatedSgd:
    return RatedSgd(kind, {"rate/all" if kind == "scalar" else "rate/w": rates})


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("scalar", (1,)),
        ("per_layer", (1,)),
        ("per_layer_per_step", (3,)),
        ("per_parameter", (4,)),
    ],
)
def test_every_step_is_taken_with_its_own_rate(quadratic, points, kind, shape) -> None:
    """``w_j - c = prod (1 - a_l) (w - c)``; after the three trained steps the last goes on."""
    w, centre, rates = points(4), points(4), 0.2 + 0.1 * points(*shape)
    batches = [quadratic.batch(centre)] * 5
    walked = [p["w"] for p in descend(quadratic, {"w": w}, batches, rated(kind, w, rates))]
    expected = [w]
    for step in range(5):
        rate = rates[min(step, 2)] if kind == "per_layer_per_step" else rates
        expected.append(centre + (1 - rate) * (expected[-1] - centre))
    torch.testing.assert_close(torch.stack(walked), torch.stack(expected), atol=1e-12, rtol=0)


def test_evaluation_goes_on_with_the_last_rates(quadratic, points) -> None:
    """Two trained steps, five walked; the rate of a step that was not trained is the last's."""
    learner = Maml(0.3, 2, learn_rates="per_layer_per_step")
    w, centre = points(2, 4)
    every = learner.init(quadratic, {"w": w}, torch.Generator())
    every |= {"rate/w": torch.tensor([0.5, 0.25]).to(w)}
    found = [p["w"] for p in learner.trajectory(quadratic, every, quadratic.batch(centre), 5)]
    left = [math.prod(([0.5] + [0.75] * 4)[:step]) for step in range(6)]
    expected = [centre + rho * (w - centre) for rho in left]
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), atol=1e-12, rtol=0)


def test_two_layers_walk_at_two_rates(points) -> None:
    """And a negative rate climbs, as Meta-SGD allows."""
    w, grads = {"a": points(3), "b": points(3)}, {"a": points(3), "b": points(3)}
    rates = {"rate/a": torch.tensor(0.5).to(w["a"]), "rate/b": torch.tensor(-2.0).to(w["a"])}
    stepped, taken = RatedSgd("per_layer", rates).step(w, grads, 0)
    torch.testing.assert_close(stepped["a"], w["a"] - 0.5 * grads["a"], atol=1e-15, rtol=0)
    torch.testing.assert_close(stepped["b"], w["b"] + 2 * grads["b"], atol=1e-15, rtol=0)
    assert taken == 1
