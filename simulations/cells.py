"""One run of a comparison: its files, and how a worker runs it."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fedmeta.config import Experiment, build
from fedmeta.errors import RunFolderError
from fedmeta.logs import log_to
from fedmeta.run_folder import write_lines
from fedmeta.settings import WandbSettings
from fedmeta.tracking.place import Place
from fedmeta.tracking.recorder import Row
from simulations.rows import identity, read_row, row_with
from simulations.run import run
from strategies.opening import open_run
from strategies.state import CHECKPOINT
from strategies.stock import STRATEGIES


@dataclass(frozen=True)
class Cell:
    """An experiment with its place in a comparison."""

    experiment: Experiment
    place: Place
    out: Path
    """The folder of the comparison."""

    @property
    def name(self) -> str:
        """The experiment and its seed."""
        return f"{self.experiment.name}-{self.experiment.seed}"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.out / "runs" / self.name

    @property
    def row_file(self) -> Path:
        """Where its row of results stands."""
        return self.out / "rows" / f"{self.name}.json"

    @property
    def task(self) -> "Task":
        """What a worker needs of it."""
        return Task(self.name, self.experiment.sections, self.place, self.folder, self.row_file)

    def finished(self) -> bool:
        """Whether its results are there. Raises RunFolderError where row or run is of another config."""
        if self.row_file.exists() and not (row := read_row(self.row_file)).get("failed"):
            self._same(self.row_file, row)
            return True
        if (self.folder / CHECKPOINT).exists():
            self._same(self.folder, identity(open_run(self.folder)))
        return False

    def _same(self, where: Path, found: Row) -> None:
        expected = identity(self.experiment)
        if {key: found.get(key) for key in expected} != expected:
            raise RunFolderError(
                f"{where}: is of another config; remove it, or choose another --out"
            )


@dataclass(frozen=True)
class Task:
    """A cell as it travels to a worker."""

    name: str
    sections: dict[str, Any]
    place: Place
    folder: Path
    row_file: Path

    def __str__(self) -> str:
        return self.name

    @property
    def rounds(self) -> int:
        """How long it is."""
        return int(self.sections["rounds"])


def run_task(task: Task) -> None:
    """Run a cell, or go on from its checkpoint, and write its row. Raises what a run raises.

    Pictures of single runs are left out, they would take a fifth of a short one.
    """
    alone, begun = prepare(task)
    run(alone, task.folder, resume=begun, pictures=False)
    write_lines(
        task.row_file, [row_with(alone, task.folder)]
    )  # compact: scores of clients are long


def prepare(task: Task) -> tuple[Experiment, bool]:
    """The experiment of a cell and whether it was begun; its folder is there, with place and log.

    It runs in this process, whatever the config's executor; W&B hears of it later, from the files.
    """
    experiment, begun = build(task.sections, STRATEGIES), (task.folder / CHECKPOINT).exists()
    if not begun:  # killed before its first checkpoint
        shutil.rmtree(task.folder, ignore_errors=True)
    task.folder.mkdir(parents=True, exist_ok=True)
    task.place.write(task.folder)
    log_to(task.folder, Console(quiet=True))
    engine = replace(experiment.engine, executor="local", address=None)
    tracking = replace(experiment.tracking, wandb=WandbSettings())
    return replace(experiment, engine=engine, tracking=tracking), begun
