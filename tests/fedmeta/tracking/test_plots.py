"""The pictures say what they show: values, intervals, units, and whose scores they are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor

from fedmeta.run_folder import write_lines
from fedmeta.tracking.plots import BLUE, ORANGE, Plots, adaptation_curve, learning_curve
from fedmeta.tracking.recorder import Row, Run

Watch = Callable[..., Run]


def regression(*losses: float) -> list[Row]:
    return [{"loss": loss, "loss_ci95": 0.5} for loss in losses]


def lines(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    """What is drawn, by the name in the legend."""
    return {
        line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist())
        for line in axes.lines
    }


def bands(axes: Any) -> list[set[tuple[float, float]]]:
    """The corners of every shaded band."""
    return [
        {(float(x), float(y)) for x, y in np.round(band.get_paths()[0].vertices, 9)}
        for band in axes.collections
    ]


def legend(axes: Any) -> list[str]:
    texts = axes.get_legend().get_texts()
    return [axes.get_legend().get_title().get_text(), *(text.get_text() for text in texts)]


def test_the_learning_curve_of_accuracy(story: Any) -> None:
    (axes,) = learning_curve(list(story.rows), "watched").axes
    assert axes.get_title() == "watched"
    assert axes.get_xlabel() == "round"
    assert axes.get_ylabel() == "accuracy (%), unseen validation clients"
    assert lines(axes) == {
        "before adaptation": ([0, 1, 2], [25.0, 25.0, 37.5]),
        "after adaptation (2 steps)": ([0, 1, 2], [37.5, 62.5, 75.0]),
    }
    assert legend(axes) == ["band: 95 % interval", *lines(axes)]


def test_the_adaptation_curve_of_accuracy(story: Any) -> None:
    """The half-width 0.0625 is 6.25 %: the band of the means 25, 50 and 87.5 %."""
    (axes,) = adaptation_curve(story.summary["test"]["curve"], "watched").axes
    assert axes.get_title() == "watched"
    assert axes.get_xlabel() == "inner steps on the client's support"
    assert axes.get_ylabel() == "accuracy (%), unseen test clients"
    assert lines(axes) == {"mean over clients": ([0, 1, 2], [25.0, 50.0, 87.5])}
    corners = {(x, m + h) for x, m in enumerate([25.0, 50.0, 87.5]) for h in (-6.25, 6.25)}
    assert bands(axes) == [corners]


def test_curves_of_regression_are_losses_from_zero() -> None:
    curve = regression(4.0, 2.0, 1.0)
    row = {"round": 3, "split": "val", "before": curve[0], "after": curve[2], "curve": curve}
    for figure, whose in (
        (adaptation_curve(curve, "sine"), "unseen test clients"),
        (learning_curve([row], "sine"), "unseen validation clients"),
    ):
        (axes,) = figure.axes
        assert axes.get_ylabel() == f"query loss, {whose}"
        assert axes.get_ylim()[0] == 0
    assert lines(adaptation_curve(curve, "sine").axes[0])["mean over clients"] == (
        [0, 1, 2],
        [4.0, 2.0, 1.0],
    )


def test_one_client_has_a_line_without_a_band() -> None:
    curve = [{"loss": loss, "loss_ci95": None} for loss in (3.0, 1.0)]
    (axes,) = adaptation_curve(curve, "one").axes
    assert lines(axes)["mean over clients"] == ([0, 1], [3.0, 1.0])
    assert bands(axes) == []


def test_a_run_without_evaluations_has_an_empty_picture() -> None:
    (axes,) = learning_curve([], "nothing").axes
    assert [len(x) for x, _ in lines(axes).values()] == [0, 0]


def test_pictures_are_written_at_the_end(tmp_path: Path, watch: Watch, story: Any) -> None:
    write_lines(tmp_path / "metrics.jsonl", story.rows)
    story.tell(Plots(), watch(tmp_path))
    inks = {"adaptation_curve.png": ORANGE, "learning_curve.png": BLUE}
    assert {path.name for path in (tmp_path / "plots").iterdir()} == inks.keys()
    for name, ink in inks.items():
        with Image.open(tmp_path / "plots" / name) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert pixels.shape == (480, 768, 3)  # 4 x 6.4 inches at 120 dots
        assert (pixels == ImageColor.getrgb(ink)).all(axis=-1).any()


def test_an_interrupted_run_draws_nothing(tmp_path: Path, watch: Watch) -> None:
    plots = Plots()
    plots.start(watch(tmp_path))
    plots.finish(None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["learning_curve.png", "adaptation_curve.png"])
def test_a_picture_is_replaced_on_resume(
    name: str, tmp_path: Path, watch: Watch, story: Any
) -> None:
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / name).write_text("old")
    write_lines(tmp_path / "metrics.jsonl", story.rows)
    story.tell(Plots(), watch(tmp_path, resumed_at=1))
    assert (tmp_path / "plots" / name).read_bytes().startswith(b"\x89PNG")
