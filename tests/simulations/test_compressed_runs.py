"""Whole runs with fewer bytes: they finish, learn, resume, and are the same in every executor."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmeta.compression import traffic
from fedmeta.settings import CohortSettings
from fedmeta.types import Params
from simulations.run import run
from strategies.opening import open_old
from strategies.sampling import sample
from strategies.state import STATES, load_state
from tests.simulations.conftest import STATEFUL, small, small_with

EACH = ("engine.name=loop", "cohort.replies=each")
LOSSY = ("float16", "bfloat16", "int8", "topk")


def trained(folder: Path, *overrides: str) -> Params:
    experiment = small(*EACH, *overrides)
    folder.mkdir()
    run(experiment, folder, pictures=False)
    return load_state(folder, experiment).params


def same(a: Params, b: Params) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rows(folder: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in lines if row["split"] == "train"]


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Params]:
    folder = tmp_path_factory.mktemp("runs") / "exact"
    return folder, trained(folder)


@pytest.mark.parametrize(
    ("params", "form"),
    [*(("exact", form) for form in LOSSY), ("float16", "topk"), ("bfloat16", "int8")],
)
def test_a_run_finishes_drops_nobody_and_sends_as_many_bytes_as_it_says(
    tmp_path: Path, exact: tuple[Path, Params], form: str, params: str
) -> None:
    found = trained(tmp_path / "run", f"wire.deltas={form}", f"wire.params={params}")
    assert all(torch.isfinite(value).all() for value in found.values())
    assert not same(found, exact[1])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["dropped_replies"], summary["test"]["clients"]) == (0, 7)
    wire = small(*EACH, f"wire.deltas={form}", f"wire.params={params}").wire
    for row in rows(tmp_path / "run"):  # the rest is headers, metrics and the config
        assert 0 < row["bytes_down"] + row["bytes_up"] - traffic(found, wire) < 4000


@pytest.mark.parametrize("feedback", ["true", "false"])
def test_all_of_the_numbers_are_the_exact_delta(
    tmp_path: Path, exact: tuple[Path, Params], feedback: str
) -> None:
    """Float32 travels as float32, so not even rounding is between them."""
    settings = ("wire.deltas=topk", "wire.fraction=1.0", f"wire.feedback={feedback}")
    assert same(trained(tmp_path / "run", *settings), exact[1])


def residuals(folder: Path) -> dict[str, bytes]:
    (own,) = (folder / STATES).iterdir()
    return {str(p.relative_to(own)): p.read_bytes() for p in own.rglob("*.safetensors")}


@pytest.mark.parametrize("form", ["int8", "topk"])
def test_three_rounds_and_two_more_equal_five(tmp_path: Path, form: str) -> None:
    """And what the killed process wrote in its round 4 is not seen when that round comes again."""
    settings = (*EACH, "data.clients.train=9", f"wire.deltas={form}")
    whole = trained(tmp_path / "whole", *settings, "rounds=5")
    trained(tmp_path / "split", *settings, "rounds=3")
    (own,) = (tmp_path / "split" / STATES).iterdir()
    for client in sample(np.arange(9), CohortSettings(6), 0, 4):
        (own / "residuals" / str(client)).mkdir(exist_ok=True)
        (own / "residuals" / str(client) / "4.safetensors").write_bytes(b"of a process that died")
    experiment, _ = open_old(tmp_path / "split", None, ["rounds=5"])
    run(experiment, tmp_path / "split", resume=True, pictures=False)
    assert same(load_state(tmp_path / "split", experiment).params, whole)


def test_residuals_lie_beside_the_states_of_clients_that_keep_some(tmp_path: Path) -> None:
    experiment = small_with(tmp_path, STATEFUL["fedper"], *EACH, "wire.deltas=int8", "rounds=2")
    (tmp_path / "run").mkdir()
    run(experiment, tmp_path / "run", pictures=False)
    found = residuals(tmp_path / "run")
    states = {name for name in found if not name.startswith("residuals/")}
    assert states
    assert {f"residuals/{name}" for name in states} == found.keys() - states


@pytest.mark.usefixtures("two_ray_cpus")
def test_two_ray_workers_are_bitwise_local(tmp_path: Path) -> None:
    """Whichever worker a client comes to, it finds its residual: it took part in several rounds."""
    settings = (*EACH, "data.clients.train=9", "wire.deltas=topk", "wire.params=bfloat16")
    local = trained(tmp_path / "local", *settings)
    remote = trained(tmp_path / "ray", *settings, "engine.executor=ray", "engine.workers=2")
    assert same(local, remote)
    assert residuals(tmp_path / "local") == residuals(tmp_path / "ray")
