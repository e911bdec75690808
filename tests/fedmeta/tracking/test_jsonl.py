"""``metrics.jsonl``: a line per row, on disk at once, and the same after a resume."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmeta.tracking.jsonl import JsonLines
from fedmeta.tracking.recorder import Run

Watch = Callable[..., Run]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_every_row_is_a_line(tmp_path: Path, watch: Watch, story: Any) -> None:
    story.tell(JsonLines(), watch(tmp_path))
    assert lines(tmp_path) == list(story.rows)


def test_a_row_is_on_disk_before_the_next(tmp_path: Path, watch: Watch, story: Any) -> None:
    recorder = JsonLines()
    recorder.start(watch(tmp_path))
    for count, row in enumerate(story.rows, start=1):
        recorder.record(row)
        assert lines(tmp_path) == list(story.rows[:count])
    recorder.finish(None)


@pytest.mark.parametrize("torn", ["", '{"round": 3, "spl'])
def test_a_resumed_run_records_no_round_twice(
    torn: str, tmp_path: Path, watch: Watch, story: Any
) -> None:
    """Killed after round 2 was recorded, perhaps in the middle of a line; checkpoint of round 1."""
    story.tell(JsonLines(), watch(tmp_path))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    again = JsonLines()
    again.start(watch(tmp_path, resumed_at=1))
    assert lines(tmp_path) == [row for row in story.rows if row["round"] <= 1]
    for row in story.rows[3:]:
        again.record(row)
    again.finish(story.summary)
    assert lines(tmp_path) == list(story.rows)


def test_an_interrupted_run_keeps_its_lines(tmp_path: Path, watch: Watch, story: Any) -> None:
    recorder = JsonLines()
    recorder.start(watch(tmp_path))
    recorder.record(story.rows[0])
    recorder.finish(None)
    assert lines(tmp_path) == [story.rows[0]]


def test_finishing_what_never_began_is_harmless(story: Any) -> None:
    JsonLines().finish(story.summary)
