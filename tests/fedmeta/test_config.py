"""A config loads and rebuilds itself, or one line says which key, what it got and what may be."""

import re
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path

import pytest
import torch

from fedmeta.config import Experiment, build, load, parse, read_mapping
from fedmeta.data.federation import Changes
from fedmeta.data.sinusoid import Sinusoid
from fedmeta.errors import ConfigError, InputError
from fedmeta.learners.maml import Maml
from fedmeta.settings import AttackSettings, EngineSettings, PublishedSettings
from strategies.means import Custom, FedAvg
from strategies.stock import STRATEGIES

CONFIGS = Path(__file__).parents[2] / "configs"
MINIMAL = """
name: tiny
rounds: 3
data: {name: sinusoid, shots: 5, queries: 4, examples: 20, clients: {train: 8, val: 2, test: 2}}
model: {name: mlp, hidden: [8]}
learner: {name: maml, inner_lr: 0.01, inner_steps: 1}
strategy: {name: fedavg}
cohort: {clients: 4}
evaluation: {every: 1, steps: 2, clients: 2}
"""
EXPERIMENTS = [path for path in sorted(CONFIGS.rglob("*.yaml")) if "base" not in read_mapping(path)]
files = pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)


def read(*overrides: str) -> Experiment:
    return parse(MINIMAL, overrides, STRATEGIES)


def without(line: str) -> str:
    """The config less the line that begins like this."""
    return "\n".join(text for text in MINIMAL.splitlines() if not text.startswith(line))


def refused(text: str, *overrides: str) -> str:
    """The one line that the user reads."""
    with pytest.raises(ConfigError) as caught:
        parse(text, overrides, STRATEGIES, "my.yaml")
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@files
def test_every_config_loads_and_rebuilds_itself(path: Path) -> None:
    experiment = load(path, (), STRATEGIES)
    again = build(experiment.sections, STRATEGIES)
    assert again == experiment
    assert again.sections == experiment.sections


@files
def test_every_config_survives_its_way_through_text(path: Path) -> None:
    """As it goes into the run folder and to the nodes; nodes know no strategies."""
    experiment = load(path, (), STRATEGIES)
    assert parse(experiment.to_yaml(), (), STRATEGIES) == experiment
    at_node = parse(experiment.to_yaml())
    assert at_node.strategy == experiment.sections["strategy"]
    assert (at_node.learner, at_node.sections) == (experiment.learner, experiment.sections)


def test_a_published_result_is_read_and_decides_nothing() -> None:
    assert read().published == PublishedSettings()
    found = read("published.source=Finn et al. 2017, Table 1", "published.accuracy=98.7")
    assert found.published == PublishedSettings("Finn et al. 2017, Table 1", 98.7)
    assert {**found.sections, "published": None} == {**read().sections, "published": None}


def test_evaluation_of_data_has_what_its_dataset_has() -> None:
    assert read("data.evaluation.shots=3").data == replace(read().data, evaluation=Changes(shots=3))
    assert read("data.queries=null").data.queries is None
    message = refused(MINIMAL, "data.evaluation.ways=3")
    assert message.startswith("data.evaluation.ways is not a setting")


@files
def test_every_config_composes_its_rules(path: Path) -> None:
    rules = load(path, (), STRATEGIES).strategy.rules()
    assert rules.optimizer.lr == load(path, (), STRATEGIES).sections["strategy"]["lr"]


def test_sections_become_components_with_their_defaults() -> None:
    experiment = read()
    assert (experiment.name, experiment.seed, experiment.rounds) == ("tiny", 0, 3)
    assert isinstance(experiment.data, Sinusoid)
    assert experiment.learner == Maml(inner_lr=0.01, inner_steps=1)
    assert experiment.strategy == FedAvg()
    assert experiment.engine == EngineSettings()
    assert experiment.sections["learner"] == {"name": "maml"} | asdict(experiment.learner)


def test_components_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        read().cohort.clients = 5  # type: ignore[misc]


def test_overrides_come_last_and_the_last_wins() -> None:
    experiment = read("learner.inner_lr=0.5", "seed=3", "seed=4", "data.clients.train=9", "name=b")
    assert (experiment.learner.inner_lr, experiment.seed) == (0.5, 4)
    assert (experiment.data.clients.train, experiment.name) == (9, "b")


def test_overrides_reach_lists_and_free_mappings() -> None:
    assert read("tracking.wandb.tags=[a,b]").tracking.wandb.tags == ["a", "b"]
    custom = "strategy={name: custom, optimizer: SGD, lr: 0.1, options: {momentum: 0.5}}"
    assert read(custom, "strategy.options.nesterov=true").strategy == Custom(
        0.1, "SGD", {"momentum": 0.5, "nesterov": True}
    )


def test_an_attack_by_nobody_is_said() -> None:
    assert read("attack.name=noise", "attack.fraction=0").attack.fraction == 0
    assert read("attack.fraction=0").attack == AttackSettings()  # as configs of old runs have it


