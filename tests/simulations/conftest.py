import os
import subprocess
import sys
from pathlib import Path

import ray

from fedmeta.config import Experiment, load
from strategies.stock import STRATEGIES

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = (
    "rounds=4",
    "cohort.clients=6",
    "data.clients.train=30",
    "data.clients.val=5",
    "data.clients.test=7",
    "evaluation.clients=5",
    "evaluation.every=2",
    "evaluation.steps=2",
)


def small(*overrides: str) -> Experiment:
    """The quickstart at a size that runs in a second."""
    return load(CONFIGS / "quickstart.yaml", [*SMALL, *overrides], STRATEGIES)


STATEFUL = {
    "ditto": "{name: ditto, lr: 0.02, epochs: 1, batch_size: 10, lam: 0.5}",
    "fedper": "{name: fedper, lr: 0.02, epochs: 1, batch_size: 10}",
    "fedrep": "{name: fedrep, lr: 0.02, epochs: 1, batch_size: 10, head_epochs: 1}",
}
"""Learners whose clients keep something from round to round."""


def with_learner(folder: Path, learner: str) -> Path:
    """The quickstart with another learner, as a config in the folder."""
    lines = (CONFIGS / "quickstart.yaml").read_text().splitlines()
    swapped = [f"learner: {learner}" if line.startswith("learner:") else line for line in lines]
    (folder / "config.yaml").write_text("\n".join(swapped))
    return folder / "config.yaml"


def small_with(folder: Path, learner: str, *overrides: str) -> Experiment:
    """``small`` with another learner."""
    return load(with_learner(folder, learner), [*SMALL, *overrides], STRATEGIES)


def program(name: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """One of the programs beside the tests: a process has one Ray, and the tests' own is taken."""
    root = str(CONFIGS.parent)
    return subprocess.run(
        [sys.executable, "-m", f"tests.simulations.{name}", *words],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=root,
        check=False,
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"PYTHONPATH": root},
    )


def start_ray() -> None:
    """A Ray of two CPUs on this machine, whatever cluster there is already."""
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
