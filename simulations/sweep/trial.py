"""One trial: a run for each seed, on validation clients alone, that can be stopped."""

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmeta.config import Experiment
from fedmeta.errors import FedmetaError
from fedmeta.run_folder import read_lines
from fedmeta.tracking import build_recorders
from fedmeta.tracking.recorder import Recorders, Row
from simulations.attackers import with_attacks
from simulations.cells import Task, prepare
from simulations.executors.local import LocalExecutor
from simulations.executors.stoppable import Stoppable, StoppedError
from simulations.grid import CohortGrid
from strategies.server import federate
from strategies.state import STATES

_log = logging.getLogger(__name__)
STOP = "stop"
"""A file in a run folder with the reason why the run shall end."""


@dataclass(frozen=True)
class Job:
    """A trial as it travels to a worker. Only its first run can be stopped."""

    name: str
    tasks: Sequence[Task]
    """One for each seed."""

    def __str__(self) -> str:
        return self.name

    @property
    def stop(self) -> Path:
        """The file that stops it."""
        return self.tasks[0].folder / STOP

    @property
    def current(self) -> Task:
        """The run that is under way."""
        begun = [task for task in self.tasks if task.folder.exists()]
        return begun[-1] if begun else self.tasks[0]


def run_trial(job: Job) -> None:
    """Run all seeds, in this process; what was begun goes on from its checkpoint.

    Raises what runs raise.
    """
    try:
        for task in job.tasks:
            if not (task.folder / "summary.json").exists():
                run_alone(*prepare(task), task.folder)
    except StoppedError as e:
        _log.info("stopped: %s", e)


def run_alone(experiment: Experiment, begun: bool, folder: Path) -> None:
    """Train and validate; test clients are not looked at. Raises StoppedError when asked to end."""
    recorders = Recorders(build_recorders(experiment.tracking, pictures=False))
    executor = Stoppable(LocalExecutor(folder / STATES), folder / STOP)
    with closing(with_attacks(executor, experiment)) as attacked:
        federate(experiment, CohortGrid(attacked), folder, recorders, begun, test=False)


def validations(folder: Path) -> list[Row]:
    """What a run has said of its validation clients so far, from its first round on."""
    rows = read_lines(folder / "metrics.jsonl")
    return [row for row in rows if row["split"] == "val" and row["round"] > 0]


def selected(experiment: Experiment, rows: Sequence[Row]) -> tuple[int, float]:
    """The round that a run selects, as ``MetaStrategy`` does, and its score there.

    Raises FedmetaError where there is no score, or one that leaves clients out.
    """
    if not rows:
        raise FedmetaError("no validation client could be scored")
    last, best = rows[-1], max(rows, key=_rank)
    row = best if experiment.evaluation.select == "best" else last
    if row["missing"]:
        count = row["missing"] + row["clients"]
        raise FedmetaError(
            f"{row['missing']} of {count} validation clients could not be scored in round {row['round']}"
        )
    return row["round"], score(row)


def score(row: Row) -> float:
    """Accuracy in [0, 1], or the loss, after adaptation."""
    after: dict[str, Any] = row["after"]
    return float(after.get("accuracy", after["loss"]))


def _rank(row: Row) -> tuple[int, float]:
    after = row["after"]
    return -row["missing"], after.get("accuracy", -after["loss"])