def test_the_largest_seed_is_read() -> None:
    assert read(f"seed={2**63 - 1}").seed == 2**63 - 1


def test_other_keys_can_be_referred_to() -> None:
    assert read("seed=5", "tracking.wandb.group=${name}-${seed}").tracking.wandb.group == "tiny-5"


# What each override is told; '...' stands for any text.
UNKNOWN = {
    "lerner.order=1": "lerner is not a setting; an experiment has ... (did you mean learner?)",
    "learner.inner_lrr=1": "learner.inner_lrr is not a setting; ... (did you mean inner_lr?)",
    "data.clients.tain=3": "data.clients.tain is not a setting; data.clients has train, val, test "
    "(did you mean train?)",
    "tracking.wandb.projct=x": "tracking.wandb.projct is not a ... (did you mean project?)",
    "engine.zzz=1": "engine.zzz is not a setting; engine has name, chunk, ...",
    "data={1: 2}": "data.1 is not a setting; data has shots, queries, ...",
    "strategy.options={a: 1}": "strategy.options is not a setting; strategy has lr, ...",
    "learner.name=mamml": "learner.name must be one of ...maml..., got 'mamml' "
    "(did you mean maml?)",
    "model.name=7": "model.name must be one of ...mlp..., got 7",
    "model.name=[mlp]": "model.name must be one of ...mlp..., got ['mlp']...",
    "strategy.name=null": "strategy.name must be one of ...fedadam, ..., got None",
}
WRONG_TYPE = {
    "rounds=many": "rounds: Value 'many' of type 'str' could not be converted to Integer",
    "cohort.clients=1.5": "cohort.clients: Value '1.5' of type 'float' ... converted to Integer",
    "seed=true": "seed: Value 'True' of type 'bool' could not be converted to Integer",
    "learner.inner_lr=fast": "learner.inner_lr: Value 'fast' of type 'str' ... converted to Float",
    "model.norm=maybe": "model.norm: Value 'maybe' is not a valid bool ...",
    "model.hidden=[8,x]": "model.hidden[1]: Value 'x' of type 'str' ... converted to Integer",
    "model.hidden=8": "model.hidden must be a list, got 8",
    "model.hidden=[8,[8]]": "model.hidden[1] must be a single value, got [8]",
    "data.frequencies=[[1],[2]]": "data.frequencies[0] must be a single value, got [1]",
    "tracking.wandb.tags=one": "tracking.wandb.tags must be a list, got 'one'",
    "tracking.wandb.tags=[[a]]": "tracking.wandb.tags[0] must be a single value, got ['a']",
    "tracking.wandb.tags=[x,{a: 1}]": "tracking.wandb.tags[1] must be a single value, got {'a': 1}",
    "tracking.wandb.project=[x]": "tracking.wandb.project must be a single value, got ['x']",
    "strategy={name: custom, optimizer: SGD, lr: 1, options: [momentum, 0.9]}": "strategy.options "
    "must be a section of settings, got ['momentum', 0.9]",
    "tracking.wandb=offline": "tracking.wandb must be a section of settings, got 'offline'",
    "tracking=3": "tracking must be a section of settings, got 3",
    "data.clients=3": "data.clients must be a section of settings, got 3",
    "learner=null": "learner must be a section of settings, got None",
    "name=null": "name: Incompatible value 'None' for field of type 'str'",
    "learner=[1]": "override 'learner=[1]': ...",
}
NOT_ALLOWED = {
    "learner.order=3": "learner.order: Invalid value '3', expected one of [1, 2]",
    "cohort.replies=all": "cohort.replies: Invalid value 'all', expected one of ['auto', 'sum', 'each']",
    "engine.dtype=float16": "engine.dtype: Invalid value 'float16', expected one of "
    "['float32', 'float64']",
    "strategy.schedule=step": "strategy.schedule: Invalid value 'step', expected one of "
    "['constant', 'linear', 'cosine']",
    "tracking.wandb.mode=off": "tracking.wandb.mode: Invalid value '...', expected one of "
    "['disabled', 'offline', 'online']",
}
OUT_OF_RANGE = {
    "rounds=0": "rounds must be 1 or more, got 0",
    "seed=-1": "seed must be 0 or more, got -1",
    "seed=9223372036854775808": "seed must be below 2**63, got 9223372036854775808",
    "name=a/b": "name must be letters, digits, '-', '_' and '.', got 'a/b'",
    "name=.hidden": "name must be letters, ..., got '.hidden'",
    "learner.inner_lr=-1": "learner.inner_lr must be a finite number > 0, got -1.0",
    "learner.inner_lr=.nan": "learner.inner_lr must be a finite number > 0, got nan",
    "learner.inner_steps=0": "learner.inner_steps must be 1 or more, got 0",
    "data.clients.val=0": "data.clients.val must be 1 to 100,000,000, got 0",
    "data.shots=0": "data.shots must be 1 or more, got 0",
    "model.hidden=[]": "model.hidden must list sizes of 1 or more, got []",
    "cohort.clients=0": "cohort.clients must be 1 or more, got 0",
    "cohort.min_replies=5": "cohort.min_replies must be at most cohort.clients (4), got 5",
    "engine.chunk=0": "engine.chunk must be 1 or more, got 0",
    "engine.workers=0": "engine.workers must be 1 or more, got 0",
    "evaluation.every=0": "evaluation.every must be 1 or more, got 0",
    "evaluation.steps=-1": "evaluation.steps must be 0 or more, got -1",
    "evaluation.clients=0": "evaluation.clients must be 1 or more, got 0",
    "evaluation.episodes=0": "evaluation.episodes must be 1 or more, got 0",
}
OF_NO_EFFECT = {
    "attack.name=noise": "attack.fraction must be set for noise, 0 for nobody; got none",
    "attack.fraction=0.3": "attack.fraction needs an attack.name other than none, got 0.3",
}
BAD_OVERRIDE = {
    "seed": "an override must be key=value, got 'seed'",
    "=3": "an override must be key=value, got '=3'",
    "": "an override must be key=value, got ''",
    "seed=???": "an override must be key=value, got 'seed=???'",
    "model.hidden=[1": "override 'model.hidden=[1': ...",
    "model={": "override 'model={': ...",
    "seed=${sed}": "seed: Interpolation key 'sed' not found",
    "tracking.wandb.group=${oc.env:NOT_THERE}": "tracking.wandb.group: ...'NOT_THERE' not found...",
}
REFUSED = UNKNOWN | WRONG_TYPE | NOT_ALLOWED | OUT_OF_RANGE | OF_NO_EFFECT | BAD_OVERRIDE


