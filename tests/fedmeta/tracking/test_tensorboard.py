"""A real event file, read back by TensorBoard's own reader."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import (
    EXPERIMENT_TAG,
    SESSION_END_INFO_TAG,
    SESSION_START_INFO_TAG,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from fedmeta.run_folder import write_lines
from fedmeta.tracking.place import Place
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
    counted = ("loss", "clients", "dropped", "seconds", "bytes_down", "bytes_up", "steps")
    expected |= {f"train/{name}" for name in counted}
    costs = ("round", "seconds", "bytes", "client_updates", "gradients")
    expected |= {f"progress/{name}" for name in costs}
    assert set(events.Tags()["scalars"]) == expected


def test_pictures_are_there_at_the_last_round(events: EventAccumulator) -> None:
    assert sorted(events.Tags()["images"]) == ["adaptation_curve", "learning_curve"]
    (picture,) = events.Images("learning_curve")
    assert (picture.step, picture.width, picture.height) == (2, 768, 480)


def test_what_the_rounds_have_cost_stands_at_every_round(events: EventAccumulator) -> None:
    assert series(events, "progress/seconds") == {0: 0.0, 1: 0.5, 2: 1.0}
    assert series(events, "progress/client_updates") == {0: 0, 1: 4, 2: 8}
    assert series(events, "progress/bytes") == {
        0: 0,
        1: 520,
        2: 520 + 620,
    }  # the second dropped one


def hyperparameters(folder: Path) -> tuple[dict[str, Any], set[str]]:
    """What HPARAMS shows: the settings of the session, and the scores that are its columns."""
    content = read(folder).PluginTagToContent("hparams")
    session = HParamsPluginData.FromString(content[SESSION_START_INFO_TAG]).session_start_info
    experiment = HParamsPluginData.FromString(content[EXPERIMENT_TAG]).experiment
    assert SESSION_END_INFO_TAG in content
    assert {info.name for info in experiment.hparam_infos} == set(session.hparams)
    values = {key: v.string_value or v.number_value for key, v in session.hparams.items()}
    return values, {info.name.tag for info in experiment.metric_infos}


def test_a_run_is_a_line_in_the_table_of_hyperparameters(
    tmp_path: Path, watch: Watch, story: Any
) -> None:
    story.tell(TensorBoard(), watch(tmp_path, "seed=7"))
    values, scores = hyperparameters(tmp_path)
    assert values == {
        "seed": 7, "data": "sinusoid", "model": "mlp", "learner": "maml", "strategy": "fedadam",
    }  # fmt: skip
    assert "test/after/accuracy" in scores
    assert scores <= set(read(tmp_path).Tags()["scalars"])


def test_the_labels_of_a_cell_are_hyperparameters(tmp_path: Path, watch: Watch, story: Any) -> None:
    Place("slow · x", {"strategy": "slow", "cohort.clients": "x"}).write(tmp_path)
    story.tell(TensorBoard(), watch(tmp_path))
    values, _ = hyperparameters(tmp_path)
    assert (values["strategy"], values["cohort.clients"], values["learner"]) == (
        "slow",
        "x",
        "maml",
    )


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


def test_a_run_resumed_before_its_first_round_purges_the_rounds(
    tmp_path: Path, watch: Watch, story: Any
) -> None:
    """Recorded up to round 2, but the only checkpoint is that of round 0."""
    story.tell(TensorBoard(), watch(tmp_path))
    again = TensorBoard()
    again.start(watch(tmp_path, resumed_at=0))
    again.record(story.rows[1] | {"loss": 0.75})
    again.finish(None)
    events = read(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 0.75)]
    assert series(events, "val/after/accuracy") == {0: 0.375}


def test_an_interrupted_run_keeps_its_values(tmp_path: Path, watch: Watch, story: Any) -> None:
    recorder = TensorBoard()
    recorder.start(watch(tmp_path))
    recorder.record(story.rows[1])
    recorder.finish(None)
    assert series(read(tmp_path), "train/loss") == {1: 1.0}
