"""What a comparison shows while it runs: bars on a terminal, plain lines elsewhere."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from simulations.cells import Task

SILENCE = 30.0
"""Seconds without a line where there are no bars."""
TAIL = 65_536
"""Bytes at the end of a file in which its last line is."""


class ProgressView:
    """One bar for all cells and one for each that is running, its rounds read from its own files."""

    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total, self._done = console, total, 0
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._all = self._bars.add_task("all cells", total=total)
        self._cells: dict[str, TaskID] = {}
        self._told = time.monotonic()

    def __enter__(self) -> Self:
        """Show the bars."""
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take them down."""
        self._bars.stop()

    def look(self, running: Sequence[Task]) -> None:
        """Move the bars; without a terminal say now and then where the cells are."""
        rounds = {task.name: last_round(task.folder) for task in running}
        for task in running:
            if task.name not in self._cells:
                self._cells[task.name] = self._bars.add_task(task.name, total=task.rounds)
            self._bars.update(self._cells[task.name], completed=rounds[task.name])
        if self._bars.disable and time.monotonic() > self._told + SILENCE:
            where = ", ".join(f"{t.name} {rounds[t.name]}/{t.rounds}" for t in running)
            self._say(f"{self._done} of {self._total} done; rounds: {where}")

    def end(self, name: str, seconds: float, failure: str) -> None:
        """A cell is over."""
        self.say_end(name, f"failed: {failure}" if failure else f"done, {seconds:.1f} s")

    def say_end(self, name: str, outcome: str) -> None:
        """A cell is over, with an outcome in words."""
        self._done += 1
        if name in self._cells:
            self._bars.remove_task(self._cells.pop(name))
        self._bars.update(self._all, completed=self._done)
        self._say(f"[{self._done}/{self._total}] {name}: {outcome}")

    def _say(self, line: str) -> None:
        self._told = time.monotonic()
        self._console.print(line, soft_wrap=True, markup=False, highlight=False)


def last_round(folder: Path) -> int:
    """Of a run that another process is writing; 0 before its first."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            lines = file.read().split(b"\n")[
                :-1
            ]  # what comes after the last is still being written
            return int(json.loads(lines[-1])["round"]) if lines else 0
    except (OSError, ValueError, KeyError):
        return 0
