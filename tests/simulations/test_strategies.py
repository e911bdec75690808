"""Every strategy in whole runs: it runs, it goes on after a stop, and Ray leaves no trace."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fedmeta.config import Experiment, parse, read_mapping
from fedmeta.initial import first_params
from fedmeta.types import Params
from simulations.run import run
from strategies.state import ServerState, load_state
from strategies.stock import STRATEGIES
from tests.simulations.conftest import CONFIGS, SMALL

MORE: dict[str, dict[str, Any]] = {
    "flwr.QFedAvg": {"options": {"client_learning_rate": 1.0}},
    "fedbuff": {"concurrency": 12},
}
"""Settings that some need besides ``lr``."""
DEVICES = ("devices.slowness=half_normal",)
STATEFUL = {
    "adam": ("fedadam", ()),
    "afl": ("afl", ()),
    "centred clipping": ("centred_clipping", ()),
    "fedbuff": ("fedbuff", DEVICES),
    "losses": ("uniform", ("cohort.sampling=loss",)),
    "dropouts": ("pyramid", (*DEVICES, "devices.dropout=0.3", "devices.deadline=11")),
    "turns": ("qfedavg", ("cohort.sampling=round_robin",)),
}
"""Strategies, sampling and devices that remember something between rounds, or might."""
REMEMBER = {"afl", "centred clipping", "fedbuff", "losses"}
"""Those whose rules do, besides the optimiser."""


def experiment(strategy: str, *overrides: str) -> Experiment:
    """The quickstart at a size that runs in a second, with eight clients a round."""
    section = {"name": strategy, "lr": 0.01} | MORE.get(strategy, {})
    sections = read_mapping(CONFIGS / "quickstart.yaml") | {"strategy": section}
    settings = (*SMALL, "cohort.clients=8", "engine.name=loop", "evaluation.every=5")
    return parse(sections, [*settings, *overrides], STRATEGIES)


def ran(folder: Path, experiment: Experiment, resume: bool = False) -> ServerState:
    folder.mkdir(exist_ok=True)
    run(experiment, folder, resume=resume, pictures=False)
    return load_state(folder, experiment)


def same(a: Params, b: Params) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_every_strategy_runs(tmp_path: Path, strategy: str) -> None:
    """Two rounds take all params somewhere, and both are told of."""
    chosen = experiment(strategy, *(DEVICES if strategy == "fedbuff" else ()), "rounds=2")
    state = ran(tmp_path, chosen)
    assert state.tally.idle_rounds == 0
    for name, value in first_params(chosen)[0].items():
        assert state.params[name].isfinite().all()
        assert not torch.equal(state.params[name], value)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["split"] == "train"]
    assert [row["round"] for row in trained] == [1, 2]
    assert all(row["dropped"] == 0 for row in trained)


@pytest.mark.parametrize("name", STATEFUL)
def test_three_rounds_and_two_more_equal_five(tmp_path: Path, name: str) -> None:
    """Params, what the optimiser and the rules remember, simulated time and the ledger: to the bit."""
    strategy, settings = STATEFUL[name]
    five = experiment(strategy, *settings, "rounds=5")
    ran(tmp_path / "split", experiment(strategy, *settings, "rounds=3"))
    split, whole = ran(tmp_path / "split", five, resume=True), ran(tmp_path / "whole", five)
    assert (split.round, whole.round) == (5, 5)
    assert same(split.params, whole.params)
    assert same(split.memory, whole.memory)
    assert bool(whole.memory) == (name in REMEMBER)
    assert split.optimizer.keys() == whole.optimizer.keys()
    assert all(same(split.optimizer[name], whole.optimizer[name]) for name in whole.optimizer)
    assert split.tally.simulated_seconds == whole.tally.simulated_seconds
    ledgers = [(tmp_path / name / "ledger.jsonl").read_bytes() for name in ("split", "whole")]
    assert ledgers[0] == ledgers[1]


def test_losses_decide_who_comes_next(tmp_path: Path) -> None:
    """Of all 30 clients, those of the first rounds are news; from then on the worst served are asked."""
    settings = ("cohort.sampling=loss", "cohort.candidates=30", "rounds=5")
    ran(tmp_path, experiment("uniform", *settings))
    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    told: dict[int, float] = {}
    for round in range(1, 6):
        mine = {line["client"]: line["loss"] for line in lines if line["round"] == round}
        news = [client for client in range(30) if client not in told][:8]
        worst = sorted(told, key=lambda client: -told[client])[: 8 - len(news)]
        assert sorted(mine) == sorted(news + worst)
        told |= mine


def test_simultaneous_dropouts_are_no_failure_of_all(tmp_path: Path) -> None:
    """Half of the clients drop out of every round and the others answer: as many, on the same day."""
    settings = (*DEVICES, "devices.dropout=0.5", "rounds=60", "cohort.clients=4")
    state = ran(tmp_path, experiment("uniform", *settings, "evaluation.every=60"))
    assert state.round == 60
    assert state.tally.failing_rounds == 0
    assert sum(state.tally.dropped.values()) > 80


def test_simulated_time_depends_on_no_message(tmp_path: Path) -> None:
    """A longer name is more bytes on the way, and nothing that a simulated device would wait for."""
    times = [
        ran(
            tmp_path / name, experiment("uniform", *DEVICES, f"name={name}")
        ).tally.simulated_seconds
        for name in ("short", "a-much-longer-name-than-the-other")
    ]
    assert times[0] == times[1] > 40


@pytest.mark.usefixtures("two_ray_cpus")
def test_ray_is_local_to_rounding_with_weighted_sums(tmp_path: Path) -> None:
    """Two workers add up four clients each, one process eight: other sums of the same numbers.

    In float64 a round is off by some 1e-16, and four rounds cannot make 1e-12 of that.
    """
    exact = ("cohort.replies=sum", "engine.dtype=float64")
    local = ran(tmp_path / "local", experiment("pyramid", *exact))
    remote = ran(tmp_path / "ray", experiment("pyramid", *exact, "engine.executor=ray"))
    for name, value in local.params.items():
        torch.testing.assert_close(remote.params[name], value, rtol=1e-12, atol=1e-13)


@pytest.mark.usefixtures("two_ray_cpus")
@pytest.mark.parametrize(("strategy", "settings"), [("qfedavg", ()), ("fedbuff", DEVICES)])
def test_ray_is_bitwise_local_where_clients_answer_one_by_one(
    tmp_path: Path, strategy: str, settings: tuple[str, ...]
) -> None:
    local = ran(tmp_path / "local", experiment(strategy, *settings))
    remote = ran(tmp_path / "ray", experiment(strategy, *settings, "engine.executor=ray"))
    assert same(local.params, remote.params)
    assert same(local.memory, remote.memory)
    assert local.tally.simulated_seconds == remote.tally.simulated_seconds
