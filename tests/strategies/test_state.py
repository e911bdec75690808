"""A checkpoint is the server: all of it comes back, to the bit, or it says what is wrong."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from fedmeta.checkpoint import write_checkpoint
from fedmeta.config import Experiment
from fedmeta.errors import RunFolderError
from fedmeta.replies import Replies
from fedmeta.types import Params
from strategies.best import Best
from strategies.rules import Rules
from strategies.state import CHECKPOINT, ServerState, Tally, load_state, save_state, selected

Load = Callable[..., Experiment]
TALLY = Tally(1.25, 96, {"7": 2}, {"7": "no reply in time"}, 1)


def best(round: int, params: Params) -> Best:
    """Of two clients, one of which diverged."""
    scores = torch.tensor([0.1 + 0.2, torch.nan], dtype=torch.float64)
    return Best(round, torch.tensor([7, 4]), scores, "how", params)


def draw(seed: int, dtype: torch.dtype = torch.float32) -> Params:
    """Params of three ranks whose names are not in alphabetical order, one with a slash."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"layer.weight": (3, 2), "layer.bias": (3,), "inner_lr/layer.weight": ()}
    return {
        name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in shapes.items()
    }


def trained(rules: Rules, dtype: torch.dtype = torch.float32) -> ServerState:
    """A server after three rounds, of which the first was the best."""
    params, memory = draw(0, dtype), {}
    first, _ = rules.optimizer.step(params, draw(1, dtype), {}, 0.0)
    for seed in (1, 2, 3):
        params, memory = rules.optimizer.step(params, draw(seed, dtype), memory, seed / 5)
    return ServerState(3, params, memory, best(1, first), TALLY, "0af3")


