"""TensorBoard event files in the run folder. The only module that imports tensorboard."""

from typing import Any

from fedmeta.config import Experiment
from fedmeta.tracking.place import Place
from fedmeta.tracking.progress import behind
from fedmeta.tracking.recorder import Row, Run
from fedmeta.tracking.scalars import scalars

NAMED = ("data", "model", "learner", "strategy")
"""Sections whose components are hyperparameters by name."""


class TensorBoard:
    """The same scalars as W&B, the pictures, and a line in the table of hyperparameters (HPARAMS)."""

    def start(self, run: Run) -> None:
        """Open the event file; events after the checkpoint of a resumed run, be it of round 0, go."""
        from torch.utils.tensorboard import SummaryWriter

        self._told, self._folder, self._round = run, run.folder, run.resumed_at
        self._progress = behind(run)
        self._writer = SummaryWriter(run.folder / "tensorboard", purge_step=run.resumed_at + 1)

    def record(self, row: Row) -> None:
        """Scalars of the row at the round's step."""
        self._round, self._progress = row["round"], self._progress.after(row)
        for name, value in (scalars(row) | self._progress.scalars()).items():
            self._writer.add_scalar(name, value, row["round"])

    def finish(self, summary: Row | None) -> None:
        """Add hyperparameters and pictures, and close."""
        if summary is not None:
            self._add_line(summary)
            self._add_pictures()
        self._writer.close()

    def _add_line(self, summary: Row) -> None:
        """In this very event file: ``add_hparams`` of torch would make a run beside it."""
        from torch.utils.tensorboard.summary import hparams

        place = Place.read(self._folder)
        chosen = hyperparameters(self._told.experiment, place)
        finals = {f"test/after/{key}": 0.0 for key in summary.get("test", {}).get("after", {})}
        writer: Any = self._writer.file_writer
        for part in hparams(chosen, finals):  # type: ignore[no-untyped-call]
            writer.add_summary(part)

    def _add_pictures(self) -> None:
        import numpy as np
        from PIL import Image

        for path in sorted((self._folder / "plots").glob("*.png")):
            pixels = np.asarray(Image.open(path).convert("RGB"))
            self._writer.add_image(path.stem, pixels, self._round, dataformats="HWC")


def hyperparameters(experiment: Experiment, place: Place | None) -> dict[str, str | int]:
    """Labels of the comparison, else components by name; and the seed."""
    names = {key: str(experiment.sections[key].get("name")) for key in NAMED}
    labels = place.labels if place else {}
    return {"seed": experiment.seed} | names | labels
