"""Every shipped config loads, builds and runs a round."""

import json
import os
from pathlib import Path

import pytest
import torch

from fedmeta.config import Experiment, load, read_mapping
from fedmeta.data.shard import Shard, write_shard
from fedmeta.initial import first_params
from simulations.run import run
from strategies.stock import STRATEGIES

ROOT = Path(__file__).parents[1] / "configs"
CONFIGS = [path for path in sorted(ROOT.rglob("*.yaml")) if "base" not in read_mapping(path)]
"""Without grids and sweeps, which have tests of their own."""
OTHER_COLUMNS = [
    path for path in CONFIGS if path.parent.name in ("omniglot_5w5s", "omniglot_20w1s")
]
"""They differ from those of omniglot_5w1s in numbers alone."""
ONE_ROUND = (
    "rounds=1",
    "cohort.clients=2",
    "evaluation.clients=2",
    "evaluation.steps=1",
    "engine.executor=local",
    "tracking.wandb.mode=offline",
    "tracking.tensorboard=true",
)


def name(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix()


@pytest.mark.parametrize("path", OTHER_COLUMNS, ids=name)
def test_another_column_fits_learner_model_and_data(path: Path) -> None:
    experiment = load(path, [], STRATEGIES)
    twin = load(ROOT / "reproduce" / "omniglot_5w1s" / path.name, [], STRATEGIES)
    assert type(experiment.learner) is type(twin.learner)
    assert experiment.published.accuracy is not None
    travels, _ = first_params(experiment)
    assert sum(value.numel() for value in travels.values()) > 100_000


def own_shards(experiment: Experiment, folder: Path) -> Path:
    """Two clients that train, one that validates and one that tests, of noise."""
    data, generator = experiment.data, torch.Generator().manual_seed(0)
    name, shape = experiment.sections["data"]["name"], data.input_shape
    for client, split in enumerate(("train", "train", "val", "test")):
        x = torch.randint(0, 256, (40, *shape), dtype=torch.uint8, generator=generator)
        if data.objective == "cross_entropy":
            y = torch.arange(5).repeat_interleave(8)
            shard = Shard(name, client, split, x, y, tuple("abcde"))
        else:
            shard = Shard(name, client, split, x.double() / 255, x.double().sum(1, keepdim=True))
        write_shard(shard, folder / f"{client}.safetensors")
    return folder


@pytest.mark.parametrize("path", [p for p in CONFIGS if p not in OTHER_COLUMNS], ids=name)
def test_runs_a_round(path: Path, tmp_path: Path) -> None:
    experiment = load(path, ONE_ROUND, STRATEGIES)
    data = experiment.sections["data"]
    if data["name"] in ("cifar10", "omniglot") and "FEDMETA_DATA" not in os.environ:
        pytest.skip(f"FEDMETA_DATA does not point at a copy of {data['name']}")
    if data["name"].startswith("own_"):
        root = own_shards(experiment, tmp_path / "shards")
        experiment = load(
            path, [*ONE_ROUND, "evaluation.clients=1", f"data.root={root}"], STRATEGIES
        )
    elif data["clients"] and data["name"] != "cifar10":  # of which fewer clients share fewer images
        experiment = load(path, [*ONE_ROUND, "data.clients.test=2"], STRATEGIES)
    run(experiment, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["rounds"] == 1
    assert summary["dropped_replies"] == 0
    assert "failed_recorders" not in summary
    assert len(summary["test"]["curve"]) == 2
    assert (tmp_path / "plots" / "learning_curve.png").stat().st_size > 0
