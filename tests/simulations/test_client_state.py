"""What clients keep from round to round, over whole runs: by hand, resumed, and in Ray workers."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmeta.client_state import ClientStates
from fedmeta.cohort import Cohort
from fedmeta.initial import first_params
from fedmeta.settings import CohortSettings
from fedmeta.types import Params
from simulations.run import run
from strategies.opening import open_old
from strategies.sampling import sample
from strategies.state import CHECKPOINT, STATES, load_state
from tests.simulations.conftest import STATEFUL, small_with
from tests.simulations.test_resume import ROUNDS, rows, start, wait_for_rounds

EXACT = ("engine.name=loop", "cohort.replies=each")
FEW = ("data.clients.train=9", "evaluation.every=5")
every_learner = pytest.mark.parametrize("learner", STATEFUL)


def trained(folder: Path, learner: str, *overrides: str, resume: bool = False) -> Params:
    folder.mkdir(exist_ok=True)
    experiment = small_with(folder.parent, STATEFUL[learner], *FEW, *overrides)
    run(experiment, folder, resume=resume, pictures=False)
    assert "failed_recorders" not in json.loads((folder / "summary.json").read_text())
    return load_state(folder, experiment).params


def kept(folder: Path) -> dict[str, bytes]:
    """Every state file of a run by ``client/round``; the run's own name is drawn anew every time."""
    (own,) = (folder / STATES).iterdir()
    return {str(path.relative_to(own)): path.read_bytes() for path in own.rglob("*.safetensors")}


def same(a: Params, b: Params) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@every_learner
def test_rounds_by_hand(tmp_path: Path, learner: str) -> None:
    """Every client goes on from its own state; the server steps along the mean delta."""
    settings = ("rounds=4", "engine.dtype=float64", "engine.name=loop")
    found = trained(tmp_path / "run", learner, *settings)
    experiment = small_with(tmp_path, STATEFUL[learner], *FEW, *settings)
    block, (params, first) = Cohort.open(experiment), first_params(experiment)
    rules, memory = experiment.strategy.rules(), {}
    own: dict[int, Params] = {}
    for round in range(1, 5):
        deltas = []
        for client in sample(np.arange(9), CohortSettings(6), 0, round).tolist():
            episodes = block.federation.draw(np.array([client]), 1, 0, "train", round).draw(0)
            every = params | own.get(client, first)
            update = block.learner.update(block.objective, every, episodes, (round - 1) / 4)
            own[client] = update.state
            deltas.append(update.delta)
        delta = {name: torch.stack([d[name] for d in deltas]).mean(dim=0) for name in params}
        params, memory = rules.optimizer.step(params, delta, memory, (round - 1) / 4)
    torch.testing.assert_close(found, params, atol=1e-12, rtol=0)
    (folder,) = (tmp_path / "run" / STATES).iterdir()
    assert {int(path.name) for path in folder.iterdir()} == set(own)
    for client, state in own.items():
        stored = ClientStates(folder).read([client], 5, first)
        mine = {name: values[0] for name, values in stored.items()}
        torch.testing.assert_close(mine, state, atol=1e-12, rtol=0)


@every_learner
def test_three_rounds_and_two_more_equal_five(tmp_path: Path, learner: str) -> None:
    whole = trained(tmp_path / "whole", learner, "rounds=5")
    trained(tmp_path / "split", learner, "rounds=3")
    split = trained(tmp_path / "split", learner, "rounds=5", resume=True)
    assert same(split, whole)
    assert kept(tmp_path / "split") == kept(tmp_path / "whole")


@every_learner
def test_what_a_dead_run_wrote_after_its_checkpoint_is_not_seen(
    tmp_path: Path, learner: str
) -> None:
    """The states are of round 4, the checkpoint of round 3: as when a run dies between the two."""
    whole = trained(tmp_path / "whole", learner, "rounds=5")
    trained(tmp_path / "dead", learner, "rounds=3")
    checkpoint = (tmp_path / "dead" / CHECKPOINT).read_bytes()
    trained(tmp_path / "dead", learner, "rounds=4", resume=True)
    assert any(path.endswith("/4.safetensors") for path in kept(tmp_path / "dead"))
    (tmp_path / "dead" / CHECKPOINT).write_bytes(checkpoint)
    again = trained(tmp_path / "dead", learner, "rounds=5", resume=True)
    assert same(again, whole)
    assert kept(tmp_path / "dead") == kept(tmp_path / "whole")


def test_a_run_without_its_states_goes_on_otherwise(tmp_path: Path) -> None:
    """The heads were needed: clients that lost theirs begin with the first one again."""
    whole = trained(tmp_path / "whole", "fedper", "rounds=5")
    trained(tmp_path / "split", "fedper", "rounds=3")
    shutil.rmtree(tmp_path / "split" / STATES)
    assert not same(trained(tmp_path / "split", "fedper", "rounds=5", resume=True), whole)


@pytest.mark.parametrize("learner", ["ditto", pytest.param("fedper", marks=pytest.mark.slow)])
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, learner: str) -> None:
    folder, whole = tmp_path / "killed", tmp_path / "whole"
    small_with(tmp_path, STATEFUL[learner])
    process = start(folder, tmp_path / "config.yaml")
    wait_for_rounds(folder, 10)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert len([row for row in rows(folder) if row["split"] == "train"]) < ROUNDS
    experiment, _ = open_old(folder, None, [])
    run(experiment, folder, resume=True, pictures=False)
    whole.mkdir()
    run(experiment, whole, pictures=False)
    found, expected = (load_state(path, experiment).params for path in (folder, whole))
    assert same(found, expected)
    assert kept(folder) == kept(whole)


@pytest.mark.usefixtures("two_ray_cpus")
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("learner", ["ditto", pytest.param("fedper", marks=pytest.mark.slow)])
def test_clients_keep_their_states_whichever_worker_they_meet(
    tmp_path: Path, learner: str, workers: int
) -> None:
    local = trained(tmp_path / "local", learner, *EXACT)
    ray = ("engine.executor=ray", f"engine.workers={workers}")
    remote = trained(tmp_path / "ray", learner, *EXACT, *ray)
    assert same(remote, local)
    assert kept(tmp_path / "ray") == kept(tmp_path / "local")


def test_torn_states_cost_their_own_client_and_no_other(tmp_path: Path) -> None:
    """The client is named in the summary; the others train as if it had not been asked."""
    everybody = ("cohort.clients=9", *EXACT)
    trained(tmp_path / "run", "fedper", *everybody, "rounds=2")
    (own,) = (tmp_path / "run" / STATES).iterdir()
    for torn in (own / "4").iterdir():  # the latest, and the one to go on from in its place
        torn.write_bytes(torn.read_bytes()[:-9])
    experiment = small_with(tmp_path, STATEFUL["fedper"], *FEW, *everybody, "rounds=3")
    before = load_state(tmp_path / "run", experiment)
    others = [client for client in range(9) if client != 4]
    states = tmp_path / "others"
    shutil.copytree(own, states)
    replies = Cohort.open(experiment).train(before.params, others, 3, ClientStates(states))
    found = trained(tmp_path / "run", "fedper", *everybody, "rounds=3", resume=True)
    rules = experiment.strategy.rules()
    delta = rules.combine([replies], before.params, {}).delta
    expected, _ = rules.optimizer.step(before.params, delta, before.optimizer, 2 / 3)
    assert same(found, expected)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert list(summary["dropped_clients"]) == ["4"]
    assert "1.safetensors: is not a readable" in summary["dropped_clients"]["4"]["reason"]
