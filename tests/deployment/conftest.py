"""Real federations: a SuperLink with TLS and SuperNodes with keys, all on this machine.

They wait more than they work, so those that tests look at run in the background, one after the other,
behind all other tests.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedmeta.config import Experiment, load
from fedmeta.data.omniglot_files import read_characters
from simulations.federation import write_app
from simulations.loopback import Loopback, Node
from simulations.processes import kill, processes_with
from simulations.shards import take_shards, write_shards
from strategies.stock import STRATEGIES

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "federation.yaml"
FAULTY = {"PYTHONPATH": str(ROOT), "FEDMETA_PLUGINS": "tests.deployment.faulty"}


@dataclass(frozen=True)
class Scene:
    """What a federation left."""

    folder: Path
    experiment: Experiment
    output: str
    """What the person at ``flwr run`` saw."""

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.folder / "run"

    @property
    def summary(self) -> dict[str, Any]:
        path = self.run / "summary.json"
        assert path.exists(), self.output
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def log(self, node: str) -> str:
        """What the owner of a device reads."""
        return (self.folder / node / "log.txt").read_text()


def experiment_of(*overrides: str) -> Experiment:
    return load(CONFIG, overrides, STRATEGIES)


def device(
    folder: Path,
    experiment: Experiment,
    name: str,
    clients: Sequence[int],
    fault: str = "",
    **config: str | float,
) -> Node:
    """A SuperNode with the shards of some clients, and what is wrong with it."""
    place = folder / name
    write_shards(take_shards(experiment, clients), place / "shards")
    mine: dict[str, str | float] = {
        "shard": str(place / "shards"),
        "states": str(place / "states"),
        "log": str(place / "log.txt"),
    }
    more = FAULTY | {"FAULT": fault, "MARK": str(place / "mark")} if fault else {}
    limits = {key.replace("_", "-"): value for key, value in config.items()}
    return Node(name, mine | limits, environment={"OMP_NUM_THREADS": "1", **more})


def play(folder: Path, nodes: Sequence[Node], overrides: Sequence[str], timeout: float) -> Scene:
    """Run the config over nodes to the end of the run."""
    app = write_app(folder / "app", CONFIG)
    settings = {
        "config": f"configs/{CONFIG.name}",
        "overrides": " ".join(overrides),
        "run-dir": str(folder / "run"),
    }
    with Loopback(folder / "federation", nodes) as federation:
        result = federation.run(app, settings, timeout)
    return Scene(folder, experiment_of(*overrides), result.stdout + result.stderr)


@dataclass
class Stage:
    """Federations under way in the background."""

    folder: Path
    pool: ThreadPoolExecutor
    scenes: Mapping[str, Future[Scene]]

    def close(self) -> None:
        """Kill what is left."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        while not all(scene.done() for scene in self.scenes.values()):
            for process in processes_with(f"FLWR_HOME={self.folder}".encode()):
                kill(process)
            time.sleep(0.2)


STAGE = pytest.StashKey[Stage]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Who looks at a federation comes last, when it has had the time of all other tests."""
    items.sort(key=looks_at_a_federation)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin, if anybody will look."""
    from tests.deployment import scenes

    wanted = any(looks_at_a_federation(item) for item in session.items)
    if not wanted or "FEDMETA_DATA" not in os.environ or session.config.option.collectonly:
        return
    read_characters(None)  # decoded once, before all want it at once
    folder, pool = Path(tempfile.mkdtemp(prefix="fedmeta-federations-")), ThreadPoolExecutor(1)
    begun = {
        name: pool.submit(play, folder / name) for name, play in scenes.IN_THE_BACKGROUND.items()
    }
    session.config.stash[STAGE] = Stage(folder, pool, begun)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (stage := session.config.stash.get(STAGE, None)) is not None:
        stage.close()
        if session.testsfailed:
            print(f"the federations are in {stage.folder}")
        else:
            shutil.rmtree(stage.folder, ignore_errors=True)


def looks_at_a_federation(item: pytest.Item) -> bool:
    return "begun" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def begun(pytestconfig: pytest.Config) -> Mapping[str, Future[Scene]]:
    """The federations of all tests, by name."""
    stage = pytestconfig.stash.get(STAGE, None)
    if stage is None:
        pytest.skip("FEDMETA_DATA does not point at a copy of Omniglot")
    return stage.scenes
