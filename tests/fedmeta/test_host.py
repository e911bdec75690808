"""What the owner of a device allows is allowed to the last unit, and not one more."""

import math
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import RecordDict
from torch import Tensor, nn
from torch._C._functorch import is_gradtrackingtensor

from fedmeta.client_state import ClientStates
from fedmeta.cohort import Cohort
from fedmeta.compression import expand, grow
from fedmeta.config import parse
from fedmeta.data.shard import Shard, write_shard
from fedmeta.errors import ConfigError, DataError, RefusedError
from fedmeta.host import Host, Limits, within
from fedmeta.initial import first_params
from fedmeta.learners import LEARNERS, Learner
from fedmeta.learners.imaml import Imaml
from fedmeta.models.mlp import Mlp
from fedmeta.node import answer
from fedmeta.objective import Objective, initial_params
from fedmeta.packing import pack_params, unpack_params
from fedmeta.types import Batch, Episode, Params
from fedmeta.wire import Work, pack_work, unpack_replies, unpack_scores

pytestmark = pytest.mark.timeout(method="thread")
"""These tests take the alarm by which pytest-timeout would end them."""

# Node config


def test_a_node_config_that_says_nothing() -> None:
    home = Path("~/.local/state/fedmeta").expanduser()
    assert Host.of({}) == Host(home)
    assert not Host.of({}).trusted


def test_a_node_config_that_says_everything() -> None:
    host = Host.of(
        {
            "shard": "~/mine.safetensors", "states": "/var/x", "log": "/var/x.txt",
            "max-steps": 5, "max-episodes": 6, "max-seconds": 1.5, "max-megabytes": 0.25,
            "min-examples": 7, "learners": "maml, sgd reptile",
        }
    )  # fmt: skip
    assert host.shard == Path("~/mine.safetensors").expanduser()
    assert (host.states, host.log) == (Path("/var/x"), Path("/var/x.txt"))
    assert host.limits == Limits(5, 6, 1.5, 0.25, 7, "maml, sgd reptile")
    assert host.limits.accepted == ["maml", "sgd", "reptile"]


def test_a_device_with_a_shard_has_a_log_beside_its_states() -> None:
    assert Host.of({"shard": "a", "states": "/var/x"}).log == Path("/var/x/log.txt")
    assert Host.of({"states": "/var/x"}).log is None


def test_what_flower_says_in_a_simulation_means_nothing() -> None:
    assert Host.of({"partition-id": 3, "num-partitions": 10}) == Host.of({})


