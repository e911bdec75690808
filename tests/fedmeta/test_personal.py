"""A personal model is the adapted one, of the support alone, and treats each example alone."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedmeta.adapting import adapt, divide
from fedmeta.baked import NEAR, baked
from fedmeta.checkpoint import read_checkpoint, write_checkpoint
from fedmeta.config import Experiment, parse
from fedmeta.data.shard import Shard
from fedmeta.errors import ConfigError, DataError, RunFolderError
from fedmeta.initial import first_params, objective
from fedmeta.learners.inner_loop import last
from fedmeta.models import MODELS
from fedmeta.personal import Personal, _hash, read_personal, write_personal
from fedmeta.types import Params

Draw = Callable[..., Tensor]
VALUES = "{name: own_values, shots: 1, queries: 1, shape_of_inputs: [3], outputs: 2}"
CLASSES = "{name: own_classes, ways: 3, shots: 1, queries: 1, shape_of_inputs: [4]}"
IMAGES = "{name: own_classes, ways: 3, shots: 1, queries: 1, shape_of_inputs: [1, 16, 16]}"
MAML = "{name: maml, order: 2, inner_lr: 0.1, inner_steps: 1}"
NORMED = "{name: mlp, hidden: [6, 5], norm: true, activation: tanh}"
CONV = "{name: conv4, filters: 4}"


def experiment(data: str, model: str, learner: str = MAML) -> Experiment:
    return parse(
        f"""
        {{name: mine, rounds: 1, data: {data}, model: {model}, learner: {learner},
         strategy: {{name: fedavg}}, cohort: {{clients: 1}}, engine: {{dtype: float64}},
         evaluation: {{every: 1, steps: 3, clients: 1}}}}
        """
    )


def classes_of(points: Draw, counts: list[int], shape: tuple[int, ...] = (4,)) -> Shard:
    y = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    x = points(len(y), *shape) + y.reshape(-1, *[1] * len(shape))
    names = tuple(f"class {number}" for number in range(len(counts)))
    return Shard("own_classes", 7, "test", x, y, names)


def values_of(points: Draw, rows: int) -> Shard:
    return Shard("own_values", 7, "test", points(rows, 3), points(rows, 2))


def begin(settings: Experiment) -> Params:
    travels, stays = first_params(settings)
    return stays | travels


class LinearOnly(nn.Module):
    """One layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(x)
        return output


class Centred(LinearOnly):
    """Sees who is beside an example, without a batch norm."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(dim=0))


class NormedTwice(LinearOnly):
    """One batch norm in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(torch.tanh(self.norm(x))))


@dataclass(frozen=True)
class Mine:
    """A model of one's own."""

    kind: str = "LinearOnly"

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        module: nn.Module = globals()[self.kind]()
        return module


@pytest.fixture(autouse=True)
def _mine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "mine", Mine)


def test_gradient_steps_by_hand(points: Draw) -> None:
    settings, shard = experiment(VALUES, "{name: mine}"), values_of(points, 5)
    params = begin(settings)
    found = adapt(settings, params, shard, steps=2)
    w, b = params["head.weight"], params["head.bias"]
    first = None
    for _ in range(2):
        gap = shard.x @ w.T + b - shard.y
        first = first if first is not None else (gap**2).mean()
        w, b = w - 0.1 * 2 * gap.T @ shard.x / gap.numel(), b - 0.1 * 2 * gap.sum(0) / gap.numel()
    torch.testing.assert_close(found.personal.state, {"head.weight": w, "head.bias": b})
    torch.testing.assert_close(found.before["loss"], first)
    after = ((shard.x @ w.T + b - shard.y) ** 2).mean()
    torch.testing.assert_close(found.after, {"loss": after})
    torch.testing.assert_close(found.personal.predict(shard.x), shard.x @ w.T + b)
    assert (found.examples, found.held_out, found.personal.steps) == (5, 0, 2)


def test_the_steps_of_the_experiment_are_the_default(points: Draw) -> None:
    settings, shard = experiment(VALUES, "{name: mine}"), values_of(points, 5)
    one, other = (adapt(settings, begin(settings), shard, steps) for steps in (None, 3))
    torch.testing.assert_close(one.personal.state, other.personal.state, rtol=0, atol=0)
    assert one.personal.steps == 3


