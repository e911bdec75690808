"""The picture of a sweep: the score against every setting that varied, a dot for each trial."""

from collections.abc import Sequence
from io import BytesIO
from math import ceil
from typing import Any

from fedmeta.tracking.plots import BLUE, GREY, ORANGE
from simulations.sweep.file import Sweep
from simulations.sweep.shown import ranked, shown_score
from simulations.sweep.space import Choices, Dimension
from simulations.sweep.study import Outcome

COLUMNS = 3
"""Panels side by side."""


def sweep_picture(sweep: Sweep, outcomes: Sequence[Outcome]) -> bytes:
    """As PNG."""
    content = BytesIO()
    draw(sweep, outcomes).savefig(content, format="png")
    return content.getvalue()


def draw(sweep: Sweep, outcomes: Sequence[Outcome]) -> Any:
    """One panel for the order of the trials, and one for each setting; scores share their axis."""
    from matplotlib.figure import Figure

    count = len(sweep.space) + 1
    wide, high = min(count, COLUMNS), ceil(count / COLUMNS)
    figure = Figure(figsize=(1 + 3.6 * wide, 1.2 + 3.0 * high), dpi=110, layout="constrained")
    panels = figure.subplots(high, wide, sharey=True, squeeze=False)
    for axes in panels.flat[count:]:
        axes.remove()
    _panel(panels.flat[0], sweep, outcomes, [each.number for each in outcomes], "trial")
    _wholes(panels.flat[0])
    for axes, (key, found) in zip(panels.flat[1:], sweep.space.items(), strict=False):
        _panel(axes, sweep, outcomes, [_place(found, each) for each in outcomes], key)
        _scale(axes, found)
    _label(figure, panels, sweep, outcomes)
    return figure


def _panel(axes: Any, sweep: Sweep, outcomes: Sequence[Outcome], x: list[float], name: str) -> None:
    scale = 100 if sweep.measure == "accuracy" else 1
    points = [
        (place, scale * one.score, one)
        for place, one in zip(x, outcomes, strict=True)
        if one.score is not None
    ]
    best = ranked(outcomes, sweep.measure)[:1]
    for marker, colour, label, size, chosen in (
        ("x", GREY, "stopped early: last score", 22, [p for p in points if p[2].state == "pruned"]),
        ("o", BLUE, "best of a whole trial", 22, [p for p in points if p[2].state == "complete"]),
        ("*", ORANGE, "the best trial", 130, [p for p in points if p[2] in best]),
    ):
        if chosen:
            axes.scatter(
                [p[0] for p in chosen], [p[1] for p in chosen], s=size, marker=marker, color=colour,
                label=label, zorder=3 if marker == "*" else 2,
            )  # fmt: skip
    axes.set_xlabel(name)
    axes.grid(alpha=0.25)


def _place(found: Dimension, outcome: Outcome) -> float:
    """On the axis of a setting; choices stand side by side."""
    value = outcome.values[found.key]
    return list(found.by_label).index(str(value)) if isinstance(found, Choices) else float(value)


def _scale(axes: Any, found: Dimension) -> None:
    if isinstance(found, Choices):
        labels = [label if len(label) < 19 else f"{label[:16]}..." for label in found.by_label]
        axes.set_xticks(range(len(labels)), labels, rotation=30 if len(labels) > 3 else 0)
        axes.set_xlim(-0.5, len(labels) - 0.5)
        return
    if found.log:
        axes.set_xscale("log")
    elif found.whole:
        _wholes(axes)


def _wholes(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _ratios(axes: Any) -> None:
    """Losses: equal steps are equal ratios."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _label(figure: Any, panels: Any, sweep: Sweep, outcomes: Sequence[Outcome]) -> None:
    unit = "accuracy (%)" if sweep.measure == "accuracy" else "query loss"
    for row in panels:
        row[0].set_ylabel(f"{unit} after adaptation,\nunseen validation clients")
    if sweep.measure == "loss":
        _ratios(panels.flat[0])
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    best = ranked(outcomes, sweep.measure)
    said = f": {shown_score(best[0].score or 0.0, sweep.measure)} at best" if best else ""
    figure.suptitle(f"{sweep.name}, {len(outcomes)} trials{said}")
