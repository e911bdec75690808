"""Every shipped config loads, builds and runs a round."""

import json
import os
from pathlib import Path

import pytest

from fedmeta.config import load
from simulations.run import run
from strategies.stock import STRATEGIES

CONFIGS = sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml"))
ONE_ROUND = (
    "rounds=1",
    "cohort.clients=2",
    "evaluation.clients=2",
    "evaluation.steps=1",
    "engine.executor=local",
    "tracking.wandb.mode=offline",
    "tracking.tensorboard=true",
)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_runs_a_round(path: Path, tmp_path: Path) -> None:
    experiment = load(path, ONE_ROUND, STRATEGIES)
    data = experiment.sections["data"]
    if data["name"] == "omniglot" and "FEDMETA_DATA" not in os.environ:
        pytest.skip("FEDMETA_DATA does not point at a copy of Omniglot")
    if data["clients"]:
        experiment = load(path, [*ONE_ROUND, "data.clients.test=2"], STRATEGIES)
    run(experiment, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["rounds"] == 1
    assert summary["dropped_replies"] == 0
    assert "failed_recorders" not in summary
    assert len(summary["test"]["curve"]) == 2
    assert (tmp_path / "plots" / "learning_curve.png").stat().st_size > 0
