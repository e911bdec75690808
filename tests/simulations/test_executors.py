"""Local == Ray: the executor, the number of workers and their deaths leave no trace in the numbers."""

import os
import signal
from contextlib import closing
from pathlib import Path

import pytest
import ray
import torch
from flwr.app import ArrayRecord, Error, RecordDict
from typer.testing import CliRunner

from fedmeta.errors import ConfigError
from fedmeta.settings import EngineSettings
from fedmeta.types import Params
from fedmeta.wire import unpack_work
from simulations.cli import app
from simulations.executors import build_executor
from simulations.executors import ray as executor
from simulations.executors.ray import ATTEMPTS, RayExecutor, Worker, gpu_share
from simulations.grid import CohortGrid
from simulations.run import run
from strategies.opening import open_old
from strategies.roster import Attendance
from strategies.state import load_state
from tests.simulations.conftest import CONFIGS, SMALL, small

EACH = ("engine.name=loop", "cohort.replies=each")
RAY = "engine.executor=ray"
QUICKSTART = str(CONFIGS / "quickstart.yaml")
slow = pytest.mark.slow


def trained(folder: Path, *overrides: str) -> Params:
    experiment = small(*overrides)
    folder.mkdir()
    run(experiment, folder, pictures=False)
    return load_state(folder, experiment).params


def same(a: Params, b: Params) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def deadly(graves: Path, most: int) -> type[Worker]:
    """A worker that is killed over round 3, when it has computed its reply, unless so many were."""

    class Deadly(Worker):
        def answer(
            self, message_type: str, params: ArrayRecord, rest: RecordDict
        ) -> RecordDict | Error:
            found = super().answer(message_type, params, rest)
            if message_type == "train" and unpack_work(rest).round == 3 and self._digs():
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        def _digs(self) -> bool:
            for number in range(most):
                try:
                    (graves / str(number)).touch(exist_ok=False)
                except FileExistsError:
                    continue
                return True
            return False

    graves.mkdir()
    return Deadly


@pytest.mark.usefixtures("two_ray_cpus")
@pytest.mark.parametrize("workers", [pytest.param(1, marks=slow), 2])
def test_ray_is_bitwise_local_with_the_loop_and_a_reply_per_client(
    tmp_path: Path, workers: int
) -> None:
    local = trained(tmp_path / "local", *EACH)
    remote = trained(tmp_path / "ray", *EACH, RAY, f"engine.workers={workers}")
    assert same(local, remote)


TWENTY = ("rounds=20", "evaluation.every=10")


@pytest.fixture(scope="module")
def twenty(
    two_ray_cpus: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Params, list[object]]:
    """Twenty rounds on two workers, vectorised and summed: the params, and what was stored for them."""
    stored: list[object] = []
    put = ray.put
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "put", lambda value: stored.append(value) or put(value))
        return trained(tmp_path_factory.mktemp("twenty") / "run", *TWENTY, RAY), stored


def test_ray_is_local_to_1e5_with_vmap_and_summed_replies_after_20_rounds(
    tmp_path: Path, twenty: tuple[Params, list[object]]
) -> None:
    remote, _ = twenty
    local = trained(tmp_path / "local", *TWENTY)
    scale = max(value.abs().max() for value in local.values())
    worst = max((local[name] - remote[name]).abs().max() for name in local)
    assert worst <= 1e-5 * scale


def test_params_are_stored_once_a_round(twenty: tuple[Params, list[object]]) -> None:
    """One object for the query, one for each round, one for each of four evaluations."""
    _, stored = twenty
    evaluations = 4  # validation before round 1 and after 10 and 20, and the test clients
    assert len(stored) == 1 + 20 + evaluations


@pytest.mark.usefixtures("two_ray_cpus")
def test_a_worker_killed_in_the_middle_of_a_round_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "Worker", deadly(tmp_path / "graves", most=1))
    hit = trained(tmp_path / "hit", *EACH, RAY)
    assert list((tmp_path / "graves").iterdir()), "nobody was killed"
    assert same(hit, trained(tmp_path / "calm", *EACH))


