"""Whole rounds of ``fedmeta run``, from sampling to checkpoint: prints the seconds of each.

python -m benchmarks.peers.fedmeta_simulation JOB.npz local|worker|ray ROUNDS
"""

import json
import logging
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import ray

from benchmarks import noise
from benchmarks.ours import learner_section, model_section
from benchmarks.work import WAYS, Work, load
from fedmeta.config import build
from fedmeta.tracking.recorder import Row, Run
from simulations.run import run
from strategies.stock import STRATEGIES

LEAST = 2.0
"""Seconds that are timed, however short a round."""
CLIENTS = {"train": 100_000, "val": 2, "test": 2}
ENGINES: dict[str, dict[str, Any]] = {
    "local": {"executor": "local"},
    "worker": {"executor": "ray", "workers": 1},
    "ray": {"executor": "ray", "workers": 2},
}


class Enough(BaseException):
    """Ends a run as an interrupt does; recorders may not end one otherwise."""


@dataclass
class Stopwatch:
    """A recorder that notes when rounds end, and ends the run."""

    rounds: int
    ticks: list[float] = field(default_factory=list)

    def start(self, run: Run) -> None:
        """Nothing to prepare."""

    def record(self, row: Row) -> None:
        """A round is over. The first is not timed: it opens the data and looks for an engine."""
        if row["split"] != "train":
            return
        self.ticks.append(time.perf_counter())
        if len(self.ticks) > self.rounds and self.ticks[-1] - self.ticks[0] > LEAST:
            raise Enough

    def finish(self, summary: Row | None) -> None:
        """Nothing to close."""


def sections(work: Work, engine: str) -> dict[str, Any]:
    """The experiment as a config has it; long, so that the search for an engine may look at all."""
    shots, queries = work.support, work.query
    data: dict[str, Any] = {"name": "sinusoid", "examples": shots + queries}
    if work.model != "sines":
        shots, queries = shots // WAYS, queries // WAYS
        data = {"name": "noise", "federation": "pooled", "split": "maml", "ways": WAYS}
    return {
        "name": work.name,
        "rounds": 1_000_000,
        "data": data | {"shots": shots, "queries": queries, "clients": CLIENTS},
        "model": model_section(work),
        "learner": learner_section(work),
        "strategy": {"name": "fedavg", "weighting": "uniform", "lr": work.server_lr},
        "cohort": {"clients": work.clients},
        "engine": ENGINES[engine],
        "evaluation": {"every": 1_000_000, "steps": 0, "clients": 2},
    }


def seconds(work: Work, engine: str, rounds: int) -> list[float]:
    """Of each round after the first."""
    noise.register()
    if engine != "local":
        ray.init(
            include_dashboard=False,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
            runtime_env={"worker_process_setup_hook": noise.register},
        )
    watch = Stopwatch(rounds)
    with tempfile.TemporaryDirectory() as folder, suppress(Enough):
        run(build(sections(work, engine), STRATEGIES), Path(folder) / "run", [watch])
    return [after - before for before, after in pairwise(watch.ticks)]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    work = load(Path(sys.argv[1])).work
    print(json.dumps({"seconds": seconds(work, sys.argv[2], int(sys.argv[3]))}))
