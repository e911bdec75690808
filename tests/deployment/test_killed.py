"""Processes that die or dawdle in the middle of a round, and a full disk: minutes long, for
``make test-deployment``."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from fedmeta.errors import FedmetaError
from simulations.certificates import write_node_key
from simulations.federation import write_app
from simulations.loopback import BIN, SUPERLINK, Loopback, Node
from simulations.processes import kill, processes_with
from strategies.state import load_state
from tests.deployment.conftest import CONFIG, FAULTY, Scene, device, experiment_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif("FEDMETA_DATA" not in os.environ, reason="FEDMETA_DATA is not set"),
]
RESTART = 15.0
"""Seconds after which a node that is turned away is started again, as systemd does."""


def until(what: str, true: Callable[[], bool], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
        time.sleep(0.1)


def rows(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def trained(run: Path) -> int:
    """The last round that the server recorded."""
    return max([row["round"] for row in rows(run) if row["split"] == "train"], default=0)


def start_until_online(federation: Loopback, node: Node) -> None:
    for _ in range(12):
        federation.start(node)
        try:
            return federation.wait_online(node)
        except FedmetaError:
            federation.kill(node.name)
            time.sleep(RESTART)
    raise AssertionError(f"{node.name} is turned away for ever")


def test_devices_that_die_and_dawdle(tmp_path: Path) -> None:
    """Client 2's node is killed in the middle of round 2 and is back in round 3; client 3's process
    ends itself in every round; client 4 is never done in time."""
    overrides = (
        *("rounds=3", "cohort.clients=5", "data.clients.train=5", "cohort.timeout=80"),
        *("evaluation.every=3", "evaluation.clients=2"),
    )
    experiment = experiment_of(*overrides)
    well = [device(tmp_path, experiment, f"well{i}", [i, 5 + i, 8 + i]) for i in range(2)]
    killed = device(tmp_path, experiment, "killed", [2], "slow 15")
    others = [
        device(tmp_path, experiment, fault.split()[0], [client], fault)
        for client, fault in ((3, "exits"), (4, "slow 300"))
    ]
    mark, run = tmp_path / "killed" / "mark", tmp_path / "run"
    settings = {"config": f"configs/{CONFIG.name}", "run-dir": str(run)}
    with Loopback(tmp_path / "federation", [*well, killed, *others]) as federation:
        app = write_app(tmp_path / "app", CONFIG)
        operator = federation.launch(app, settings | {"overrides": " ".join(overrides)})
        until("round 2 has begun", lambda: mark.exists() and mark.read_text() == "0.333")
        federation.kill("killed")
        start_until_online(federation, killed)
        output, _ = operator.communicate(timeout=500)
    summary = Scene(tmp_path, experiment, output).summary
    assert (summary["rounds"], summary["idle_rounds"]) == (3, 0)
    assert (summary["test"]["clients"], summary["test"]["missing"]) == (2, 0)
    dropped = {client: who["replies"] for client, who in summary["dropped_clients"].items()}
    assert dropped == {"2": 1, "3": 3, "4": 3}
    reasons = {client: who["reason"] for client, who in summary["dropped_clients"].items()}
    assert "heartbeat" in reasons["2"] or reasons["2"] == "no reply in time"
    assert reasons["3"] == "ClientApp stopped responding."  # so says its SuperNode, a minute later
    assert reasons["4"] == "no reply in time"
    assert "round 3: client 2, loss" in (tmp_path / "killed" / "log.txt").read_text()


OUTAGE = (
    *("rounds=5", "cohort.clients=2", "data.clients.train=2", "evaluation.clients=2"),
    *("engine.name=loop", "cohort.replies=each"),
)
FIRST = "raises in round 1"


def test_a_server_that_is_killed_twice_and_a_round_in_which_all_fail(tmp_path: Path) -> None:
    """The SuperLink dies after round 2, the ServerApp alone after round 3; both times the run is
    continued from its checkpoint, and ends with the params of a run without any of it, to the bit."""
    experiment, run = experiment_of(*OUTAGE), tmp_path / "run"
    nodes = [device(tmp_path, experiment, f"node{i}", [i, 2 + i, 5 + i], FIRST) for i in range(2)]
    app = write_app(tmp_path / "app", CONFIG)
    config = {"config": f"configs/{CONFIG.name}", "overrides": " ".join(OUTAGE)}
    with Loopback(tmp_path / "federation", nodes) as federation:
        operator = federation.launch(app, config | {"run-dir": str(run)})
        until("round 2 is recorded", lambda: trained(run) == 2)
        federation.kill(SUPERLINK)
        assert operator.wait(60) != 0
        federation.start_superlink()
        operator = federation.launch(app, {"resume": str(run)})
        until("round 3 is recorded", lambda: trained(run) == 3)
        (server,) = server_apps(federation)
        kill(server)
        operator.communicate(timeout=200)
        assert not (run / "summary.json").exists()
        result = federation.run(app, {"resume": str(run)}, 300)
    summary = Scene(tmp_path, experiment, result.stdout).summary
    assert (summary["rounds"], summary["idle_rounds"]) == (5, 1)
    assert {c: who["replies"] for c, who in summary["dropped_clients"].items()} == {"0": 1, "1": 1}
    assert "OSError: no camera yet" in summary["dropped_clients"]["0"]["reason"]
    assert [row["round"] for row in rows(run) if row["split"] == "train"] == [1, 2, 3, 4, 5]

    calm = tmp_path / "calm"
    command = [sys.executable, "-m", "simulations", "run", str(CONFIG), *OUTAGE]
    environment = os.environ | FAULTY | {"FAULT": FIRST}
    subprocess.run([*command, f"--run-dir={calm}"], env=environment, timeout=200, check=True)
    mine, theirs = (load_state(folder, experiment).params for folder in (run, calm))
    assert all(torch.equal(mine[name], value) for name, value in theirs.items())


def server_apps(federation: Loopback) -> Iterator[int]:
    """Processes of ServerApps."""
    home = federation.environment_of(SUPERLINK)["FLWR_HOME"]
    for process in processes_with(f"FLWR_HOME={home}\0".encode()):
        with suppress(FileNotFoundError):
            if b"flwr-serverapp" in Path(f"/proc/{process}/cmdline").read_bytes():
                yield process


def on_a_small_disk(command: Sequence[str], folder: Path) -> list[str]:
    """The command where a folder is a disk of 16 kB, seen by nobody else."""
    mount = f'mount -t tmpfs -o size=16k none {folder} && exec "$0" "$@"'
    return ["/usr/bin/unshare", "--mount", "--map-root-user", "sh", "-c", mount, *command]


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """What int8 leaves of a delta is 32 kB, and has to be kept for the next round."""
    overrides = (
        *("rounds=2", "cohort.clients=2", "data.clients.train=2", "evaluation.clients=1"),
        *("cohort.replies=each", "wire.deltas=int8", "evaluation.every=2"),
    )
    experiment = experiment_of(*overrides)
    well, full = (
        device(tmp_path, experiment, n, c) for n, c in (("well", [0, 2, 5]), ("full", [1]))
    )
    states = tmp_path / "full" / "states"
    states.mkdir()
    with Loopback(tmp_path / "federation", [well]) as federation:
        federation.register([write_node_key(federation.key(full))])
        command = federation.command(full)
        program = str(BIN / command[0])
        federation.spawn("full", on_a_small_disk([program, *command[1:]], states), {})
        federation.wait_online(full)
        app = write_app(tmp_path / "app", CONFIG)
        settings = {"config": f"configs/{CONFIG.name}", "run-dir": str(tmp_path / "run")}
        result = federation.run(app, settings | {"overrides": " ".join(overrides)}, 300)
    summary = Scene(tmp_path, experiment, result.stdout + result.stderr).summary
    assert summary["rounds"] == 2
    assert summary["dropped_clients"].keys() == {"1"}
    assert "No space left on device" in summary["dropped_clients"]["1"]["reason"]
    assert summary["dropped_clients"]["1"]["replies"] == 2
    assert len(list((tmp_path / "well" / "states").glob("*/residuals/0/*"))) == 2