def same(a: Params, b: Params) -> bool:
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a
    )


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """What a full disk does to a write: it fails half-way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def state() -> ServerState:
    return ServerState(3, draw(0), {"layer.bias": {"step": torch.tensor(3.0)}}, None, TALLY)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_strategy_comes_back_to_the_bit(
    rules: Rules, dtype: torch.dtype, tmp_path: Path, quickstart: Load
) -> None:
    saved = trained(rules, dtype)
    save_state(tmp_path, saved, quickstart())
    found = load_state(tmp_path, quickstart())
    assert (found.round, found.tally, found.run) == (3, TALLY, "0af3")
    assert same(found.params, saved.params)
    assert found.optimizer.keys() == saved.optimizer.keys()
    assert all(same(found.optimizer[name], saved.optimizer[name]) for name in saved.optimizer)
    assert found.best is not None
    assert (found.best.round, found.best.score, found.best.protocol) == (1, 0.1 + 0.2, "how")
    assert found.best.clients.tolist() == [7, 4]
    assert found.best.scores.isnan().tolist() == [False, True]
    assert same(found.best.params, saved.best.params)  # type: ignore[union-attr]


def test_every_strategy_goes_on_from_disk_as_from_memory(
    rules: Rules, tmp_path: Path, quickstart: Load
) -> None:
    saved = trained(rules)
    save_state(tmp_path, saved, quickstart())
    found = load_state(tmp_path, quickstart())
    (params, memory), (expected, remembered) = (
        rules.optimizer.step(s.params, draw(4), s.optimizer, 0.8) for s in (found, saved)
    )
    assert same(params, expected)
    assert all(same(memory[name], remembered[name]) for name in remembered)


def test_a_server_without_history_comes_back(tmp_path: Path, quickstart: Load) -> None:
    save_state(tmp_path, ServerState(0, draw(0)), quickstart())
    found = load_state(tmp_path, quickstart())
    assert (found.round, found.optimizer, found.best, found.tally) == (0, {}, None, Tally())
    assert same(found.params, draw(0))


def test_shared_and_transposed_tensors_are_saved_by_value(tmp_path: Path, quickstart: Load) -> None:
    matrix = torch.arange(6.0).reshape(2, 3)
    params = {"a": matrix, "b": matrix, "t": matrix.T}
    save_state(tmp_path, ServerState(1, params, best=best(1, params)), quickstart())
    assert same(load_state(tmp_path, quickstart()).params, params)


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "data.shots=5",
        "data.clients.train=399",
        "model.hidden=[40]",
        "model.norm=true",
        "learner.inner_lr=0.02",
        "learner.order=1",
        "strategy.lr=0.1",
        "strategy.schedule=linear",
        "cohort.clients=49",
        "cohort.replies=each",
        "cohort.outlier=7",
        "cohort.sampling=round_robin",
        "wire.params=bfloat16",
        "devices.slowness=half_normal",
    ],
)
def test_another_config_is_refused(
    override: str, tmp_path: Path, quickstart: Load, state: ServerState
) -> None:
    save_state(tmp_path, state, quickstart())
    with pytest.raises(RunFolderError, match=r"state\.safetensors: is of another config"):
        load_state(tmp_path, quickstart(override))


@pytest.mark.parametrize(
    "override",
    [
        "name=again",
        "rounds=4000",
        "cohort.timeout=7",
        "cohort.wait=7",
        "cohort.measure=true",
        "engine.name=loop",
        "engine.chunk=7",
        "engine.executor=ray",
        "evaluation.every=7",
        "evaluation.select=last",
        "evaluation.transductive=false",
        "data.evaluation.shots=5",
        "published.accuracy=98.7",
        "tracking.tensorboard=true",
        "tracking.wandb.mode=offline",
        "tracking.ledger=false",
    ],
)
def test_what_decides_no_number_may_change(
    override: str, tmp_path: Path, quickstart: Load, state: ServerState
) -> None:
    save_state(tmp_path, state, quickstart())
    assert same(load_state(tmp_path, quickstart(override)).params, state.params)


def test_a_torn_file_is_refused(tmp_path: Path, quickstart: Load, state: ServerState) -> None:
    """Cut in the length field, in the header, in the tensors, and one byte short."""
    save_state(tmp_path, state, quickstart())
    file = tmp_path / CHECKPOINT
    whole = file.read_bytes()
    for size in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(RunFolderError, match="is not a readable checkpoint"):
            load_state(tmp_path, quickstart())


def test_a_foreign_file_is_refused(tmp_path: Path, quickstart: Load) -> None:
    (tmp_path / CHECKPOINT).parent.mkdir()
    (tmp_path / CHECKPOINT).write_bytes(b"PK\x03\x04" + bytes(1000))
    with pytest.raises(RunFolderError, match="is not a readable checkpoint"):
        load_state(tmp_path, quickstart())


def test_a_checkpoint_without_our_header_is_refused(tmp_path: Path, quickstart: Load) -> None:
    write_checkpoint(tmp_path / CHECKPOINT, draw(0), {"epoch": 3})
    with pytest.raises(RunFolderError, match=r"state\.safetensors"):
        load_state(tmp_path, quickstart())


def test_no_checkpoint_says_so(tmp_path: Path, quickstart: Load) -> None:
    with pytest.raises(RunFolderError, match="there is no checkpoint to continue from"):
        load_state(tmp_path, quickstart())


def test_a_full_disk_leaves_the_old_checkpoint(
    tmp_path: Path, quickstart: Load, state: ServerState
) -> None:
    save_state(tmp_path, state, quickstart())
    newer = ServerState(4, {"w": torch.ones(10_000)})
    with files_of_at_most(1000), pytest.raises(RunFolderError, match=r"cannot be written \(File"):
        save_state(tmp_path, newer, quickstart())
    assert load_state(tmp_path, quickstart()).round == 3
    assert [path.name for path in (tmp_path / CHECKPOINT).parent.iterdir()] == ["state.safetensors"]


def test_a_folder_that_is_a_file_is_named(
    tmp_path: Path, quickstart: Load, state: ServerState
) -> None:
    (tmp_path / "checkpoint").write_text("not a folder")
    with pytest.raises(RunFolderError, match=r"checkpoint/state\.safetensors: cannot be written"):
        save_state(tmp_path, state, quickstart())
    assert (tmp_path / "checkpoint").read_text() == "not a folder"


def test_a_save_replaces_the_one_before(tmp_path: Path, quickstart: Load) -> None:
    for round in (1, 2):
        save_state(tmp_path, ServerState(round, draw(round)), quickstart())
    found = load_state(tmp_path, quickstart())
    assert found.round == 2
    assert same(found.params, draw(2))


def test_the_params_of_the_best_round_are_selected(quickstart: Load) -> None:
    state = ServerState(5, draw(5), best=best(2, draw(2)))
    assert selected(state, quickstart()) == (2, state.best.params)  # type: ignore[union-attr]
    assert selected(state, quickstart("evaluation.select=last")) == (5, state.params)
    assert selected(ServerState(5, state.params), quickstart()) == (5, state.params)


def test_what_rules_remember_comes_back_to_the_bit(tmp_path: Path, quickstart: Load) -> None:
    """Ids, numbers of both precisions, none at all, and names with several slashes."""
    memory = {
        "clients": torch.tensor([3, 2**40]),
        "lambda": torch.tensor([0.1, 0.9], dtype=torch.float64),
        "flight/delta/inner_lr/layer.weight": torch.empty(0, 3),
        "round": torch.tensor(7),
    }
    save_state(tmp_path, ServerState(1, draw(0), memory=memory), quickstart())
    found = load_state(tmp_path, quickstart())
    assert same(found.memory, memory)
    assert found.memory["flight/delta/inner_lr/layer.weight"].shape == (0, 3)
    assert same(found.params, draw(0))


def test_every_strategy_goes_on_with_what_it_remembers(
    rules: Rules, tmp_path: Path, quickstart: Load
) -> None:
    """A round from disk is the round from memory: delta and memory, to the bit."""

    def replies(seed: int) -> Replies:
        generator = torch.Generator().manual_seed(seed)
        deltas = {
            name: torch.randn(8, *value.shape, generator=generator)
            for name, value in draw(0).items()
        }
        said = ("examples", "loss", "loss_after", "alpha", "staleness")
        columns = {name: 0.5 + torch.rand(8, generator=generator) / 2 for name in said}
        return Replies(list(range(seed, seed + 8)), deltas, columns)

    first = rules.combine([replies(1)], draw(0), {})
    save_state(tmp_path, ServerState(1, draw(0), memory=first.memory), quickstart())
    loaded = load_state(tmp_path, quickstart()).memory
    assert same(loaded, first.memory)
    found, expected = (
        rules.combine([replies(2)], draw(0), memory) for memory in (loaded, first.memory)
    )
    assert same(found.delta, expected.delta)
    assert same(found.memory, expected.memory)
