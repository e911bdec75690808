"""One config, four ways to run it: the same clients in the same rounds, params and scores."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fedmeta.settings import CohortSettings
from fedmeta.types import Params
from simulations.run import run
from strategies.sampling import sample
from strategies.state import load_state
from tests.deployment.conftest import Scene, experiment_of
from tests.deployment.scenes import PARITY
from tests.wandb_offline import read, series

RELATIVE = 1e-6
"""Float32 sums in another order: 0.6e-7 each, and five steps of Adam along them."""
LOG = re.compile(r"train .* round (\d+): client ([\d, ]+),")


@pytest.fixture(scope="module")
def local(begun, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """The reference: all clients in this process."""
    return ours(tmp_path_factory.mktemp("local"))


def ours(folder: Path, *overrides: str) -> Scene:
    """What ``fedmeta run`` does."""
    (folder / "run").mkdir()
    experiment = experiment_of(*PARITY, *overrides)
    run(experiment, folder / "run")
    return Scene(folder, experiment, "")


@pytest.fixture(scope="module", params=["devices", "flower", "ray"])
def other(request: pytest.FixtureRequest, begun, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    if request.param == "ray":
        request.getfixturevalue("two_ray_cpus")
        return ours(tmp_path_factory.mktemp("ray"), "engine.executor=ray")
    scene: Scene = begun[{"devices": "parity", "flower": "simulated"}[request.param]].result()
    return scene


def params(scene: Scene) -> Params:
    return load_state(scene.run, scene.experiment).params


def table(scene: Scene) -> list[dict[str, Any]]:
    """Every test client's scores after every step."""
    lines = (scene.run / "clients.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.timeout(700)
def test_the_params_are_those_of_one_process(local: Scene, other: Scene) -> None:
    assert other.summary["rounds"] == 5
    assert other.summary["dropped_replies"] == 0
    mine, theirs = params(local), params(other)
    assert mine.keys() == theirs.keys()
    apart = sum(float((mine[n].double() - theirs[n]).square().sum()) for n in mine) ** 0.5
    length = sum(float(mine[n].double().square().sum()) for n in mine) ** 0.5
    assert apart <= RELATIVE * length


def test_the_evaluation_table_is_that_of_one_process(local: Scene, other: Scene) -> None:
    assert len(table(local)) == 3
    for mine, theirs in zip(table(local), table(other), strict=True):
        assert (mine["client"], len(mine["loss"])) == (theirs["client"], 4)
        assert theirs["accuracy"] == pytest.approx(mine["accuracy"], abs=1e-6)
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-5)
    for split in ("before", "after"):
        mine, theirs = (scene.summary["test"][split] for scene in (local, other))
        assert theirs == pytest.approx(mine, rel=1e-5)


def test_the_devices_trained_the_clients_of_the_simulation(begun) -> None:
    """By the devices' own logs; whom a simulation samples is a pure function of seed and round."""
    scene = begun["parity"].result()
    found = {
        (int(round), int(client))
        for node in range(3)
        for round, clients in LOG.findall(scene.log(f"node{node}"))
        for client in clients.split(",")
    }
    import numpy as np

    expected = {
        (round, client)
        for round in range(1, 6)
        for client in sample(np.arange(6), CohortSettings(3), 0, round).tolist()
    }
    assert found == expected


def test_a_run_over_devices_leaves_what_a_simulation_leaves(begun, local: Scene) -> None:
    """The same run folder, and with it W&B and TensorBoard, where they are on."""
    scene = begun["parity"].result()

    def files(run: Path) -> set[str]:
        apart = ("wandb", "tensorboard", "clients", "log.txt")  # which the command line opens
        paths = (path.relative_to(run) for path in run.rglob("*") if path.is_file())
        return {str(path) for path in paths if path.parts[0] not in apart}

    assert files(scene.run) == files(local.run)
    assert len(list((scene.run / "tensorboard").glob("events.*"))) == 1
    losses = series(read(scene.run), "train/loss")
    assert losses == {
        row["round"]: row["loss"]
        for line in (scene.run / "metrics.jsonl").read_text().splitlines()
        if (row := json.loads(line))["split"] == "train"
    }


def test_the_bytes_of_a_device_are_those_of_its_params(begun) -> None:
    """Float32 up, and float32 and the config down; the rest is headers of arrays and metrics."""
    scene = begun["parity"].result()
    numbers = sum(value.numel() for value in params(scene).values())
    (first, *_) = [
        row
        for line in (scene.run / "metrics.jsonl").read_text().splitlines()
        if (row := json.loads(line))["split"] == "train"
    ]
    text = len(scene.experiment.to_yaml())
    assert 4 * numbers + text < first["bytes_down"] < 4 * numbers + text + 4000
    assert 4 * numbers < first["bytes_up"] < 4 * numbers + 4000