def test_batch_norm_by_hand(points: Draw) -> None:
    """Eval mode, with mean and biased variance of the support."""
    settings = experiment(VALUES, "{name: mlp, hidden: [4], norm: true}")
    params = {name: points(*value.shape) for name, value in begin(settings).items()}
    support, x = points(6, 3), points(2, 3)
    module = baked(objective(settings), params, support)
    before = support @ params["linear0.weight"].T + params["linear0.bias"]
    mean, var = before.mean(0), ((before - before.mean(0)) ** 2).mean(0)
    hidden = x @ params["linear0.weight"].T + params["linear0.bias"]
    hidden = (hidden - mean) / (var + 1e-5).sqrt() * params["norm0.weight"] + params["norm0.bias"]
    expected = hidden.relu() @ params["head.weight"].T + params["head.bias"]
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize(("data", "model", "shape"), [
    (CLASSES, NORMED, (4,)), (IMAGES, CONV, (1, 16, 16)),
    (IMAGES, "{name: conv4, filters: 4, downsampling: pooled}", (1, 16, 16)),
])  # fmt: skip
def test_baked_is_the_batch_in_the_limit(
    points: Draw, data: str, model: str, shape: tuple[int, ...]
) -> None:
    settings = experiment(data, model)
    loss, params, support = objective(settings), begin(settings), points(5, *shape)
    module = baked(loss, params, support)
    torch.testing.assert_close(module(support), loss.predict(params, support))
    torch.testing.assert_close(module(support[2:3]), module(support)[2:3])
    x, gaps = points(1, *shape), []
    for copies in (10, 100, 1000):
        beside = loss.predict(params, torch.cat([*[support] * copies, x]))[-1]
        gaps.append(float((beside - module(x)[0]).detach().abs().max()))
    assert gaps[0] > 5 * gaps[1] > 25 * gaps[2], gaps
    assert all(norm.running_mean is None for norm in loss.module.modules() if hasattr(norm, "eps"))


def test_prototypes_decide_by_the_nearest(points: Draw) -> None:
    settings, shard = experiment(CLASSES, NORMED, "{name: protonet}"), classes_of(points, [4, 3])
    params = begin(settings)
    personal = adapt(settings, params, shard, steps=1).personal
    body = nn.Sequential(*list(objective(settings).module.children())[:-1])
    weights = {n: params[m] for n, m in zip(
        dict(body.named_parameters()), (m for m in params if m.split(".")[0] != "head"), strict=True
    )}  # fmt: skip
    features = functional_call(body, weights, (shard.x,))
    centres = torch.stack([features[shard.y == number].mean(0) for number in range(2)])
    nearest = torch.cdist(features, centres).argmin(dim=1)
    probabilities = personal.predict(shard.x)
    assert probabilities.shape == (7, 2)  # the third class has no name and no probability
    torch.testing.assert_close(probabilities, (-(torch.cdist(features, centres) ** 2)).softmax(1))
    assert torch.equal(probabilities.argmax(1), nearest)


@pytest.mark.parametrize("adapted", ["lora", "film", "head", "all"])
def test_adapters_are_worked_in(points: Draw, adapted: str) -> None:
    learner = MAML.replace("}", f", adapt: {adapted}}}")
    settings, shard = experiment(CLASSES, NORMED, learner), classes_of(points, [3, 3, 3])
    params, loss = begin(settings), objective(settings)
    personal = adapt(settings, params, shard, steps=4).personal
    support, _ = divide(shard, 0, settings.seed, torch.float64)
    tuned = last(settings.learner.trajectory(loss, params, support, 4))
    expected = loss.predict(tuned, support.x).softmax(1)
    torch.testing.assert_close(personal.predict(support.x), expected)
    assert not any("/" in name for name in personal.state)


