"""The choice of an engine: measured, checked against the loop, remembered; never a wrong one."""

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fedmeta.client_function import Own, Train, TrainWeighted
from fedmeta.engines import candidates as kinds
from fedmeta.engines import planner, search, trials
from fedmeta.engines.compiled import Compiled
from fedmeta.engines.loop import Loop
from fedmeta.engines.lowrank import Lowrank, keep_factors
from fedmeta.engines.planner import Planner
from fedmeta.engines.plans import Plan, recall, remember
from fedmeta.engines.products import multiply_by_onednn
from fedmeta.engines.recorded import Recorded
from fedmeta.engines.search import clients_at_once
from fedmeta.engines.vmap import Vmap
from fedmeta.engines.work import Work
from fedmeta.errors import ConfigError
from fedmeta.learners import Learner
from fedmeta.learners.maml import Maml
from fedmeta.learners.reptile import Reptile
from fedmeta.models.mlp import Mlp
from fedmeta.objective import Objective, initial_params
from fedmeta.settings import EngineSettings
from fedmeta.types import Batch, Episode, Params

CLIENTS = 6
MAML, REPTILE = Maml(inner_lr=0.1, inner_steps=1), Reptile(0.1, inner_steps=1, batch_size=4)
LONG = 10**6
"""Rounds for which any search is a small part."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(autouse=True)
def _not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes long; one test turns it on."""
    monkeypatch.setattr(trials, "COMPILING", 0.0)


def work(
    calls: int = LONG,
    module: nn.Module | None = None,
    clients: int = CLIENTS,
    learner: Learner = MAML,
) -> Work:
    objective = Objective(module or Mlp([8]).build((3,), 2), "cross_entropy")
    generator = torch.Generator().manual_seed(0)

    def batch(examples: int) -> Batch:
        x = torch.randn(clients, 1, examples, 3, generator=generator)
        return Batch(x, torch.arange(examples).remainder(2).expand(clients, 1, -1))

    train = Train(learner, objective, 1.0, calls)
    params = initial_params(objective.module, 0, torch.float32)
    own = Own(Episode(batch(4), batch(6)), {}, torch.ones(clients))
    return Work("total", TrainWeighted(train, "examples"), params, own)


def chosen(engine: Planner) -> Any:
    """The one engine that was chosen."""
    ((_, found),) = engine.chosen
    return found


def planned(engine: Planner, task: Work) -> Params:
    delta: Params = engine.total(task.function, task.params, task.each)[0]
    return delta


@dataclass(frozen=True)
class Wrong(Vmap):
    """As fast as can be, and wrong in the fourth digit."""

    def total(self, function: Any, params: Params, each: Any) -> Any:
        delta, rest = super().total(function, params, each)
        return {name: 1.0001 * value for name, value in delta.items()}, rest


@dataclass(frozen=True)
class Failing(Vmap):
    """Cannot."""

    def total(self, function: Any, params: Params, each: Any) -> Any:
        raise NotImplementedError("no such operation")


def candidates(monkeypatch: pytest.MonkeyPatch, **engines: Any) -> None:
    monkeypatch.setattr(kinds, "CANDIDATES", engines)


