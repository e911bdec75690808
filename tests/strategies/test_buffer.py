"""Asynchronous rounds in simulated time, beside a plain simulation that keeps params, not deltas."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord

from fedmeta.cohort import Cohort
from fedmeta.config import Experiment, parse, read_mapping
from fedmeta.settings import CohortSettings
from fedmeta.types import Params
from simulations.executors.local import LocalExecutor
from simulations.grid import CohortGrid
from strategies.buffer import Buffer
from strategies.clock import Clock
from strategies.gathered import Gathered, Memory
from strategies.meta_strategy import MetaStrategy
from strategies.roster import Attendance
from strategies.sampling import sample
from strategies.server import first_state
from strategies.state import ServerState, load_state, save_state
from strategies.stock import STRATEGIES

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
ROUNDS = 9
FEDBUFF = {"name": "fedbuff", "lr": 0.02}


def experiment(strategy: dict[str, Any], *overrides: str) -> Experiment:
    """The quickstart in float64 on 24 simulated devices, four deltas a step."""
    small = ("rounds=9", "data.clients.train=24", "data.clients.val=5", "data.clients.test=5")
    settings = (*small, "cohort.clients=4", "evaluation.clients=5", "engine.name=loop")
    exact = ("engine.dtype=float64", "devices.slowness=half_normal")
    sections = read_mapping(QUICKSTART) | {"strategy": strategy}
    return parse(sections, [*settings, *exact, *overrides], STRATEGIES)


def fedbuff(concurrency: int, *overrides: str) -> Experiment:
    return experiment(FEDBUFF | {"concurrency": concurrency}, *overrides)


def served(
    experiment: Experiment, folder: Path, state: ServerState | None = None
) -> Iterator[MetaStrategy]:
    """The server after each of its rounds."""
    grid = CohortGrid(LocalExecutor(folder))
    attendance = Attendance(grid, experiment.to_yaml(), 10.0)
    attendance.now()
    server = MetaStrategy(experiment, attendance, state or first_state(experiment))
    for round in range(1, ROUNDS - server.state.round + 1):
        messages = server.configure_train(round, server.packed(), ConfigRecord(), grid)
        server.aggregate_train(round, grid.send_and_receive(messages))
        yield server


def same(a: Params, b: Params) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@dataclass
class Events:
    """Clients that train when their delta comes in, on params that were kept for them."""

    experiment: Experiment
    concurrency: int
    versions: list[Params]
    """The params after every server step."""
    now: float = 0.0
    flying: list[tuple[float, int, int, int]] = field(default_factory=list)
    """When a client comes in, its id, the version it trains on, and the round it was asked in."""

    def round(self, number: int) -> dict[int, int]:
        """Staleness by client of who came in."""
        block = Cohort.open(self.experiment)
        clock = Clock.of(self.experiment, self.versions[0])
        assert clock is not None
        away = [client for _, client, _, _ in self.flying]
        there = np.setdiff1d(np.arange(24), away)
        asked = sample(there, CohortSettings(self.concurrency - len(away)), 0, number)
        for client in asked[clock.reachable(asked, number)].tolist():
            slowness = clock.slowness(np.array([client])).item()
            took = 10.0 + slowness * 0.05 + clock.down / 0.75e6 + clock.up / 0.25e6
            self.flying.append((self.now + took, client, len(self.versions) - 1, number))
        if len(self.flying) < 4:
            return {}
        self.flying.sort()
        arrived, self.flying = self.flying[:4], self.flying[4:]
        step = {name: torch.zeros_like(value) for name, value in self.versions[0].items()}
        late = {}
        for _, client, version, asked_in in arrived:
            drawn = block.federation.draw(np.array([client]), 1, 0, "train", asked_in).draw(0)
            delta = block.learner.update(block.objective, self.versions[version], drawn).delta
            late[client] = len(self.versions) - 1 - version
            for name, value in delta.items():
                step[name] += value / (1 + late[client]) ** 0.5 / 4
        self.versions.append({name: w - 0.02 * step[name] for name, w in self.versions[-1].items()})
        self.now = arrived[-1][0]
        return late


@pytest.mark.parametrize(("concurrency", "dropout"), [(4, 0.0), (10, 0.0), (5, 0.5)])
def test_rounds_are_those_of_a_simulation_event_by_event(
    tmp_path: Path, concurrency: int, dropout: float
) -> None:
    """Params, staleness and time; with many dropouts, rounds in which too few are on their way."""
    run = fedbuff(concurrency, f"devices.dropout={dropout}")
    events = Events(run, concurrency, [first_state(run).params])
    stalest = idle = 0
    for round, server in enumerate(served(run, tmp_path), start=1):
        late = events.round(round)
        found = {e["client"]: int(e["staleness"]) for e in server.entries if "staleness" in e}
        assert found == late
        assert server.state.tally.simulated_seconds == pytest.approx(events.now, rel=1e-12)
        for name, value in events.versions[-1].items():
            torch.testing.assert_close(server.state.params[name], value, rtol=1e-12, atol=1e-13)
        stalest, idle = max([stalest, *late.values()]), idle + (not late)
        assert server.state.tally.idle_rounds == idle
    assert bool(idle) == bool(dropout)
    assert bool(stalest) == (concurrency > 4)


def test_who_is_on_the_way_is_not_asked_again(tmp_path: Path) -> None:
    """Of 24 clients 20 train at any time, and the 4 that come in make room for 4 others."""
    behind = np.array([], dtype=np.int64)
    for round, server in enumerate(served(fedbuff(20), tmp_path), start=1):
        asked = [client for clients in server._asked.values() for client in clients]
        assert len(asked) == (20 if round == 1 else 4)
        assert not np.isin(asked, behind).any()
        behind = Buffer.on_their_way(server.state.memory).numpy()
        assert len(set(behind.tolist())) == 16


def test_as_many_at_once_as_a_step_takes_is_the_synchronous_mean(tmp_path: Path) -> None:
    """To the bit, if nobody is faster: everyone is waited for."""
    equal = "devices.slowness=equal"
    plain = experiment({"name": "uniform", "lr": 0.02}, equal, "cohort.replies=each")
    pairs = zip(served(fedbuff(4, equal), tmp_path), served(plain, tmp_path), strict=True)
    for buffered, synchronous in pairs:
        assert same(buffered.state.params, synchronous.state.params)
        times = [s.state.tally.simulated_seconds for s in (buffered, synchronous)]
        assert times[0] == times[1] > 0


def test_more_at_once_is_faster_and_staler(tmp_path: Path) -> None:
    """A step waits for the 4 fastest of M devices, and half-normal ones are seldom alike."""
    slow = ("devices.seconds_per_step=100",)
    ends = [list(served(fedbuff(m, *slow), tmp_path))[-1] for m in (4, 20)]
    seconds = [server.state.tally.simulated_seconds for server in ends]
    assert seconds[1] < seconds[0] / 2


@pytest.mark.parametrize("concurrency", [4, 10])
def test_a_resumed_server_goes_on_to_the_bit(tmp_path: Path, concurrency: int) -> None:
    """With those that are on their way, of whom at a concurrency of 4 there is none."""
    run = fedbuff(concurrency)
    first, second = served(run, tmp_path), served(run, tmp_path)
    for _ in range(4):
        state = next(first).state
    save_state(tmp_path, state, run)
    loaded = load_state(tmp_path, run)
    assert same(loaded.memory, state.memory)
    assert Buffer(concurrency).free(loaded.memory) == 4
    resumed, whole = list(served(run, tmp_path, loaded))[-1].state, list(second)[-1].state
    assert resumed.round == whole.round == ROUNDS
    assert same(resumed.params, whole.params)
    assert same(resumed.memory, whole.memory)
    assert resumed.tally.simulated_seconds == whole.tally.simulated_seconds


def begun(clients: list[int], step: int) -> Gathered:
    """Deltas that tell whose they are, and since when."""
    ids = torch.tensor(clients)
    deltas = {"w": torch.stack([ids.double(), torch.full_like(ids, step).double()], dim=1)}
    return Gathered(ids, deltas, {"loss": ids.double() / 10})


def test_the_first_to_come_in_go_out_in_client_order() -> None:
    buffer = Buffer(5)
    times = torch.tensor([50.0, 20.0, 30.0, 10.0, 40.0]).double()
    gathered, memory, now = buffer.exchange(
        begun([1, 2, 3, 4, 5], 1), times, 3, 1, {"other": times}
    )
    assert gathered is not None
    assert gathered.clients.tolist() == [2, 3, 4]
    assert gathered.deltas["w"].tolist() == [[2, 1], [3, 1], [4, 1]]
    assert gathered.columns["loss"].tolist() == [0.2, 0.3, 0.4]
    assert gathered.columns["staleness"].tolist() == [0, 0, 0]
    assert now == 30.0
    assert (Buffer.on_their_way(memory).tolist(), buffer.free(memory)) == ([1, 5], 3)
    assert memory["other"] is times
    new = torch.tensor([45.0, 35.0]).double()
    gathered, memory, now = buffer.exchange(begun([7, 2], 2), new, 3, 2, memory)
    assert gathered is not None
    assert gathered.clients.tolist() == [2, 5, 7]
    assert gathered.columns["staleness"].tolist() == [0, 1, 0]
    assert (now, Buffer.on_their_way(memory).tolist()) == (45.0, [1])


def test_nothing_comes_out_while_too_few_are_on_their_way() -> None:
    buffer = Buffer(5)
    gathered, memory, _ = buffer.exchange(
        begun([3], 1), torch.tensor([9.0]).double(), 2, 1, Memory()
    )
    assert gathered is None
    assert buffer.free(memory) == 4
    none = torch.empty(0, dtype=torch.float64)
    assert buffer.exchange(None, none, 2, 1, memory).gathered is None
    gathered, _, now = buffer.exchange(begun([1], 1), torch.tensor([4.0]).double(), 2, 1, memory)
    assert gathered is not None
    assert (gathered.clients.tolist(), now) == ([1, 3], 9.0)


def test_of_two_that_come_in_together_the_one_that_began_first_is_taken() -> None:
    buffer, time = Buffer(4), torch.tensor([5.0]).double()
    _, memory, _ = buffer.exchange(begun([8], 1), time, 2, 1, Memory())
    gathered, memory, _ = buffer.exchange(begun([2, 1], 2), time.expand(2), 2, 2, memory)
    assert gathered is not None
    assert gathered.clients.tolist() == [2, 8]
    assert Buffer.on_their_way(memory).tolist() == [1]
