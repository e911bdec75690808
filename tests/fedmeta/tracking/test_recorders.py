"""Watching changes nothing: a recorder that fails is put aside, named, and the others go on."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmeta.errors import ConfigError
from fedmeta.settings import TrackingSettings, WandbSettings
from fedmeta.tracking import build_recorders
from fedmeta.tracking.jsonl import JsonLines
from fedmeta.tracking.plots import Plots
from fedmeta.tracking.recorder import Recorders, Row, Run
from fedmeta.tracking.tensorboard import TensorBoard
from fedmeta.tracking.wandb import Wandb

Watch = Callable[..., Run]


class Diary:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []

    def start(self, run: Run) -> None:
        self.told.append(("start", run))

    def record(self, row: Row) -> None:
        self.told.append(("record", row))

    def finish(self, summary: Row | None) -> None:
        self.told.append(("finish", summary))


class Clumsy(Diary):
    """Fails at one kind of call, from the second one of that kind where there are several."""

    def __init__(self, fails_at: str) -> None:
        super().__init__()
        self.fails_at = (fails_at, 2 if fails_at == "record" else 1)

    def start(self, run: Run) -> None:
        super().start(run)
        self._stumble()

    def record(self, row: Row) -> None:
        super().record(row)
        self._stumble()

    def finish(self, summary: Row | None) -> None:
        super().finish(summary)
        self._stumble()

    def _stumble(self) -> None:
        call, count = self.fails_at
        if [name for name, _ in self.told].count(call) == count:
            raise OSError(28, "No space left on device")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Any:
    """The recorders' warnings, also where a run before has taken the loggers off the root."""
    logger = logging.getLogger("fedmeta.tracking.recorder")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_rows_come_in_order_and_the_end_once(tmp_path: Path, watch: Watch, story: Any) -> None:
    diary, run = Diary(), watch(tmp_path)
    story.tell(Recorders([diary]), run)
    rows = [("record", row) for row in story.rows]
    assert diary.told == [("start", run), *rows, ("finish", story.summary)]


@pytest.mark.parametrize(("fails_at", "calls"), [("start", 1), ("record", 3), ("finish", 8)])
def test_a_failing_recorder_is_put_aside_and_named(
    fails_at: str, calls: int, tmp_path: Path, watch: Watch, story: Any, log: Any
) -> None:
    """The first and the last of three see all eight calls; the middle one none after its fault."""
    first, clumsy, last = Diary(), Clumsy(fails_at), Diary()
    recorders = Recorders([first, clumsy, last])
    story.tell(recorders, watch(tmp_path))
    assert recorders.failed == ["Clumsy"]
    assert [len(recorder.told) for recorder in (first, clumsy, last)] == [8, calls, 8]
    told = "recorder Clumsy failed and is off: OSError: [Errno 28] No space left on device"
    assert set(log.messages) == {told}


def test_several_may_fail(tmp_path: Path, watch: Watch, story: Any) -> None:
    diary = Diary()
    recorders = Recorders([Clumsy("start"), diary, Clumsy("record")])
    story.tell(recorders, watch(tmp_path))
    assert recorders.failed == ["Clumsy", "Clumsy"]
    assert len(diary.told) == 8


def test_a_real_recorder_without_its_folder_harms_nobody(
    tmp_path: Path, watch: Watch, story: Any
) -> None:
    diary = Diary()
    recorders = Recorders([JsonLines(), diary])
    story.tell(recorders, watch(tmp_path / "missing"))
    assert recorders.failed == ["JsonLines"]
    assert len(diary.told) == 8


def test_an_interrupt_is_not_swallowed(tmp_path: Path, watch: Watch) -> None:
    class Interrupted(Diary):
        def start(self, run: Run) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Recorders([Interrupted()]).start(watch(tmp_path))


def kinds(settings: TrackingSettings, *extra: Any) -> list[type]:
    return [type(recorder) for recorder in build_recorders(settings, *extra)]


def test_pictures_are_drawn_before_they_are_uploaded() -> None:
    everything = TrackingSettings(WandbSettings("offline"), tensorboard=True)
    assert kinds(TrackingSettings()) == [JsonLines, Plots]
    assert kinds(everything, Diary()) == [JsonLines, Plots, Diary, Wandb, TensorBoard]


@pytest.mark.parametrize(
    ("settings", "key", "package"),
    [
        (TrackingSettings(WandbSettings("offline")), "tracking.wandb.mode", "wandb"),
        (TrackingSettings(tensorboard=True), "tracking.tensorboard", "tensorboard"),
    ],
)
def test_a_tracker_that_is_not_installed_is_named_before_any_work(
    settings: TrackingSettings, key: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # Python's own way to say: not there
    with pytest.raises(ConfigError, match=f"{key}: {package} is not installed; pip install"):
        build_recorders(settings)