@pytest.mark.parametrize(("override", "told"), REFUSED.items(), ids=REFUSED.keys())
def test_a_bad_override_is_refused_in_one_line(override: str, told: str) -> None:
    pattern = ".*".join(map(re.escape, told.split("...")))
    assert re.fullmatch(pattern, refused(MINIMAL, override))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("name", "name must be set: it has no default"),
        ("rounds", "rounds must be set: it has no default"),
        ("data", "data must be a section of settings, got None"),
        ("learner", "learner must be a section of settings, got None"),
        ("cohort", "cohort.clients must be set: it has no default"),
        ("evaluation", "evaluation.every must be set: it has no default"),
    ],
)
def test_a_missing_key_is_named(line: str, told: str) -> None:
    assert refused(without(line)) == told


def test_a_missing_key_of_a_nested_section_is_named() -> None:
    text = MINIMAL.replace(", val: 2", "")
    assert refused(text) == "data.clients.val must be set: it has no default"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "my.yaml: while parsing"),
        ("a: b: c", "my.yaml: mapping values are not allowed"),
        ("name: a\nname: b", "my.yaml: while constructing a mapping"),
        ("a:\n\tb: 1", "my.yaml: "),
        ("!!python/object/apply:os.system ['true']", "my.yaml: could not determine a constructor"),
        ("[1, 2]", "my.yaml: expected sections such as learner:, got '[1, 2]'"),
        ("3", "my.yaml: expected sections such as learner:, got '3'"),
        ("maml", "maml is not a setting; an experiment has name, seed"),
        ("", "name must be set"),
    ],
)
def test_bad_yaml_is_refused_in_one_line(text: str, told: str) -> None:
    assert refused(text).startswith(told)


def test_a_shard_too_small_for_its_episode_is_bad_input() -> None:
    with pytest.raises(InputError, match=r"data\.examples: .* 20 examples, .* 17 \(shots\) \+ 4 "):
        read("data.shots=17")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    cases = {
        tmp_path / "none.yaml": r"none\.yaml: cannot read the config \(No such file",
        tmp_path: r": cannot read the config \(Is a directory",
        binary: r"binary\.yaml: is not a text file",
    }
    for path, told in cases.items():
        with pytest.raises(ConfigError, match=told):
            load(path)


def test_a_rate_that_the_server_cannot_use_is_refused_with_its_key() -> None:
    with pytest.raises(ConfigError, match=r"strategy\.lr must be a finite number > 0, got -1\.0"):
        read("strategy.lr=-1").strategy.rules()


@pytest.mark.parametrize("device", ["quantum", "cuda:99", "cpu:x", "meta", ""])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    told = rf"engine\.device: this machine has auto, cpu.*, got '{device}'"
    with pytest.raises(ConfigError, match=told):
        EngineSettings(device=device).torch_device()


def test_devices_and_dtypes_by_name() -> None:
    assert EngineSettings(device="cpu").torch_device() == torch.device("cpu")
    assert EngineSettings().torch_device().type in ("cpu", "cuda")
    assert EngineSettings(dtype="float64").torch_dtype == torch.float64
    assert EngineSettings().torch_dtype == torch.float32
