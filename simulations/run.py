"""``fedmeta run``: a federation on this machine or a Ray cluster, from config to run folder."""

import logging
from collections.abc import Sequence
from pathlib import Path

from fedmeta.checkpoint import write_atomically
from fedmeta.config import Experiment, load
from fedmeta.errors import RunFolderError
from fedmeta.run_folder import new_run_folder, remove, write_json
from fedmeta.tracking import build_recorders
from fedmeta.tracking.recorder import Recorder, Recorders, Row
from simulations.executors import build_executor
from simulations.grid import CohortGrid
from simulations.pictures import SinusoidPicture
from strategies.roster import take_roster
from strategies.server import TIMEOUT, Federated, evaluate, federate
from strategies.state import CHECKPOINT, load_state, selected
from strategies.stock import STRATEGIES

_log = logging.getLogger(__name__)


def run(
    experiment: Experiment, folder: Path, watchers: Sequence[Recorder] = (), resume: bool = False
) -> Federated:
    """Run a federation into its folder."""
    pictures = [SinusoidPicture()] if experiment.sections["data"]["name"] == "sinusoid" else []
    recorders = Recorders([*watchers, *build_recorders(experiment.tracking, *pictures)])
    executor = build_executor(experiment.engine)
    try:
        return federate(experiment, CohortGrid(executor), folder, recorders, resume)
    finally:
        executor.close()
        if not (folder / CHECKPOINT).exists():
            remove(folder)  # it never began: leave nothing half-written


def open_new(config: Path, overrides: Sequence[str], chosen: Path | None) -> tuple[Experiment, Path]:
    """The experiment of a config file and a new folder for it."""
    experiment = load(config, overrides, STRATEGIES)
    folder = new_run_folder(experiment.name, chosen)
    write_atomically(folder / "config.yaml", experiment.to_yaml().encode())
    return experiment, folder


def open_old(folder: Path, config: Path | None, overrides: Sequence[str]) -> tuple[Experiment, Path]:
    """The experiment of a run folder, or of a config that must agree with its checkpoint."""
    saved = folder / "config.yaml"
    if not saved.exists():
        raise RunFolderError(f"{folder}: is not a run folder, it has no config.yaml")
    experiment = load(config or saved, overrides, STRATEGIES)
    load_state(folder, experiment)
    return experiment, folder


def evaluate_again(folder: Path, overrides: Sequence[str]) -> Row:
    """Score the test clients of a run with its selected params; writes ``evaluation.json``."""
    experiment, _ = open_old(folder, None, overrides)
    round, params = selected(load_state(folder, experiment), experiment)
    executor = build_executor(experiment.engine)
    try:
        grid = CohortGrid(executor)
        roster = take_roster(grid, experiment.to_yaml(), TIMEOUT)
        report = evaluate(experiment, grid, roster, params, "test", round)
    finally:
        executor.close()
    summary: Row = {"name": experiment.name, "selected_round": round, "test": report.row()}
    write_json(folder / "evaluation.json", summary)
    return summary
