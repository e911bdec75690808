"""Local == Ray: the executor, the number of workers and their deaths leave no trace in the numbers."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from fedmeta.types import Params
from simulations.run import run
from strategies.state import load_state
from tests.simulations.conftest import small

EACH = ("engine.name=loop", "cohort.replies=each")


def trained(folder: Path, *overrides: str) -> Params:
    experiment = small(*overrides)
    folder.mkdir()
    run(experiment, folder)
    return load_state(folder, experiment).params


def ray_workers() -> list[int]:
    """Process ids of this test's Ray actors: Ray names them after their class."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue  # the process has ended meanwhile
        if command.startswith(b"ray::Worker"):
            found.append(int(entry.name))
    return found


@pytest.mark.usefixtures("two_ray_cpus")
@pytest.mark.parametrize("workers", [1, 2])
def test_ray_is_bitwise_local_with_the_loop_and_a_reply_per_client(
    tmp_path: Path, workers: int
) -> None:
    local = trained(tmp_path / "local", *EACH)
    ray = trained(tmp_path / "ray", *EACH, "engine.executor=ray", f"engine.workers={workers}")
    assert all(torch.equal(local[name], ray[name]) for name in local)


@pytest.mark.usefixtures("two_ray_cpus")
def test_ray_is_local_to_1e5_with_vmap_and_summed_replies_after_20_rounds(tmp_path: Path) -> None:
    local = trained(tmp_path / "local", "rounds=20")
    ray = trained(tmp_path / "ray", "rounds=20", "engine.executor=ray")
    scale = max(value.abs().max() for value in local.values())
    worst = max((local[name] - ray[name]).abs().max() for name in local)
    assert worst <= 1e-5 * scale


@pytest.mark.usefixtures("two_ray_cpus")
def test_a_worker_killed_in_the_middle_of_a_round_changes_nothing(tmp_path: Path) -> None:
    calm = trained(tmp_path / "calm", *EACH, "rounds=60")
    killed: list[int] = []

    def kill_one_worker_while_it_trains() -> None:
        metrics = tmp_path / "hit" / "metrics.jsonl"
        while not (metrics.exists() and metrics.read_text().count("train") >= 5):
            time.sleep(0.01)
        killed.append(ray_workers()[0])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one_worker_while_it_trains, daemon=True)
    killer.start()
    hit = trained(tmp_path / "hit", *EACH, "rounds=60", "engine.executor=ray")
    killer.join(timeout=10)
    assert killed, "nobody was killed"
    assert killed[0] not in ray_workers()
    assert all(torch.equal(calm[name], hit[name]) for name in calm)
