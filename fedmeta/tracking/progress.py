"""What the rounds so far have cost, added up over the rows of a run."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Self

from fedmeta.run_folder import read_lines
from fedmeta.tracking.recorder import Row, Run


@dataclass(frozen=True)
class Progress:
    """Totals after a round. None: rows of older runs do not say it."""

    round: int = 0
    seconds: float = 0.0
    """Of training, evaluations left out."""
    bytes: int | None = 0
    """Sent to clients and by them, as if each were a node of its own."""
    client_updates: int = 0
    """Clients whose deltas came back, summed over rounds."""
    gradients: int | None = 0
    """Gradient steps of all clients."""
    simulated_seconds: float | None = None
    """Only where devices are simulated."""

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Self:
        """After all of the rows, those of evaluations among them."""
        progress = cls()
        for row in rows:
            progress = progress.after(row)
        return progress

    def after(self, row: Row) -> Self:
        """With one more row; only those of training cost anything."""
        if row["split"] != "train":
            return self
        return type(self)(
            round=row["round"],
            seconds=self.seconds + row["seconds"],
            bytes=_sum(self.bytes, _bytes(row)),
            client_updates=self.client_updates + row["clients"],
            gradients=_sum(self.gradients, _gradients(row)),
            simulated_seconds=row.get("simulated_seconds", self.simulated_seconds),
        )

    def scalars(self) -> dict[str, float]:
        """For example ``progress/bytes``, for trackers; what is not known is left out."""
        return {
            f"progress/{key}": value for key, value in asdict(self).items() if value is not None
        }


def behind(run: Run) -> Progress:
    """What the rounds before the checkpoint of a resumed run have cost."""
    rows = read_lines(run.folder / "metrics.jsonl") if run.resumed_at else []
    return Progress.of(row for row in rows if row["round"] <= run.resumed_at)


def _bytes(row: Row) -> int | None:
    """Of a round: clients that were dropped were sent the params too."""
    if "bytes_down" not in row:
        return None
    asked = row["clients"] + row["dropped"]
    return int(asked * row["bytes_down"] + row["clients"] * row["bytes_up"])


def _gradients(row: Row) -> int | None:
    """Of a round, from the mean over its clients."""
    if not row["clients"]:
        return 0
    return round(row["clients"] * row["steps"]) if "steps" in row else None


def _sum(total: int | None, more: int | None) -> int | None:
    return None if total is None or more is None else total + more
