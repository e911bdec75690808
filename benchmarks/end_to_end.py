"""Whole rounds on all cores: ``fedmeta run`` against Flower's own simulation engine.

    python -m benchmarks.end_to_end [--only NAME ...] [--rounds 5]

A round is all there is: sampling, messages, data, training, aggregation, and in fedmeta a checkpoint.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.ours import make_job
from benchmarks.peer import ONE_THREAD, QUIET, ROOT
from benchmarks.results import RESULTS, Timed, keep
from benchmarks.work import WORKS, Work, save

IDENTITY = Work("identity", "clients that learn nothing, 7 KB", "maml", "sines", 1000, 10, 10, 0.01)
"""What is left of a round is the framework; ``benchmarks.overhead`` has fedmeta's side, with 10 KB."""
RUNS = (
    ("fedmeta, one process", "fedmeta_simulation", "local"),
    ("fedmeta, one Ray worker", "fedmeta_simulation", "worker"),
    ("fedmeta, two Ray workers", "fedmeta_simulation", "ray"),
    ("Flower's engine, two workers", "flower_simulation", "learn"),
)
IDENTITY_RUNS = (("Flower's engine, two workers", "flower_simulation", "identity"),)
PATIENCE = 3600.0


def compare(work: Work, rounds: int) -> dict[str, Any]:
    """All runs of a work, one after the other."""
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.npz"
        save(make_job(work), job)
        for name, script, how in IDENTITY_RUNS if work.name == IDENTITY.name else RUNS:
            rows[name] = measured(script, job, how, rounds)
            print(f"  {name}: {rows[name]}", flush=True)
    return {"title": work.title, "clients": work.clients, "versions": versions(), "rows": rows}


def measured(script: str, job: Path, how: str, rounds: int) -> dict[str, Any]:
    """A run in a process of its own; one that fails says so."""
    command = [sys.executable, "-m", f"benchmarks.peers.{script}", str(job), how, str(rounds)]
    # a folder for its own cache, so that every run looks for its engine anew
    environment = ONE_THREAD | QUIET | {
        "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(job.parent), "FLWR_HOME": str(job.parent),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }  # fmt: skip
    try:
        output = subprocess.run(
            command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True,
            timeout=PATIENCE,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"not_run": f"no end in {PATIENCE:.0f} s"}
    if output.returncode:
        return {"not_run": (output.stderr.strip().splitlines() or ["no message"])[-1]}
    found: dict[str, Any] = json.loads(output.stdout.splitlines()[-1])
    _, chosen, engine = output.stderr.partition("engine for training: ")
    note = {"note": engine.splitlines()[0]} if chosen else {}
    return Timed.of(found.pop("seconds")).row() | found | note


def versions() -> dict[str, str]:
    """Of what takes part."""
    return {name: version(name) for name in ("fedmeta", "flwr", "ray", "torch")}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep what was found."""
    names = [work.name for work in (*WORKS, IDENTITY)]
    parser = argparse.ArgumentParser(description="whole rounds, against Flower's own engine")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, help="fewer, for a try")
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args(arguments)
    for work in (*WORKS, IDENTITY):
        if work.name in chosen.only:
            print(f"{work.name}: {work.title}", flush=True)
            smaller = replace(work, clients=chosen.clients or work.clients)
            found = compare(smaller, chosen.rounds)
            keep(chosen.results, "end_to_end", work.name, found)


if __name__ == "__main__":
    main()
