"""TensorBoard event files in the run folder. The only module that imports tensorboard."""

from fedmeta.tracking.recorder import Row, Run
from fedmeta.tracking.scalars import scalars


class TensorBoard:
    """The same scalars as W&B, and the pictures."""

    def start(self, run: Run) -> None:
        """Open the event file; events after the checkpoint of a resumed run are purged."""
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self._round = run.folder, run.resumed_at
        purge = run.resumed_at + 1 if run.resumed_at else None
        self._writer = SummaryWriter(run.folder / "tensorboard", purge_step=purge)

    def record(self, row: Row) -> None:
        """Scalars of the row at the round's step."""
        self._round = row["round"]
        for name, value in scalars(row).items():
            self._writer.add_scalar(name, value, row["round"])

    def finish(self, summary: Row | None) -> None:
        """Add the pictures and close."""
        import numpy as np
        from PIL import Image

        for path in sorted((self._folder / "plots").glob("*.png")) if summary is not None else []:
            pixels = np.asarray(Image.open(path).convert("RGB"))
            self._writer.add_image(path.stem, pixels, self._round, dataformats="HWC")
        self._writer.close()