def times(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """As if an engine took so long per client; the loop takes 1."""

    def per_client(self: Work, engine: Any) -> float:
        self.run(engine)
        name = type(engine).__name__.lower()
        passes = getattr(engine, "passes", ())
        name += "_onednn" if multiply_by_onednn in passes else ""
        name += "_lowrank" if name == "compiled" and keep_factors in passes else ""
        return seconds.get(name, 1.0)

    monkeypatch.setattr(Work, "seconds", per_client)


def test_a_wrong_engine_is_not_chosen_however_fast(monkeypatch, caplog) -> None:
    candidates(monkeypatch, vmap=Vmap, wrong=Wrong)
    times(monkeypatch, vmap=0.5, wrong=0.01)
    engine = Planner(EngineSettings())
    with caplog.at_level(logging.INFO):
        planned(engine, work())
    assert type(chosen(engine)) is Vmap
    assert "wrong 100.0x, but wrong by 1e-04" in caplog.text


def test_an_engine_that_cannot_is_named_and_left_out(monkeypatch, caplog) -> None:
    candidates(monkeypatch, failing=Failing)
    engine = Planner(EngineSettings())
    with caplog.at_level(logging.INFO):
        planned(engine, work())
    assert chosen(engine) == Loop()
    assert "failing failed with NotImplementedError" in caplog.text


def test_the_fastest_is_chosen_and_the_log_says_by_how_much(monkeypatch, caplog) -> None:
    times(monkeypatch, vmap=0.25, recorded=0.1, lowrank=0.2, channelslast=0.5)
    engine = Planner(EngineSettings())
    with caplog.at_level(logging.INFO):
        planned(engine, work())
    assert type(chosen(engine)).__name__ == "Recorded"
    (line,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("engine for")]
    assert line == (
        "engine for training: recorded, 6 clients at once, 10.0x the loop (vmap 4.0x; "
        "channels_last has no image to lay out; lowrank 5.0x; recorded + onednn 1.0x; "
        "too short a run to try recorded + compiled, lowrank + compiled)"
    )


def test_a_short_run_is_not_spent_on_searching(monkeypatch, caplog) -> None:
    """1,000 rounds of 6 clients of 10 us, of which a twentieth is 3 ms; recording takes seconds."""
    times(monkeypatch, loop=1.0, vmap=1e-5)
    engine = Planner(EngineSettings())
    with caplog.at_level(logging.INFO):
        planned(engine, work(calls=1000))
    assert type(chosen(engine)) is Vmap
    assert "(too short a run to try recorded, channels_last, lowrank)" in caplog.text


def test_a_very_short_run_is_not_measured_at_all(monkeypatch) -> None:
    """499 clients in all rounds, and 500."""
    candidates(monkeypatch, vmap=Vmap)
    engine = Planner(EngineSettings())
    planned(engine, work(calls=planner.FEW // CLIENTS))
    assert engine.chosen == []
    planned(engine, work(calls=planner.FEW // CLIENTS + 1))
    assert len(engine.chosen) == 1


def test_the_choice_is_remembered(monkeypatch, cache: Path) -> None:
    candidates(monkeypatch, vmap=Vmap)
    planned(Planner(EngineSettings()), work())
    (file,) = cache.rglob("*.json")

    def again(*_: Any) -> Any:
        raise ConfigError("measured again")

    monkeypatch.setattr(planner, "search", again)
    planned(Planner(EngineSettings()), work())
    planned(Planner(EngineSettings()), work(clients=5))
    for other in (EngineSettings(chunk=2), EngineSettings(memory=1.0)):
        with pytest.raises(ConfigError, match="measured again"):
            planned(Planner(other), work())
    whole = file.read_text()
    file.write_text("{")
    with pytest.raises(ConfigError, match="measured again"):
        planned(Planner(EngineSettings()), work())
    plan = Plan(**json.loads(whole))
    for _ in range(2):
        remember(file.stem, plan)  # in place of one that was cut short
        assert recall(file.stem) == plan


@pytest.mark.parametrize("fastest", ["loop", *kinds.CANDIDATES])
def test_whatever_is_chosen_gives_the_numbers_of_the_loop(
    monkeypatch, relative_error, fastest: str
) -> None:
    alone = {name: kind for name, kind in kinds.CANDIDATES.items() if name == fastest}
    candidates(monkeypatch, **alone)
    times(monkeypatch, **{fastest.replace("_", ""): 0.1})
    task = work().exact()
    engine = Planner(EngineSettings())
    for _ in range(2):
        found = planned(engine, task)
        assert type(chosen(engine)) is alone.get(fastest, Loop)
        assert relative_error(found, task.run(Loop())[0]) < 1e-12


def test_products_by_onednn_are_taken_where_they_are_faster(
    monkeypatch, relative_error, caplog, cache: Path
) -> None:
    """And found again in the cache."""
    candidates(monkeypatch, recorded=Recorded)
    times(monkeypatch, recorded=0.2, recorded_onednn=0.1)
    task, engine = work(), Planner(EngineSettings())
    with caplog.at_level(logging.INFO):
        found = planned(engine, task)
    assert multiply_by_onednn in chosen(engine).passes
    assert "engine for training: recorded + onednn, 6 clients at once, 10.0x" in caplog.text
    assert relative_error(found, task.exact().run(Loop())[0]) < 1e-5
    again = Planner(EngineSettings())
    planned(again, task)
    assert chosen(again) == chosen(engine)


def test_wrong_products_are_not_used(monkeypatch, caplog) -> None:
    """By a thousandth, in float32 alone, where what is computed in float64 does not show it."""

    def wrongly(program: Any) -> Any:
        def run(*given: Tensor) -> list[Tensor]:
            return [value * 1.001 if value.dtype == torch.float32 else value
                    for value in program(*given)]  # fmt: skip

        return run

    def wrong(engine: Recorded) -> Recorded:
        return replace(engine, passes=(wrongly, multiply_by_onednn), programs=[])

    monkeypatch.setitem(kinds.VARIANTS, "onednn", (wrong, 1))
    candidates(monkeypatch, recorded=Recorded)
    times(monkeypatch, recorded=0.2, recorded_onednn=0.1)
    engine = Planner(EngineSettings())
    with caplog.at_level(logging.INFO):
        planned(engine, work())
    assert chosen(engine).passes == ()
    assert "onednn 10.0x, but wrong by 1e-03" in caplog.text


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The compiler is tried, and finds nothing that was compiled before."""
    monkeypatch.setattr(trials, "COMPILING", 1.0)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    times(monkeypatch, recorded=0.1, compiled=0.05)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("compiling")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own
def test_for_a_long_run_the_fastest_program_is_compiled(relative_error, caplog) -> None:
    engine, task = Planner(EngineSettings()), work(learner=REPTILE)
    with caplog.at_level(logging.INFO):
        planned(engine, task)
    assert type(chosen(engine)) is Compiled
    assert (
        "engine for training: recorded + compiled, 6 clients at once, 20.0x the loop" in caplog.text
    )
    truth = task.exact().run(Loop())[0]
    assert relative_error(planned(engine, task), truth) < 1e-5  # params are 20 times their step


@pytest.mark.usefixtures("compiling")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own
def test_wrong_machine_code_is_not_used(monkeypatch, caplog) -> None:
    """Wrong in the third digit, where float32 leaves 1e-7."""

    def compile_wrongly(program: Any, example: Any) -> Any:
        def run(*given: Tensor) -> list[Tensor]:
            return [1.001 * value for value in program(*given)]

        return run

    monkeypatch.setattr(torch._inductor, "compile", compile_wrongly)
    candidates(monkeypatch, recorded=Recorded)
    engine = Planner(EngineSettings())
    with caplog.at_level(logging.INFO):
        planned(engine, work(learner=REPTILE))
    assert type(chosen(engine)) is Recorded
    assert "recorded + compiled 20.0x, but wrong by 1e-03" in caplog.text


@pytest.mark.usefixtures("compiling")
def test_another_program_may_be_faster_compiled_than_the_fastest(monkeypatch, caplog) -> None:
    """Here as its own operations, as if they were machine code."""
    monkeypatch.setattr(torch._inductor, "compile", lambda program, example: program.forward)
    candidates(monkeypatch, recorded=Recorded, lowrank=Lowrank)
    times(monkeypatch, recorded=0.1, lowrank=0.15, compiled=0.09, compiled_lowrank=0.05)
    engine = Planner(EngineSettings())
    with caplog.at_level(logging.INFO):
        planned(engine, work())
    assert type(chosen(engine)) is Compiled
    assert chosen(engine).passes == (keep_factors,)
    assert "lowrank + compiled, 6 clients at once, 20.0x the loop" in caplog.text
    assert "recorded + compiled 11.1x" in caplog.text


@pytest.mark.usefixtures("compiling")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own
def test_without_a_compiler_the_program_is_replayed(monkeypatch, caplog) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/nowhere/g++",))
    candidates(monkeypatch, recorded=Recorded)
    engine = Planner(EngineSettings())
    with caplog.at_level(logging.INFO):
        planned(engine, work(learner=REPTILE))
    assert type(chosen(engine)) is Recorded
    assert "recorded + compiled failed with InductorError" in caplog.text


@dataclass(frozen=True)
class LastIsNaN(Vmap):
    """Right but for the last param."""

    def total(self, function: Any, params: Params, each: Any) -> Any:
        delta, rest = super().total(function, params, each)
        last = list(delta)[-1]
        return delta | {last: delta[last] * torch.nan}, rest


def test_an_engine_that_gives_no_number_is_not_chosen(monkeypatch) -> None:
    candidates(monkeypatch, nan=LastIsNaN)
    times(monkeypatch, lastisnan=0.1)
    engine = Planner(EngineSettings())
    planned(engine, work())
    assert chosen(engine) == Loop()


def test_a_cohort_without_numbers_decides_nothing(monkeypatch, cache: Path) -> None:
    """The first client's images are no numbers; the next cohort's are."""
    candidates(monkeypatch, vmap=Vmap)
    engine, task = Planner(EngineSettings()), work()
    bad = replace(task, each=tree_map(torch.clone, task.each))
    bad.each.episodes.support.x[0] = torch.nan
    planned(engine, bad)
    assert engine.chosen == []
    assert not list(cache.rglob("*.json"))
    planned(engine, task)
    assert len(engine.chosen) == 1


@dataclass(frozen=True)
class Hungry(Vmap):
    """Has memory for three clients."""

    def total(self, function: Any, params: Params, each: Any) -> Any:
        if self.chunk > 3:
            raise torch.OutOfMemoryError("no more")
        return super().total(function, params, each)


def test_the_chunk_is_what_the_memory_holds(monkeypatch) -> None:
    candidates(monkeypatch, hungry=Hungry)
    times(monkeypatch, hungry=0.1)
    engine = Planner(EngineSettings())
    planned(engine, work())
    assert chosen(engine) == Hungry(3)


def test_what_cannot_be_measured_is_computed_all_the_same(monkeypatch, caplog, cache: Path) -> None:
    """Here a device without float64; it is tried once, and said once."""

    def without(self: Work) -> Work:
        raise TypeError("no float64 here")

    monkeypatch.setattr(Work, "exact", without)
    engine, task = Planner(EngineSettings()), work()
    for _ in range(2):
        planned(engine, task)
    assert caplog.text.count("nothing could be measured: TypeError: no float64 here") == 1
    assert not list(cache.rglob("*.json"))


def test_of_two_workers_the_first_is_heard(cache: Path) -> None:
    first, second = Plan("vmap", 8, 2.0, {}), Plan("recorded", 16, 3.0, {})
    remember("key", first)
    remember("key", second)
    assert recall("key") == first


class Buffered(nn.Module):
    """Holds a number that is no param."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Mlp([4]).build((3,), 2)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.scale * self.inner(x)
        return output


def test_a_model_with_a_buffer_is_recorded(relative_error) -> None:
    task = work(module=Buffered()).exact()
    found = task.run(Recorded(4))[0]
    assert relative_error(found, task.run(Loop())[0]) < 1e-12


class Branching(nn.Module):
    """Looks at the numbers, which no vectorised call can."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Mlp([4]).build((3,), 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.inner(x)
        return output if x.sum() > 0 else 2 * output


def test_a_model_that_cannot_be_vectorised_runs_in_the_loop(caplog) -> None:
    engine, task = Planner(EngineSettings()), work(module=Branching())
    with caplog.at_level(logging.INFO):
        planned(engine, task)
    assert chosen(engine) == Loop()
    assert "vmap failed with RuntimeError" in caplog.text


def test_one_client_and_one_call_need_no_plan() -> None:
    engine = Planner(EngineSettings())
    planned(engine, work(clients=1))
    planned(engine, work(calls=1))
    assert engine.chosen == []


def test_memory_bounds_the_chunk() -> None:
    """By what one client takes; and by the user's own bound, and the clients there are."""
    task = work(clients=50)
    one = search.peak_bytes(lambda: task.first(1).run(Loop()))
    room = replace(EngineSettings(), memory=5.5 * one / 2**30)
    assert clients_at_once(task, room) == (5, 5)
    assert clients_at_once(task, replace(room, chunk=3)) == (3, 3)
    assert clients_at_once(task, EngineSettings()) == (32, 50)


def test_the_first_chunk_is_small_where_a_client_is_large(monkeypatch) -> None:
    """Two and a half clients of the bytes to begin with, and less than one."""
    task = work(clients=50)
    one = search.peak_bytes(lambda: task.first(1).run(Loop()))
    for near, first in ((2.5 * one, 2), (0.5 * one, 1)):
        monkeypatch.setattr(search, "NEAR", near)
        assert clients_at_once(task, EngineSettings()) == (first, 50)


def test_a_memory_too_small_for_one_client_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^engine.memory must be .* GiB or more for one client, "
    ):
        planned(Planner(EngineSettings(memory=1e-7)), work())