def test_held_out_examples_have_no_influence(points: Draw) -> None:
    settings, shard = experiment(CLASSES, NORMED), classes_of(points, [5, 4, 6])
    support, query = divide(shard, 2, 0, torch.float64)
    assert (len(support.y), len(query.y)) == (9, 6)
    assert query.y.tolist() == [0, 1, 2] * 2
    assert support.y.tolist()[:6] == [0, 1, 2] * 2
    both = torch.cat([support.x, query.x])
    assert sorted(both.tolist()) == sorted(shard.x.tolist())
    held = (shard.x[:, None] == query.x).all(dim=2).any(dim=1)
    other = replace(shard, x=torch.where(held[:, None], 99.0, shard.x))
    one, two = (adapt(settings, begin(settings), each, hold_out=2) for each in (shard, other))
    torch.testing.assert_close(one.personal.state, two.personal.state, rtol=0, atol=0)
    assert (one.examples, one.held_out) == (9, 6)
    assert one.after["loss"] != two.after["loss"]
    third = adapt(settings, begin(settings), replace(shard, x=-shard.x), hold_out=2)
    assert not torch.equal(one.personal.state["head.bias"], third.personal.state["head.bias"])


def test_what_is_judged_is_the_file(points: Draw, tmp_path: Path) -> None:
    settings, shard = experiment(IMAGES, CONV), classes_of(points, [4, 4, 4], (1, 16, 16))
    shard = replace(shard, x=(40 * shard.x + 100).clamp(0, 255).to(torch.uint8))
    found = adapt(settings, begin(settings), shard, hold_out=1)
    write_personal(found.personal, tmp_path / "mine")
    read = read_personal(tmp_path / "mine")
    assert replace(read, state={}) == replace(found.personal, state={})
    torch.testing.assert_close(read.state, found.personal.state, rtol=0, atol=0)
    _, query = divide(shard, 1, 0, torch.float64)
    chances = torch.cat([read.predict(x[None]) for x in query.x])  # one by one
    right = (chances.argmax(1) == query.y).double().mean()
    picked = chances[torch.arange(len(query.y)), query.y]
    torch.testing.assert_close(found.after, {"loss": -picked.log().mean(), "accuracy": right})
    bytes_seen = (query.x * 255).round().to(torch.uint8)
    torch.testing.assert_close(read.predict(bytes_seen), chances)


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"counts": [2] * 4}, {}, "has 4 classes, the model of the experiment tells 2 to 3 apart"),
    ({"counts": [2]}, {}, "has 1 classes"),
    ({"counts": [5, 3, 4]}, {"hold_out": 3}, "3 examples of a class; --hold-out 3 leaves 0"),
    ({"counts": [2, 2], "shape": (5,)}, {}, r"inputs \[5\].*the experiment is.*inputs \[4\]"),
    ({"counts": [2, 2]}, {"hold_out": -1}, "--hold-out must be 0 or more, got -1"),
    ({"counts": [2, 2]}, {"steps": -2}, "--steps must be 0 or more, got -2"),
]