def test_no_node_config_makes_a_host_trusted() -> None:
    with pytest.raises(ConfigError, match=r"^node config: trusted is not a setting"):
        Host.of({"trusted": True})


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("sard", " (did you mean shard?)"),
        ("max_steps", " (did you mean max-steps?)"),
        ("max-second", " (did you mean max-seconds?)"),
        ("q", ""),
    ],
)
def test_an_unknown_key(key: str, suggestion: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        Host.of({key: 1})
    assert str(refusal.value) == (
        f"node config: {key} is not a setting{suggestion}; there are shard, states, log, "
        "max-steps, max-episodes, max-seconds, max-megabytes, min-examples, learners"
    )


NUMBERS = ("max-steps", "max-episodes", "max-seconds", "max-megabytes", "min-examples")


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", [-1, -0.5, "5", "", True, math.nan, math.inf, b"5", None])
def test_a_limit_that_is_no_number(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as refusal:
        Host.of({key: value})
    assert str(refusal.value) == f"node config: {key} must be 0 or more, got {value!r}"


@pytest.mark.parametrize("value", [5, 1.0, True, None, ["sgd"]])
def test_learners_that_are_no_names(value: object) -> None:
    with pytest.raises(ConfigError) as refusal:
        Host.of({"learners": value})
    assert str(refusal.value) == f"node config: learners must be names of learners, got {value!r}"


def test_a_server_is_told_the_limits_that_there_are() -> None:
    assert Limits().said() == {}
    assert Limits(max_steps=3, max_seconds=0.5, learners="sgd").said() == {
        "max-steps": 3, "max-seconds": 0.5, "learners": "sgd",
    }  # fmt: skip


# Limits, at their value and beyond

CONFIG = """
name: limited
seed: 0
rounds: 3
data: {name: sinusoid, shots: 4, queries: 5, examples: 12, clients: {train: 9, val: 5, test: 5}}
model: {name: mlp, hidden: [6]}
learner: {name: reptile, inner_lr: 0.01, inner_steps: 3, batch_size: 4, episodes: 2}
strategy: {name: fedavg}
cohort: {clients: 3, replies: each}
engine: {name: loop, device: cpu}
evaluation: {every: 1, steps: 2, clients: 5, episodes: 4}
"""
"""2 episodes of 3 steps a round, 4 episodes of 2 steps an evaluation."""
KINDS = ("query", "train", "evaluate")
PARAMS = 6 + 6 + 6 + 1  # of an MLP from 1 to 6 to 1


def message(config: str = CONFIG, clients: tuple[int, ...] = (1,)) -> RecordDict:
    params, _ = first_params(parse(config))
    return pack_work(pack_params(params), Work(config, 1, list(clients), run="0af3"))


def ask(kind: str, states: Path, config: str = CONFIG, **limits: Any) -> RecordDict:
    return answer(kind, message(config), Host(states, limits=Limits(**limits)))


WITHIN: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "episodes": (
        {"max_episodes": 4},
        {"max_episodes": 3},
        "the episodes of an evaluation are 4, the owner allows max-episodes 3",
    ),
    "steps": (
        {"max_steps": 8},
        {"max_steps": 7},
        "the gradient steps of an evaluation are 8, the owner allows max-steps 7",
    ),
    "megabytes": (
        {"max_megabytes": 2 * 4 * PARAMS / 1e6},
        {"max_megabytes": (2 * 4 * PARAMS - 1) / 1e6},
        "the megabytes of a round are 0.000152, the owner allows max-megabytes 0.000151",
    ),
    "examples": (
        {"min_examples": 12},
        {"min_examples": 13},
        "client 0 holds 12 examples, the owner takes part from min-examples 13",
    ),
    "learners": (
        {"learners": "sgd,reptile"},
        {"learners": "sgd, maml"},
        "the learner is reptile, the owner allows learners sgd, maml",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("least", "less", "reason"), WITHIN.values(), ids=WITHIN.keys())
def test_a_limit_is_kept_to_the_unit(
    tmp_path: Path, kind: str, least: dict[str, Any], less: dict[str, Any], reason: str
) -> None:
    assert ask(kind, tmp_path, **least)
    with pytest.raises(RefusedError) as refusal:
        ask(kind, tmp_path, **less)
    assert str(refusal.value) == reason
    assert not list(tmp_path.iterdir())


FEWER = "evaluation: {every: 1, steps: 1, clients: 5, episodes: 1}"
MILD = CONFIG.replace("evaluation: {every: 1, steps: 2, clients: 5, episodes: 4}", FEWER)


@pytest.mark.parametrize("kind", KINDS)
def test_limits_hold_for_training_too(tmp_path: Path, kind: str) -> None:
    """2 episodes of 3 steps, where an evaluation has but 1 of 1."""
    assert ask(kind, tmp_path, MILD, max_episodes=2, max_steps=6)
    with pytest.raises(
        RefusedError, match=r"^the episodes of a round are 2, .* max-episodes 1\.5$"
    ):
        ask(kind, tmp_path, MILD, max_episodes=1.5)
    with pytest.raises(
        RefusedError, match=r"^the gradient steps of a round are 6, .* max-steps 5$"
    ):
        ask(kind, tmp_path, MILD, max_steps=5)


def test_steps_are_those_of_the_longest_episode(tmp_path: Path) -> None:
    """Of shards of 10 to 23, of which all is an episode: 23 / 4 are 6 steps."""
    sizes = "queries: null, examples: 23, least_examples: 10, clients: {train: 200"
    unequal = MILD.replace("queries: 5, examples: 12, clients: {train: 9", sizes)
    config = unequal.replace(
        "{name: reptile, inner_lr: 0.01, inner_steps: 3, batch_size: 4, episodes: 2}",
        "{name: sgd, lr: 0.01, epochs: 1, batch_size: 4}",
    )
    assert ask("query", tmp_path, config, max_steps=6)
    with pytest.raises(RefusedError, match=r"^the gradient steps of a round are 6, "):
        ask("query", tmp_path, config, max_steps=5)


def test_fewer_megabytes_are_allowed_where_fewer_travel(tmp_path: Path) -> None:
    """2 bytes of each param down; 1 and four scales of 4 up."""
    config = CONFIG + "wire: {params: float16, deltas: int8}\n"
    most = (2 * PARAMS + PARAMS + 4 * 4) / 1e6
    assert ask("query", tmp_path, config, max_megabytes=most)
    with pytest.raises(RefusedError, match=r"^the megabytes of a round are 7\.3e-05, "):
        ask("query", tmp_path, config, max_megabytes=most - 1e-6)


def test_megabytes_are_of_all_deltas_of_a_reply(tmp_path: Path) -> None:
    """4 bytes of each param down, and up for each of two clients; for one where they are summed."""
    allowed = {"max_megabytes": 2 * 4 * PARAMS / 1e6}
    host = Host(tmp_path, limits=Limits(**allowed))
    with pytest.raises(RefusedError, match=r"^the megabytes of a round are 0\.000228, "):
        answer("train", message(clients=(1, 2)), host)
    assert answer("evaluate", message(clients=(1, 2)), host)
    params, _ = first_params(parse(CONFIG))
    work = Work(CONFIG, 1, [1, 2], weight_column="examples", run="0af3")
    assert answer("train", pack_work(pack_params(params), work), host)


def test_without_limits_all_is_allowed(tmp_path: Path) -> None:
    heavy = CONFIG.replace("inner_steps: 3", "inner_steps: 1000000000")
    assert ask("query", tmp_path, heavy)
    with pytest.raises(RefusedError, match=r"^the gradient steps of a round are 2e\+09, "):
        ask("query", tmp_path, heavy, max_steps=10**9)


ENDLESS = CONFIG.replace("inner_steps: 3", "inner_steps: 1000000000").replace(
    "steps: 2,", "steps: 1000000000,"
)


@pytest.mark.usefixtures("handler")
@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize("clients", [(1,), (1, 2)])
def test_work_without_end_is_stopped(tmp_path: Path, kind: str, clients: tuple[int, ...]) -> None:
    """And is nobody's failure: no client is tried again alone."""
    host = Host(tmp_path, limits=Limits(max_seconds=0.3))
    answer("query", message(ENDLESS), host)
    began = time.monotonic()
    with pytest.raises(RefusedError) as refusal:
        answer(kind, message(ENDLESS, clients), host)
    assert str(refusal.value) == "it took longer than the owner allows, max-seconds 0.3"
    assert 0.25 < time.monotonic() - began < 3
    later = answer("train", message(clients=clients), Host(tmp_path))
    assert unpack_replies(later).clients == [*clients]


# Time


@pytest.fixture
def handler() -> Iterator[Callable[..., None]]:
    """The handler of before, which nothing may call and which comes back; no alarm is left."""

    def late(*_: object) -> None:
        raise AssertionError("an alarm after the end")

    timer, before = signal.setitimer(signal.ITIMER_REAL, 0), signal.signal(signal.SIGALRM, late)
    try:
        yield late
        assert signal.getsignal(signal.SIGALRM) is late
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def stubborn() -> None:
    """As code that names whatever goes wrong with one client, and goes on with the next."""
    for _ in range(3):
        try:
            spin(10)
        except Exception:
            continue


@pytest.mark.usefixtures("handler")
@pytest.mark.parametrize("work", [lambda: spin(30), stubborn], ids=["busy", "stubborn"])
def test_a_loop_is_stopped_and_the_handler_is_as_it_was(work: Callable[[], None]) -> None:
    began = time.monotonic()
    with (
        pytest.raises(RefusedError, match=r"^it took longer .* allows, max-seconds 0\.05$"),
        within(0.05),
    ):
        work()
    assert time.monotonic() - began < 5


class Deaf:
    """As what Python runs between the lines: a finaliser, out of which nothing is raised."""

    def __del__(self) -> None:
        spin(0.3)


def deaf() -> None:
    Deaf()
    spin(30)


@pytest.mark.usefixtures("handler")
def test_an_alarm_that_is_not_heard_comes_again() -> None:
    began = time.monotonic()
    with pytest.raises(RefusedError, match=r"max-seconds 0\.05$"), within(0.05):
        deaf()
    assert 1 < time.monotonic() - began < 10


def test_what_torch_imports_late_is_there_before_the_time_runs(tmp_path: Path) -> None:
    """Cut short, that import would fail for every message to come."""
    code = (
        "import sys; from pathlib import Path; from tests.fedmeta.test_host import ask\n"
        "try: ask('train', Path(sys.argv[1]), max_seconds=1e-6)\n"
        "except Exception as refusal: print('torch._dynamo' in sys.modules, refusal)"
    )
    run = [sys.executable, "-c", code, str(tmp_path)]
    found = subprocess.run(run, capture_output=True, text=True, check=True, timeout=200)
    assert found.stdout == "True it took longer than the owner allows, max-seconds 1e-06\n"


@pytest.mark.usefixtures("handler")
def test_in_time_nothing_happens_later() -> None:
    with within(0.05):
        spin(0.001)
    spin(0.1)


@pytest.mark.usefixtures("handler")
def test_what_fails_in_time_fails_as_it_would() -> None:
    with pytest.raises(OSError, match=r"^mine$"), within(0.05):
        raise OSError("mine")
    spin(0.1)


def test_without_a_limit_nothing_is_set(handler: Callable[..., None]) -> None:
    with within(0):
        assert signal.getsignal(signal.SIGALRM) is handler
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


# Whose files


def shard(client: int = 2, rows: int = 12) -> Shard:
    x = torch.linspace(-1, 1, rows, dtype=torch.float64)[:, None]
    return Shard("own_values", client, "train", x, x.sin())


OWN = CONFIG.replace(
    "{name: sinusoid, shots: 4, queries: 5, examples: 12, clients: {train: 9, val: 5, test: 5}}",
    "{name: own_values, shots: 4, queries: 5, shape_of_inputs: [1], root: ROOT}",
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_opens_no_folder_that_a_server_names(tmp_path: Path, kind: str) -> None:
    write_shard(shard(), tmp_path / "shards" / "a.safetensors")
    config = OWN.replace("ROOT", str(tmp_path / "shards"))
    with pytest.raises(ConfigError) as refusal:
        answer(kind, message(config, (2,)), Host(tmp_path / "states"))
    assert str(refusal.value) == "data.root: this node opens no folder that a server names"
    assert answer(kind, message(config, (2,)), Host(tmp_path / "states", trusted=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_holds_its_own_shard_whatever_folder_a_server_names(
    tmp_path: Path, kind: str
) -> None:
    write_shard(shard(), tmp_path / "mine.safetensors")
    host = Host(tmp_path / "states", tmp_path / "mine.safetensors")
    reply = answer(kind, message(OWN.replace("ROOT", "/nowhere"), (2,)), host)
    if kind == "query":
        node = reply.config_records["node"]
        assert [node[split] for split in ("train", "val", "test")] == [[2, 3], [], []]
    if kind == "train":
        assert unpack_replies(reply).clients == [2]
    if kind == "evaluate":
        assert unpack_scores(reply).clients == [2]


def test_a_device_does_not_work_for_the_client_of_another(tmp_path: Path) -> None:
    write_shard(shard(), tmp_path / "mine.safetensors")
    host = Host(tmp_path / "states", tmp_path / "mine.safetensors")
    with pytest.raises(ValueError, match=r"^client 3 is not hosted here$"):
        answer("train", message(OWN, (2, 3)), host)


def test_a_shard_of_another_experiment_is_refused(tmp_path: Path) -> None:
    write_shard(replace(shard(), dataset="omniglot"), tmp_path / "mine.safetensors")
    with pytest.raises(DataError, match=r"^the shard of client 2 is of 'omniglot'"):
        answer("query", message(OWN, (2,)), Host(tmp_path, tmp_path / "mine.safetensors"))


def test_a_shard_with_too_few_examples_takes_no_part(tmp_path: Path) -> None:
    write_shard(shard(rows=12), tmp_path / "mine.safetensors")
    for least in (12, 13):
        host = Host(tmp_path, tmp_path / "mine.safetensors", limits=Limits(min_examples=least))
        if least == 12:
            assert answer("query", message(OWN, (2,)), host)
            continue
        with pytest.raises(RefusedError, match=r"^client 2 holds 12 examples, "):
            answer("query", message(OWN, (2,)), host)


def test_a_folder_of_shards_is_hosted_whole(tmp_path: Path) -> None:
    for client in (4, 5, 9):
        write_shard(shard(client), tmp_path / "shards" / f"{client}.safetensors")
    reply = answer("query", message(OWN), Host(tmp_path / "states", tmp_path / "shards"))
    assert list(reply.config_records["node"]["train"]) == [4, 6, 9, 10]  # type: ignore[call-overload]


# What a node sends


@pytest.mark.parametrize("form", ["float16", "bfloat16", "int8", "topk"])
def test_a_node_answers_in_the_form_of_the_experiment(tmp_path: Path, form: str) -> None:
    """And reads params that came in a form of their own."""
    half = "float16" if form == "topk" else "bfloat16"
    config = CONFIG + f"wire: {{params: {half}, deltas: {form}}}\n"
    content = message(config)
    params = unpack_params(content.array_records["params"])
    small = {name: value.to(getattr(torch, half)) for name, value in params.items()}
    sent = {n: v.view(torch.int16) if half == "bfloat16" else v for n, v in small.items()}
    content.array_records["params"] = pack_params(sent)
    reply = unpack_replies(answer("train", content, Host(tmp_path)))
    block = Cohort.open(parse(config))
    expected = block.train(grow(sent, half, torch.float32), [1], 1, ClientStates(tmp_path / "no"))
    assert reply.columns["loss"].tolist() == expected.columns["loss"].tolist()
    found = expand(reply, parse(config).wire, params).deltas
    worst = max(float((found[n] - v).abs().max()) for n, v in expected.deltas.items())
    assert 0 < worst <= max(float(v.abs().max()) for v in expected.deltas.values())
    assert (tmp_path / "0af3" / "residuals" / "1" / "1.safetensors").exists()
    content.array_records["params"] = pack_params(params)
    with pytest.raises(ValueError, match=f"^a number is not {half}$"):
        answer("train", content, Host(tmp_path))


# Steps of learners, counted


@dataclass
class Counted:
    """An objective that counts the batches whose loss is differentiated in the params."""

    inner: Objective
    found: list[int] = field(default_factory=list)
    """Examples in each such batch."""

    @property
    def kind(self) -> str:
        return self.inner.kind

    @property
    def module(self) -> nn.Module:
        return self.inner.module

    def predict(self, params: Params, x: Tensor) -> Tensor:
        return self.inner.predict(params, x)

    def __call__(self, params: Params, batch: Batch) -> Tensor:
        if any(is_gradtrackingtensor(value) for value in params.values()):
            self.found.append(len(batch.y))
        return self.inner(params, batch)


SHOTS, QUERIES = 4, 7
LOCAL: dict[str, Any] = {"lr": 0.01, "epochs": 3, "batch_size": 4}  # 3 x 11 / 4: 9 batches
INNER: dict[str, Any] = {"inner_lr": 0.01, "inner_steps": 3}
PROX: dict[str, Any] = {"lam": 2.0, "inner_lr": 0.01, "inner_steps": 3}
MAMLS = {"episodes": 2, "local_steps": 2}  # 4 episodes of 3 steps
STEPS: dict[str, tuple[dict[str, Any], int, int]] = {
    "anil": (INNER | MAMLS, 12, 4),
    "boil": (INNER | MAMLS, 12, 4),
    "ditto": (LOCAL | {"lam": 0.5}, 18, 0),
    "fedbabu": (LOCAL, 9, 0),
    "fedper": (LOCAL, 9, 0),
    "fedprox": (LOCAL | {"mu": 0.5}, 9, 0),
    "fedrep": (LOCAL | {"head_epochs": 2}, 9 + 6, 0),
    "fomaml": (INNER | MAMLS, 12, 4),
    "local_only": (LOCAL, 9, 0),
    "maml": (INNER | MAMLS, 12, 4),
    "maml_plus_plus": (INNER | MAMLS, 12, 4 * 3),
    "meta_sgd": (INNER | MAMLS, 12, 4),
    "minibatch_prox": (PROX | {"batch_size": 4, "local_steps": 2, "local_lr": 0.1}, 6, 0),
    "per_fedavg": (
        {"alpha": 0.01, "beta": 0.01, "local_steps": 5, "batch_size": 3, "variant": "first_order"},
        5,
        5,
    ),
    "pfedme": (PROX | {"batch_size": 4, "local_steps": 2}, 6, 0),
    "protonet": ({"episodes": 3}, 3, 0),
    "reptile": (INNER | MAMLS | {"batch_size": 4}, 12, 0),
    "sgd": (LOCAL, 9, 0),
}
"""Settings, gradient steps, and the gradients beside them: those of the query losses."""


def episodes(draws: int, kind: str) -> Episode:
    def batch(examples: int) -> Batch:
        x = torch.randn(draws, examples, 2, dtype=torch.float64)
        y = torch.arange(examples).remainder(3).expand(draws, -1)
        return Batch(x, y if kind == "cross_entropy" else x[..., :1].sin().expand(-1, -1, 3))

    return Episode(batch(SHOTS), batch(QUERIES))


def counted(learner: Learner, kind: Any = "cross_entropy") -> list[int]:
    """Examples in every batch that an update takes a gradient of."""
    objective = Objective(Mlp([5], activation="tanh").build((2,), 3), kind)
    params = initial_params(objective.module, 0, torch.float64)
    params = learner.init(objective, params, torch.Generator().manual_seed(0))
    counter = Counted(objective)
    learner.update(counter, params, episodes(learner.draws, kind), 0.05)  # type: ignore[arg-type]
    return counter.found


def test_every_learner_is_counted() -> None:
    assert STEPS.keys() | {"imaml"} == LEARNERS.keys()


@pytest.mark.parametrize("name", STEPS)
def test_steps_are_the_gradients_that_an_update_takes(name: str) -> None:
    settings, steps, beside = STEPS[name]
    learner = LEARNERS[name](**settings)
    assert learner.steps(SHOTS + QUERIES) == steps
    assert len(counted(learner)) == steps + beside


@pytest.mark.parametrize("name", ["anil", "boil", "fomaml", "maml", "meta_sgd", "per_fedavg"])
def test_what_comes_beside_the_steps_are_queries(name: str) -> None:
    settings, steps, beside = STEPS[name]
    found = counted(LEARNERS[name](**settings))
    if name == "per_fedavg":
        assert found == [3, 3] * beside
    else:
        assert (found.count(SHOTS), found.count(QUERIES)) == (steps, beside)


@pytest.mark.parametrize(("examples", "epochs", "size"), [(11, 1, 4), (11, 3, 11), (11, 2, 50)])
def test_the_last_batch_of_an_epoch_is_filled_up(examples: int, epochs: int, size: int) -> None:
    """11 examples in batches of 4 are 3 steps; of 11 or more, one for each epoch."""
    learner = LEARNERS["sgd"](lr=0.01, epochs=epochs, batch_size=size)  # type: ignore[call-arg]
    found = counted(learner)
    assert learner.steps(examples) == len(found) == (3 if size == 4 else epochs)
    assert set(found) == {min(size, examples)}


@pytest.mark.parametrize(
    ("inner", "steps", "gradients"),
    [("gradient_descent", 3 + 5, 3), ("hessian_free", 3 * 6 + 5, 6)],
)
def test_imaml_counts_products_with_the_hessian(inner: Any, steps: int, gradients: int) -> None:
    """5 for the implicit gradient, and in each of 3 Newton steps its gradient and 5.

    The products ask the objective for nothing. It is asked for the inner gradients, twice in a Newton
    step for the Hessian is that of a gradient; for the query's, the Hessian's and the last slope's.
    """
    learner = Imaml(**PROX, inner=inner, cg_steps=5)
    assert learner.steps(SHOTS + QUERIES) == steps
    assert sorted(counted(learner)) == [SHOTS] * (gradients + 2) + [QUERIES]


def test_messages_of_limits_name_keys_of_the_node_config() -> None:
    keys = {re.sub("_", "-", name) for name in vars(Limits())}
    assert keys == {*NUMBERS, "learners"}
