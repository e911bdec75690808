"""The same sweep with W&B to propose the trials: what it is told, and the agents on our workers.

An agent of W&B runs one trial as a command, ``simulations.sweep.wandb_trial``, and may be started by
hand on any machine that has the sweep file.
"""

import subprocess
import sys
from itertools import repeat
from pathlib import Path
from typing import Any

from rich.console import Console

from fedmeta.errors import ConfigError, FedmetaError
from fedmeta.packages import require
from fedmeta.tracking.wandb import create_sweep
from simulations.sweep.file import Sweep
from simulations.sweep.space import Choices, Dimension

TRIAL = "simulations.sweep.wandb_trial"
PATIENCE = 3
"""Validations before W&B may stop a trial."""


def wandb_sweep(sweep: Sweep, out: Path) -> dict[str, Any]:
    """The sweep as W&B wants it told. Raises ConfigError where it cannot be."""
    if sweep.seeds > 1:
        raise ConfigError(f"seeds must be 1 for a sweep by W&B, got {sweep.seeds}")
    given = [f"--override={override}" for override in sweep.overrides]
    stopping = {"early_terminate": {"type": "hyperband", "min_iter": PATIENCE}}
    goal = "maximize" if sweep.measure == "accuracy" else "minimize"
    return {
        "name": sweep.name,
        "method": "bayes",
        "metric": {"name": f"val/after/{sweep.measure}", "goal": goal},
        "parameters": {key: _parameter(each) for key, each in sweep.space.items()},
        "run_cap": sweep.trials,
        "program": TRIAL,
        "command": [
            sys.executable, "-m", TRIAL, str(sweep.source.resolve()), str(out.resolve()), *given,
            "${args_no_hyphens}",
        ],
    } | (stopping if sweep.prune else {})  # fmt: skip


def run_wandb_sweep(
    sweep: Sweep, out: Path, jobs: int | None, console: Console, address: str | None
) -> None:
    """Make the sweep on W&B and run its trials. Raises FedmetaError where W&B cannot be had."""
    told = wandb_sweep(sweep, out)
    require("fedmeta sweep", "simulation", "ray")
    from simulations.executors.pool import Pool  # ray is imported where it is needed

    path = _create(sweep, told)
    console.print(f"more agents, on any machine: wandb agent {path}", soft_wrap=True)
    with Pool(min(sweep.trials, jobs) if jobs else None, address) as pool:
        for count, done in enumerate(pool.run(run_agent, repeat(path, sweep.trials)), 1):
            said = done.failure or f"{done.seconds:.1f} s"
            console.print(f"[{count}/{sweep.trials}] {said}", markup=False, soft_wrap=True)


def run_agent(path: str) -> None:
    """One trial of a sweep on W&B. Raises FedmetaError with the last line of an agent that fails."""
    command = [sys.executable, "-m", "wandb", "agent", "--count", "1", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FedmetaError((done.stderr.strip().splitlines() or ["the agent failed"])[-1])


def _create(sweep: Sweep, told: dict[str, Any]) -> str:
    try:
        return create_sweep(told, sweep.probe.tracking.wandb)
    except Exception as e:  # W&B has errors of every kind
        raise FedmetaError(f"W&B: {type(e).__name__}: {e}") from e


def _parameter(found: Dimension) -> dict[str, Any]:
    """W&B rounds to multiples of a step, ours count from ``low``: such a range is told value by value."""
    if isinstance(found, Choices):
        return {"values": list(found.by_label)}
    if found.step is not None:
        count = round((found.high - found.low) / found.step)
        return {"values": [found.low + place * found.step for place in range(count + 1)]}
    kind = "int_uniform" if found.whole else "uniform"
    if found.log:
        kind = "q_log_uniform_values" if found.whole else "log_uniform_values"
    return {"distribution": kind, "min": found.low, "max": found.high}