@pytest.mark.parametrize(("shard", "options", "words"), REFUSED)
def test_what_does_not_fit(
    points: Draw, shard: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    settings = experiment(CLASSES, NORMED)
    with pytest.raises((DataError, ConfigError), match=words):
        adapt(settings, begin(settings), classes_of(points, **shard), **options)


def test_one_row_is_too_few_for_batch_norm(points: Draw) -> None:
    for model, fails in (("{name: mlp, hidden: [4], norm: true}", True), ("{name: mine}", False)):
        settings = experiment(VALUES, model)
        if fails:
            with pytest.raises(
                DataError, match=r"3 examples in all; --hold-out 2 leaves 1.* needs 2"
            ):
                adapt(settings, begin(settings), values_of(points, 3), hold_out=2)
        else:
            assert adapt(settings, begin(settings), values_of(points, 3), hold_out=2).examples == 1


def test_numbers_that_are_none(points: Draw) -> None:
    settings, shard = experiment(VALUES, "{name: mine}"), values_of(points, 4)
    shard.x[2, 1] = torch.nan
    with pytest.raises(DataError, match="not finite"):
        adapt(settings, begin(settings), shard)
    fast = experiment(VALUES, "{name: mine}", MAML.replace("0.1", "1e200"))
    with pytest.raises(DataError, match="diverged within 3 steps"):
        adapt(fast, begin(fast), values_of(points, 4))


@pytest.mark.parametrize(("kind", "words"), [
    ("Centred", "depends on those beside it"), ("NormedTwice", "batch norm is used twice"),
])  # fmt: skip
def test_models_that_cannot_see_one_alone(points: Draw, kind: str, words: str) -> None:
    settings = experiment(VALUES, f"{{name: mine, kind: {kind}}}")
    with pytest.raises(ConfigError, match=words):
        adapt(settings, begin(settings), values_of(points, 4))
    assert NEAR < 0.01


@pytest.fixture
def personal(points: Draw) -> Personal:
    settings = experiment(CLASSES, NORMED)
    return adapt(settings, begin(settings), classes_of(points, [2, 2, 2])).personal


def test_a_file_of_something_else(tmp_path: Path, personal: Personal) -> None:
    path = tmp_path / "mine.safetensors"
    with pytest.raises(RunFolderError, match="there is no such personal model"):
        read_personal(path)
    write_personal(personal, path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-9] ^= 1
    for content in (whole[:-8], b"", b"\x80\x04K\x01.", bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(RunFolderError, match="is no personal model"):
            read_personal(path)
    write_checkpoint(path, {"w": torch.zeros(1)}, {"name": "run", "round": 3})
    with pytest.raises(RunFolderError, match="fedmeta adapt"):
        read_personal(path)


def forged(personal: Personal, state: Params, **said: Any) -> dict[str, Any]:
    """A header that has the right hash."""
    header = {k: v for k, v in personal.header().items() if k != "sha256"} | said
    return header | {"sha256": _hash(header, state)}


@pytest.mark.parametrize(("said", "words"), [
    ({"config": "name: ${oc.env:HOME}"}, "must be resolved"),
    ({"config": "{name: a, rounds: 1}"}, "data must be a section"),
    ({"config": "[" * 900}, "its config"),
    ({"config": None}, "no personal model that can be read"),
    ({"classes": ["a"] * 4}, "4 names of classes for a model of 3 outputs"),
    ({"classes": []}, "0 names"),
    ({"classes": 3}, "altered"),
    ({"steps": "many"}, "altered"),
])  # fmt: skip
def test_a_forged_header(
    tmp_path: Path, personal: Personal, said: dict[str, Any], words: str
) -> None:
    path = tmp_path / "mine.safetensors"
    write_checkpoint(path, personal.state, forged(personal, personal.state, **said))
    with pytest.raises(RunFolderError, match=words):
        read_personal(path)


@pytest.mark.parametrize(("name", "value", "words"), [
    ("head.bias", torch.full((3,), torch.inf, dtype=torch.float64), "not finite"),
    ("head.bias", torch.zeros(4, dtype=torch.float64), "is another in head.bias"),
    ("head.bias", torch.zeros(3, dtype=torch.int64), "is another in head.bias"),
    ("norm0.running_var", -torch.ones(6, dtype=torch.float64), "below 0"),
    ("more", torch.zeros(1, dtype=torch.float64), "is another in more"),
    ("norm1.running_mean", None, "is another in norm1.running_mean"),
    ("head.weight", None, "is another in head.weight"),
])  # fmt: skip
def test_a_forged_state(
    tmp_path: Path, personal: Personal, name: str, value: Tensor | None, words: str
) -> None:
    state = dict(personal.state)
    if value is None:
        del state[name]
    else:
        state[name] = value
    path = tmp_path / "mine.safetensors"
    write_checkpoint(path, state, forged(personal, state))
    with pytest.raises(RunFolderError, match=words):
        read_personal(path)


def test_a_model_too_large_for_any_machine(tmp_path: Path, personal: Personal) -> None:
    config = personal.config.replace("- 6", f"- {10**15}")
    assert config != personal.config
    write_checkpoint(
        tmp_path / "m", personal.state, forged(personal, personal.state, config=config)
    )
    with pytest.raises(RunFolderError, match="no personal model"):
        read_personal(tmp_path / "m")


def test_the_file_has_no_example(tmp_path: Path, points: Draw) -> None:
    settings, shard = experiment(VALUES, "{name: mine}"), values_of(points, 5)
    write_personal(adapt(settings, begin(settings), shard).personal, tmp_path / "m")
    tensors, header = read_checkpoint(tmp_path / "m")
    assert set(tensors) == {"head.weight", "head.bias"}
    text = json.dumps(header)
    assert not any(str(float(number))[:8] in text for number in shard.x.flatten())
    assert header["shard"] == shard.header()["sha256"]
