"""What it costs to run a grid on the pool, beyond the cells themselves.

    python -m benchmarks.grid [sinusoid] [omniglot]

Forty short cells, one worker for each CPU. ``ratio`` is the time of the whole command, from the start of
its process to the table, against the time of the cells inside the workers divided by the workers; 1 would
be no cost at all. Beside it, a few of the cells as a process each. The result is in docs/grid.json.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from benchmarks.results import keep

OUT = Path("docs/grid.json")
CONFIGS = Path(__file__).parents[1] / "configs"
DONE = re.compile(r": done, ([\d.]+) s$", re.MULTILINE)
ALONE = 4
"""Cells that are run as processes of their own."""


@dataclass(frozen=True)
class Work:
    """A grid of forty cells, four settings with ten seeds each."""

    base: str
    overrides: Sequence[str]
    strategies: str = "fedadam,fedyogi"
    learners: str = "maml,fomaml"
    seeds: int = 10


WORK = {
    "sinusoid": Work("quickstart.yaml", ["rounds=500"]),
    "omniglot": Work(
        "omniglot_alphabet.yaml",
        [
            "rounds=60",
            "model.filters=16",
            "evaluation.every=20",
            "evaluation.episodes=2",
            "tracking.wandb.mode=disabled",
            "tracking.tensorboard=false",
        ],
    ),
}


def on_the_pool(work: Work, out: Path) -> tuple[float, list[float]]:
    """Seconds of the whole command, and of each cell inside its worker."""
    began = time.perf_counter()
    said = _fedmeta(
        "compare", str(CONFIGS / work.base), *work.overrides, "--strategies", work.strategies,
        "--learners", work.learners, "--seeds", str(work.seeds), "--out", str(out),
    )  # fmt: skip
    return time.perf_counter() - began, [float(seconds) for seconds in DONE.findall(said)]


def alone(work: Work, out: Path, jobs: int) -> float:
    """Seconds per cell where each is a process, as many at a time."""
    began = time.perf_counter()
    for first in range(0, ALONE, jobs):
        running = [
            subprocess.Popen(
                [*_COMMAND, "run", str(CONFIGS / work.base), *work.overrides, f"seed={seed}",
                 "--run-dir", str(out / f"alone-{seed}")],
                stdout=subprocess.DEVNULL,
            )
            for seed in range(first, min(first + jobs, ALONE))
        ]  # fmt: skip
        for process in running:
            process.wait()
    return (time.perf_counter() - began) / ALONE


def measure(name: str) -> dict[str, float]:
    """One grid."""
    work, jobs = WORK[name], os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        wall, cells = on_the_pool(work, Path(folder) / "out")
        apart = alone(work, Path(folder), jobs)
    return {
        "cells": len(cells),
        "jobs": jobs,
        "seconds": round(wall, 1),
        "seconds_per_cell": round(fmean(cells), 2),
        "ratio": round(wall / (sum(cells) / jobs), 3),
        "pool_per_cell": round(wall / len(cells), 2),
        "processes_per_cell": round(apart, 2),
    }


_COMMAND = [sys.executable, "-m", "simulations"]


def _fedmeta(*words: str) -> str:
    done = subprocess.run([*_COMMAND, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def main() -> None:
    """The grids that are named, else both."""
    for name in sys.argv[1:] or WORK:
        found = measure(name)
        print(name, found)
        keep(OUT, "grid", name, found)


if __name__ == "__main__":
    main()