def test_an_address_with_no_cluster_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens on port 1; Ray, which would try for minutes, is not even asked."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # other tests may have begun one
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was asked"))
    settings = [RAY, "engine.address=127.0.0.1:1", f"--run-dir={tmp_path / 'never'}"]
    result = CliRunner().invoke(app, ["run", QUICKSTART, *settings])
    assert result.exit_code == 2, result.output
    assert "engine.address: no Ray cluster" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "never").exists()


@pytest.mark.usefixtures("two_ray_cpus")
def test_more_workers_than_cpus_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"engine\.workers must be at most the 2 CPUs .* got 3"):
        trained(tmp_path / "run", RAY, "engine.workers=3")
    with pytest.raises(ConfigError, match=r"at most the 2 CPUs .* / engine\.threads \(2\), got 2"):
        trained(tmp_path / "threads", RAY, "engine.threads=2")


@pytest.mark.usefixtures("two_ray_cpus")
@pytest.mark.parametrize("threads", [pytest.param(1, marks=slow), 2])
def test_a_worker_computes_with_as_many_threads_as_it_takes_cpus(
    tmp_path: Path, threads: int
) -> None:
    experiment = small(RAY, "engine.workers=1", f"engine.threads={threads}")
    with closing(RayExecutor(experiment.engine, tmp_path)) as remote:
        Attendance(CohortGrid(remote), experiment.to_yaml(), 60).now()  # the first message sets it
        (worker,) = remote._workers
        found = worker.__ray_call__.remote(
            lambda self: (
                torch.get_num_threads(),
                ray.get_runtime_context().get_assigned_resources()["CPU"],
            )
        )
        assert ray.get(found, timeout=60) == (threads, threads)


@pytest.mark.usefixtures("two_ray_cpus")
@pytest.mark.parametrize("attempts", [2, pytest.param(ATTEMPTS, marks=slow)])
def test_a_worker_that_always_dies_ends_the_run_and_the_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attempts: int
) -> None:
    monkeypatch.setattr(executor, "Worker", deadly(tmp_path / "graves", most=2 * ATTEMPTS))
    monkeypatch.setattr(executor, "ATTEMPTS", attempts)  # each is a start of a process
    folder = tmp_path / "run"
    settings = (*SMALL, *EACH, RAY, "engine.workers=1")
    result = CliRunner().invoke(app, ["run", QUICKSTART, *settings, f"--run-dir={folder}"])
    assert result.exit_code == 1, result.output
    assert f"died {attempts} times over the same block of clients" in result.stderr
    assert len(list((tmp_path / "graves").iterdir())) == attempts
    assert "--resume" in result.stderr
    assert "Traceback" not in result.stderr

    experiment, _ = open_old(folder, None, ["engine.executor=local"])
    assert load_state(folder, experiment).round == 2
    run(experiment, folder, resume=True, pictures=False)
    found = load_state(folder, experiment).params
    assert same(found, trained(tmp_path / "calm", *EACH))


@pytest.mark.parametrize(
    ("gpus", "workers", "share"),
    [(0, 2, 0.0), (1, 1, 1.0), (1, 2, 1 / 2), (2, 3, 1 / 2), (2, 4, 1 / 2), (4, 2, 1.0)],
)
def test_shares_of_gpus_fit_on_the_gpus(gpus: int, workers: int, share: float) -> None:
    """A Ray share lies on one GPU: three workers on two GPUs take halves, not two thirds."""
    assert gpu_share(gpus, workers) == share
    if gpus:
        assert gpus * int(1 / share) >= workers


def test_an_address_that_is_not_used_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And no more: a run that began on a cluster can be resumed on this machine."""
    build_executor(EngineSettings(address="auto"), tmp_path)
    assert "engine.address is not used: engine.executor is local" in caplog.text
