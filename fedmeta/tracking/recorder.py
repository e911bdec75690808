"""What a recorder is, and how several are kept from harming the run."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fedmeta.config import Experiment

Row = dict[str, Any]
"""One line of ``metrics.jsonl``: round, split, and numbers."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What a recorder is told at the beginning."""

    experiment: Experiment
    folder: Path
    resumed_at: int
    """Rounds already behind; rows up to here have been recorded before, of a new run none."""


class Recorder(Protocol):
    """Observes a run. Rows come in round order, then the summary, once."""

    def start(self, run: Run) -> None:
        """The run begins."""

    def record(self, row: Row) -> None:
        """A round was trained (split ``train``) or evaluated (``val``, ``test``)."""

    def finish(self, summary: Row | None) -> None:
        """The run is over; without a summary it was interrupted."""


class Recorders:
    """All recorders of a run. One that fails is put aside and named; the run goes on."""

    def __init__(self, recorders: Sequence[Recorder]) -> None:
        self._active = list(recorders)
        self.failed: list[str] = []

    def start(self, run: Run) -> None:
        """Tell every recorder."""
        self._tell(lambda recorder: recorder.start(run))

    def record(self, row: Row) -> None:
        """Tell every recorder."""
        self._tell(lambda recorder: recorder.record(row))

    def finish(self, summary: Row | None) -> None:
        """Tell every recorder; the later ones see what the earlier ones wrote."""
        self._tell(lambda recorder: recorder.finish(summary))

    def _tell(self, call: Callable[[Recorder], None]) -> None:
        for recorder in list(self._active):
            try:
                call(recorder)
            except Exception as e:  # observing must not change the run
                name = type(recorder).__name__
                self._active.remove(recorder)
                self.failed.append(name)
                _log.warning("recorder %s failed and is off: %s: %s", name, type(e).__name__, e)
