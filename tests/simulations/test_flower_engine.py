"""``flwr run`` on Flower's own simulation engine ends with the params of ``fedmeta run``, and its
clients with the states."""

import shutil
from pathlib import Path

import pytest
import torch

from simulations.federation import write_app
from simulations.run import run
from strategies.state import STATES, load_state
from tests.flower_simulation import flower, flwr_run
from tests.simulations.conftest import SMALL, STATEFUL, small_with

SETTINGS = ("engine.name=loop", "cohort.replies=each")


def states(folder: Path) -> dict[str, bytes]:
    """State files of the one run below the folder, whose name is drawn anew every time."""
    return {
        "/".join(path.parts[-2:]): path.read_bytes()
        for path in sorted(folder.glob("*/*/*.safetensors"))
    }


LEARNERS = {"maml": "{name: maml, inner_lr: 0.01, inner_steps: 1}", "fedper": STATEFUL["fedper"]}


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("learner", LEARNERS)
def test_same_params_as_fedmeta_run(tmp_path: Path, learner: str) -> None:
    """And the same states, which nodes of Flower keep in the home folder."""
    experiment = small_with(tmp_path, LEARNERS[learner], *SETTINGS)
    shutil.copy(tmp_path / "config.yaml", tmp_path / "quickstart.yaml")
    app = write_app(tmp_path / "app", tmp_path / "quickstart.yaml")
    overrides = " ".join([*SMALL, *SETTINGS])
    with flower(tmp_path) as environment:
        config = 'config="configs/quickstart.yaml"'
        settings = f'{config} overrides="{overrides}" run-dir="{tmp_path / "flower-run"}"'
        output = flwr_run(app, settings, environment)
    assert (tmp_path / "flower-run" / "summary.json").exists(), output

    (tmp_path / "ours").mkdir()
    run(experiment, tmp_path / "ours")
    ours = load_state(tmp_path / "ours", experiment).params
    theirs = load_state(tmp_path / "flower-run", experiment).params
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    kept = states(tmp_path / "ours" / STATES)
    assert states(tmp_path / "home" / ".local" / "state" / "fedmeta") == kept
    assert bool(kept) == (learner == "fedper")
    clients = [(tmp_path / name / "clients.jsonl").read_bytes() for name in ("ours", "flower-run")]
    assert clients[0] == clients[1]
