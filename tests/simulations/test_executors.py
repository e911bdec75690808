"""Local == Ray: the executor, the number of workers and their deaths leave no trace in the numbers."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import ray
import torch

from fedmeta.data import DATASETS
from fedmeta.data.sinusoid import Sinusoid
from fedmeta.errors import ConfigError
from fedmeta.types import Params
from simulations.executors.ray import ATTEMPTS, RayExecutor, gpu_share
from simulations.grid import CohortGrid
from simulations.run import run
from strategies.opening import open_old
from strategies.roster import Attendance
from strategies.state import load_state
from tests.simulations.conftest import CONFIGS, SMALL, program, small

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
    remote = trained(tmp_path / "ray", *EACH, "engine.executor=ray", f"engine.workers={workers}")
    assert all(torch.equal(local[name], remote[name]) for name in local)


@pytest.mark.usefixtures("two_ray_cpus")
def test_ray_is_local_to_1e5_with_vmap_and_summed_replies_after_20_rounds(tmp_path: Path) -> None:
    local = trained(tmp_path / "local", "rounds=20")
    remote = trained(tmp_path / "ray", "rounds=20", "engine.executor=ray")
    scale = max(value.abs().max() for value in local.values())
    worst = max((local[name] - remote[name]).abs().max() for name in local)
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


def test_an_address_with_no_cluster_is_said_at_once(tmp_path: Path) -> None:
    """In a process of its own: this one may have a Ray. Nobody listens on port 1."""
    program = "from simulations.cli import main; main()"
    settings = ["engine.executor=ray", "engine.address=127.0.0.1:1", "--run-dir=never"]
    result = subprocess.run(
        [sys.executable, "-c", program, "run", str(CONFIGS / "quickstart.yaml"), *settings],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=False,
        env={k: v for k, v in os.environ.items() if not k.startswith("RAY_ADDRESS")},
    )
    assert result.returncode == 2, result.stdout + result.stderr
    assert "engine.address: no Ray cluster" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "never").exists()


@pytest.mark.usefixtures("two_ray_cpus")
def test_more_workers_than_cpus_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"engine\.workers must be at most the 2 CPUs .* got 3"):
        trained(tmp_path / "run", "engine.executor=ray", "engine.workers=3")
    with pytest.raises(ConfigError, match=r"at most the 2 CPUs .* / engine\.threads \(2\), got 2"):
        trained(tmp_path / "threads", "engine.executor=ray", "engine.threads=2")


@pytest.mark.usefixtures("two_ray_cpus")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_worker_computes_with_as_many_threads_as_it_takes_cpus(
    tmp_path: Path, threads: int
) -> None:
    settings = ("engine.executor=ray", "engine.workers=1", f"engine.threads={threads}")
    experiment = small(*settings)
    with closing(RayExecutor(experiment.engine, tmp_path)) as executor:
        Attendance(
            CohortGrid(executor), experiment.to_yaml(), 60
        ).now()  # the first message sets it
        (worker,) = executor._workers
        found = worker.__ray_call__.remote(
            lambda self: (
                torch.get_num_threads(),
                ray.get_runtime_context().get_assigned_resources()["CPU"],
            )
        )
        assert ray.get(found, timeout=60) == (threads, threads)


def test_a_worker_that_always_dies_ends_the_run_and_the_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its data are deadly in round 3, and for workers alone: here they are sines."""
    monkeypatch.setitem(DATASETS, "deadly", Sinusoid)
    folder = tmp_path / "run"
    settings = (*SMALL, *EACH, "data.name=deadly", "engine.executor=ray")
    result = program(
        "deadly", "run", str(CONFIGS / "quickstart.yaml"), *settings, f"--run-dir={folder}"
    )
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"died {ATTEMPTS} times over the same block of clients" in result.stderr
    assert "--resume" in result.stderr
    assert "Traceback" not in result.stderr

    experiment, _ = open_old(folder, None, ["engine.executor=local"])
    assert load_state(folder, experiment).round == 2
    run(experiment, folder, resume=True)
    found = load_state(folder, experiment).params
    calm = trained(tmp_path / "calm", *EACH, "data.name=deadly")
    assert all(torch.equal(calm[name], found[name]) for name in calm)


@pytest.mark.parametrize(
    ("gpus", "workers", "share"),
    [(0, 2, 0.0), (1, 1, 1.0), (1, 2, 1 / 2), (2, 3, 1 / 2), (2, 4, 1 / 2), (4, 2, 1.0)],
)
def test_shares_of_gpus_fit_on_the_gpus(gpus: int, workers: int, share: float) -> None:
    """A Ray share lies on one GPU: three workers on two GPUs take halves, not two thirds."""
    assert gpu_share(gpus, workers) == share
    if gpus:
        assert gpus * int(1 / share) >= workers


@pytest.mark.usefixtures("two_ray_cpus")
def test_params_are_stored_once_a_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One object for the query, one for each round, one for each of four evaluations."""
    stored: list[object] = []
    put = ray.put
    monkeypatch.setattr(ray, "put", lambda value: stored.append(value) or put(value))
    trained(tmp_path / "run", "rounds=4", "evaluation.every=2", "engine.executor=ray")
    evaluations = 4  # validation before round 1 and after 2 and 4, and the test clients
    assert len(stored) == 1 + 4 + evaluations
