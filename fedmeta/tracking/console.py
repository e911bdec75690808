"""The console: a progress bar on a terminal, plain lines elsewhere."""

import logging
import time

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fedmeta.tracking.recorder import Row, Run

SILENCE = 5.0
"""Seconds without a line where there is no bar, as in a federation of devices."""
_log = logging.getLogger("fedmeta.console")


class Console:
    """Rounds, clients per second, the time left, and the last evaluation."""

    def __init__(self, console: RichConsole) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[score]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._seconds, self._clients, self._told = 0.0, 0, 0.0

    def start(self, run: Run) -> None:
        """Show the bar."""
        self._rounds, self._told = run.experiment.rounds, time.monotonic()
        self._task = self._progress.add_task(
            run.experiment.name,
            total=run.experiment.rounds,
            completed=run.resumed_at,
            speed="",
            score="",
        )
        self._progress.start()

    def record(self, row: Row) -> None:
        """Move the bar, or say how an evaluation went."""
        if row["split"] != "train":
            text = describe(row)
            _log.info("round %d: %s", row["round"], text)
            if row["split"] == "val":
                self._progress.update(self._task, score=text)
            return
        self._seconds += row["seconds"]
        self._clients += row["clients"]
        speed = f"{self._clients / max(self._seconds, 1e-9):,.0f} clients/s"
        self._progress.update(self._task, completed=row["round"], speed=speed)
        if self._progress.disable and time.monotonic() > self._told + SILENCE:
            self._told = time.monotonic()
            loss = f", loss {row['loss']:.4g}" if "loss" in row else ""
            _log.info("round %d of %d: %d clients%s, %.1f s", row["round"], self._rounds,
                      row["clients"], loss, row["seconds"])  # fmt: skip

    def finish(self, summary: Row | None) -> None:
        """Take the bar down."""
        self._progress.stop()


def describe(row: Row) -> str:
    """An evaluation in a few words."""
    name, scale, unit = ("accuracy", 100, " %") if "accuracy" in row["after"] else ("loss", 1, "")
    before, after = (scale * row[when][name] for when in ("before", "after"))
    return f"{row['split']} {name} {before:.2f}{unit} -> {after:.2f}{unit}"
