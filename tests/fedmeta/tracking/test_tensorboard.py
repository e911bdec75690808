"""A real event file, read back by TensorBoard's own reader."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedmeta.run_folder import write_lines
from fedmeta.tracking.plots import Plots
from fedmeta.tracking.recorder import Recorders, Run
from fedmeta.tracking.tensorboard import TensorBoard

Watch = Callable[..., Run]


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return events


def series(events: EventAccumulator, name: str) -> dict[int, float]:
    return {event.step: event.value for event in events.Scalars(name)}


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory, watch: Watch, story: Any) -> EventAccumulator:
    folder = tmp_path_factory.mktemp("run")
    write_lines(folder / "metrics.jsonl", story.rows)
    story.tell(Recorders([Plots(), TensorBoard()]), watch(folder))
    return read(folder)


def test_training_has_a_value_for_every_round(events: EventAccumulator) -> None:
    assert series(events, "train/loss") == {1: 1.0, 2: 0.5}
    assert series(events, "train/clients") == {1: 4, 2: 4}
    assert series(events, "train/dropped") == {1: 0, 2: 1}


def test_evaluations_before_and_after_stand_at_their_rounds(events: EventAccumulator) -> None:
    assert series(events, "val/before/accuracy") == {0: 0.25, 1: 0.25, 2: 0.375}
    assert series(events, "val/after/accuracy") == {0: 0.375, 1: 0.625, 2: 0.75}
    assert series(events, "val/after/accuracy_worst_decile") == {0: 0.1875, 1: 0.3125, 2: 0.375}
    assert series(events, "test/after/loss") == {2: 0.125}


def test_names_are_split_then_moment_then_score(events: EventAccumulator) -> None:
    scores = ["loss", "loss_ci95", "accuracy", "accuracy_ci95", "accuracy_worst_decile"]
    moments = [f"{when}/{score}" for when in ("before", "after") for score in scores]
    expected = {f"{split}/{name}" for split in ("val", "test") for name in moments}
    expected |= {f"{split}/{name}" for split in ("val", "test") for name in ("clients", "missing")}
    expected |= {f"train/{name}" for name in ("loss", "clients", "dropped", "seconds")}
    assert set(events.Tags()["scalars"]) == expected


def test_pictures_are_there_at_the_last_round(events: EventAccumulator) -> None:
    assert sorted(events.Tags()["images"]) == ["adaptation_curve", "learning_curve"]
    (picture,) = events.Images("learning_curve")
    assert (picture.step, picture.width, picture.height) == (2, 768, 480)


def test_a_resumed_run_purges_what_came_after_its_checkpoint(
    tmp_path: Path, watch: Watch, story: Any
) -> None:
    """Recorded up to round 2, then resumed from round 1 with another round 2."""
    story.tell(TensorBoard(), watch(tmp_path))
    again = TensorBoard()
    again.start(watch(tmp_path, resumed_at=1))
    again.record(story.rows[3] | {"loss": 0.75})
    again.finish(None)
    assert series(read(tmp_path), "train/loss") == {1: 1.0, 2: 0.75}
    assert series(read(tmp_path), "val/after/accuracy") == {0: 0.375, 1: 0.625}


def test_an_interrupted_run_keeps_its_values(tmp_path: Path, watch: Watch, story: Any) -> None:
    recorder = TensorBoard()
    recorder.start(watch(tmp_path))
    recorder.record(story.rows[1])
    recorder.finish(None)
    assert series(read(tmp_path), "train/loss") == {1: 1.0}
