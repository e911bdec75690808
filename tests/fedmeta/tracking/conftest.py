"""A run to watch: two rounds of a classification federation, in the rows that a server records."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedmeta.config import load
from fedmeta.tracking.recorder import Recorder, Row, Run

QUICKSTART = Path(__file__).parents[3] / "configs" / "quickstart.yaml"


def score(accuracy: float) -> Row:
    """What is said of some clients at one step."""
    return {
        "loss": 1 - accuracy,
        "loss_ci95": 0.125,
        "accuracy": accuracy,
        "accuracy_ci95": 0.0625,
        "accuracy_worst_decile": accuracy / 2,
    }


def evaluated(round: int, split: str, *accuracies: float) -> Row:
    curve = [score(accuracy) for accuracy in accuracies]
    return {
        "round": round, "split": split, "clients": 5, "missing": 1,
        "before": curve[0], "after": curve[-1], "curve": curve,
    }  # fmt: skip


def trained(round: int) -> Row:
    return {
        "round": round, "split": "train", "loss": 1 / round,
        "clients": 4, "dropped": round - 1, "seconds": 0.5,
        "bytes_down": 100, "bytes_up": 30, "steps": 2.0,
    }  # fmt: skip


@dataclass(frozen=True)
class Story:
    """All that recorders are told of a run, and the files that they find beside them."""

    rows: tuple[Row, ...] = (
        evaluated(0, "val", 0.25, 0.25, 0.375),
        trained(1),
        evaluated(1, "val", 0.25, 0.5, 0.625),
        trained(2),
        evaluated(2, "val", 0.375, 0.5, 0.75),
        evaluated(2, "test", 0.25, 0.5, 0.875),
    )
    clients: tuple[Row, ...] = (
        {"client": 7, "split": "test", "loss": [2.0, 1.0, 0.5], "accuracy": [0.25, 0.5, 1.0]},
        {"client": 9, "split": "test", "loss": [3.0, 2.0, 1.5], "accuracy": [0.25, 0.5, 0.75]},
    )

    @property
    def summary(self) -> Row:
        test = {k: v for k, v in self.rows[-1].items() if k not in ("round", "split")}
        return {"name": "watched", "rounds": 2, "dropped_replies": 1, "test": test}

    def tell(self, recorder: Recorder, run: Run) -> None:
        """From start to finish."""
        recorder.start(run)
        for row in self.rows:
            recorder.record(row)
        recorder.finish(self.summary)


@pytest.fixture(scope="session")
def story() -> Story:
    return Story()


@pytest.fixture(scope="session")
def watch() -> Callable[..., Run]:
    """What a recorder is told at the beginning, for a folder, overrides and a round."""

    def run(folder: Path, *overrides: str, resumed_at: int = 0) -> Run:
        return Run(load(QUICKSTART, ["name=watched", *overrides]), folder, resumed_at)

    return run
