"""Shards of unequal size: rounds per second of training on all that each client has.

python -m benchmarks.unequal
"""

from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.overhead import Clock
from fedmeta.config import build
from simulations.run import run
from strategies.stock import STRATEGIES

LEARNERS: dict[str, dict[str, Any]] = {
    "MAML": {"name": "maml", "inner_lr": 0.01, "inner_steps": 1},
    "FedAvg": {"name": "sgd", "lr": 0.01, "epochs": 5, "batch_size": 1000},
}


def clients_per_second(learner: dict[str, Any], norm: bool, clients: int = 128) -> float:
    """Of the median round, one process; shards have 20 to 80 points."""
    sections = {
        "name": "unequal",
        "rounds": 60,
        "data": {"name": "sinusoid", "shots": 10, "queries": None, "examples": 80}
        | {"least_examples": 20, "clients": {"train": 10_000, "val": 2, "test": 2}},
        "model": {"name": "mlp", "hidden": [40, 40], "norm": norm},
        "learner": learner,
        "strategy": {"name": "fedavg", "lr": 0.001},
        "cohort": {"clients": clients},
        "engine": {"device": "cpu"},
        "evaluation": {"every": 1000, "steps": 0, "clients": 2},
    }
    clock = Clock([])
    with TemporaryDirectory() as folder:
        run(build(sections, STRATEGIES), Path(folder) / "run", [clock])
    return clients / median(after - before for before, after in pairwise(clock.ticks))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, learner in LEARNERS.items():
        for norm in (False, True):
            title = f"{name}, {'batch norm' if norm else 'no norm'}"
            print(f"{title}: {clients_per_second(learner, norm):,.0f} clients/s", flush=True)
