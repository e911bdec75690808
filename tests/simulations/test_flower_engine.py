"""``flwr run`` on Flower's own simulation engine ends with the params of ``fedmeta run``, and its
clients with the states."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from simulations.run import run
from strategies.state import STATES, load_state
from tests.simulations.conftest import CONFIGS, SMALL, STATEFUL, small_with

SETTINGS = ("engine.name=loop", "cohort.replies=each")
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def flower(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment whose Flower home, ports and SuperLink are this test's own."""
    home = tmp_path / "flower"
    environment = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "HOME": str(tmp_path / "home"),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(free_port()),
        "FLWR_LOCAL_CONTROL_API_PORT": str(free_port()),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    yield environment
    for process in superlinks(home):
        process_id = int(process.name)
        os.kill(process_id, 15)
        wait_until_gone(process_id)


def superlinks(home: Path) -> list[Path]:
    """The SuperLink that ``flwr run`` left behind, known by its Flower home."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command, environment = ((entry / f).read_bytes() for f in ("cmdline", "environ"))
            if b"flower-superlink" in command and f"FLWR_HOME={home}".encode() in environment:
                found.append(entry)
        except OSError:
            continue  # not a process, ended meanwhile, or somebody else's
    return found


def wait_until_gone(process_id: int) -> None:
    deadline = time.monotonic() + 20
    while Path(f"/proc/{process_id}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)


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
def test_same_params_as_fedmeta_run(tmp_path: Path, flower: dict[str, str], learner: str) -> None:
    """And the same states, which nodes of Flower keep in the home folder."""
    app = tmp_path / "app"
    (app / "configs").mkdir(parents=True)
    experiment = small_with(tmp_path, LEARNERS[learner], *SETTINGS)
    shutil.copy(tmp_path / "config.yaml", app / "configs" / "quickstart.yaml")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CONFIGS.parent / name, app)
    overrides = " ".join([*SMALL, *SETTINGS])
    settings = f'overrides="{overrides}" run-dir="{tmp_path / "flower-run"}"'
    nodes = "num-supernodes=2 client-resources-num-cpus=1 init-args-num-cpus=2"
    command = [str(BIN / "flwr"), "run", str(app), "--stream", "--run-config", settings]
    result = subprocess.run(
        [*command, "--federation-config", nodes],
        env=flower,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (tmp_path / "flower-run" / "summary.json").exists(), result.stdout + result.stderr

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
