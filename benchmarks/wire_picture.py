"""Accuracy against bytes on the wire, as a picture."""

from collections.abc import Sequence
from itertools import accumulate
from math import sqrt
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {
    "params": "#0072B2",
    "deltas": "#009E73",
    "int8": "#D55E00",
    "topk 0.1": "#CC79A7",
    "topk 0.01": "#000000",
    "both": "#E69F00",
}
"""Colours that the colour-blind tell apart, by how a title begins."""
GAP = 0.045
"""Least distance of neighbours, as a share: forms of as many bytes would hide each other."""
LABEL = 0.45
"""Room below for the titles of forms, of the height that the intervals take."""
TICKS, MARGIN = (0.05, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25), 1.06


def draw(groups: dict[str, Any], path: Path) -> None:
    """A panel for each group: mean, interval of the difference to exact, and exact as a line."""
    widths = [len(found["rows"]) for found in groups.values()]
    figure, panels = plt.subplots(
        1, len(groups), figsize=(12, 6.2), width_ratios=widths, sharey=True, layout="constrained"
    )
    for axes, found in zip(panels, groups.values(), strict=True):
        _panel(axes, found)
    rows = [each for found in groups.values() for each in found["rows"].values()]
    low, high = (
        min(each["accuracy"] - each["half"] for each in rows),
        max(each["accuracy"] + each["half"] for each in rows),
    )
    panels[0].set_ylim(low - LABEL * (high - low), high + 0.05 * (high - low))
    panels[0].set_ylabel("accuracy after adaptation (%), unseen clients")
    exact = max(map(_megabytes, rows))
    figure.supxlabel(
        f"megabytes per client and round, both ways; exact: {exact:.2f}. Neighbours are set a little "
        "apart.\nBars: 95 % interval of the difference to exact over seeds",
        fontsize="medium",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axes: Any, found: dict[str, Any]) -> None:
    rows = dict(found["rows"])
    exact = rows.pop("exact")
    axes.axhline(exact["accuracy"], color="#555555", linewidth=1, zorder=0)
    axes.annotate(
        "exact", (0.02, exact["accuracy"]),
        xycoords=axes.get_yaxis_transform(), va="bottom", fontsize="small", color="#555555",
    )  # fmt: skip
    forms = sorted(rows, key=lambda form: _megabytes(rows[form]))
    places = apart([_megabytes(rows[form]) for form in forms])
    for form, x in zip(forms, places, strict=True):
        each, colour = rows[form], _colour(form)
        hollow = "white" if form.endswith("no feedback") else colour
        axes.errorbar(
            x, each["accuracy"], each["half"], fmt="o", color=colour, mfc=hollow, capsize=3,
            elinewidth=1,
        )  # fmt: skip
        axes.annotate(
            form, (x, each["accuracy"] - each["half"]), (0, -6), textcoords="offset points",
            rotation=90, ha="center", va="top", fontsize="small", color=colour,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.minorticks_off()
    axes.set_xlim(places[0] / MARGIN, places[-1] * MARGIN)
    axes.set_title(found["title"], fontsize="medium")
    axes.grid(axis="y", alpha=0.3)


def apart(places: Sequence[float]) -> list[float]:
    """Ascending places set ``GAP`` apart where they are nearer: between pushed up and pushed down."""
    up = accumulate(places, lambda last, place: max(place, last * (1 + GAP)))
    down = accumulate(reversed(places), lambda last, place: min(place, last / (1 + GAP)))
    return [sqrt(a * b) for a, b in zip(up, reversed(list(down)), strict=True)]


def _megabytes(each: dict[str, Any]) -> float:
    return float(each["down"] + each["up"]) / 1e6


def _colour(form: str) -> str:
    kind = "both" if form.startswith("params") and form.count(" ") > 1 else form.split(",")[0]
    return next(
        colour for start, colour in COLOURS.items() if kind == start or kind.startswith(f"{start} ")
    )
