"""Learning curves, or two axes crossed, and ranking of every problem as one picture."""

from collections.abc import Sequence
from io import BytesIO
from math import isnan
from typing import Any

from simulations.contenders import Comparison
from simulations.report.charts import BANDS, Line, reach
from simulations.report.contenders import Problem
from simulations.report.crossed import Crossing, crossing
from simulations.report.figures import bands, units
from simulations.report.looks import INK, Look
from simulations.report.pairwise import comparisons
from simulations.report.scales import score_scale
from simulations.report.validation import mean_curve, spent

CURVES = 20
"""With more lines than that none can be followed."""


def picture(problems: Sequence[Problem], against: str | None = None) -> bytes:
    """As PNG. Names are names: a dollar sign in one begins no formula."""
    from matplotlib import rc_context

    content = BytesIO()
    with rc_context({"text.parse_math": False}):
        draw(problems, against).savefig(content, format="png")
    return content.getvalue()


def draw(problems: Sequence[Problem], against: str | None = None) -> Any:
    """For each problem validation scores by rounds and test scores with intervals, side by side.

    Against a baseline there are paired differences to it in place of test scores, which are surer.
    Contenders of two axes that are too many for curves have one panel, across which one axis runs.
    """
    from matplotlib.figure import Figure

    crossings = [_crossing(problem) for problem in problems]
    heights = [
        5.0 if found else max(3.6, 0.8 + 0.34 * len(problem.contenders))
        for problem, found in zip(problems, crossings, strict=True)
    ]
    figure = Figure(figsize=(12.0, sum(heights) + 0.4), dpi=120, layout="constrained")
    parts = figure.subfigures(len(problems), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, problem, found in zip(parts, problems, crossings, strict=True):
        if found:
            _draw_crossing(part.subplots(), problem, found)
        else:
            _draw_pair(part.subplots(1, 2, width_ratios=[3, 2]), problem, against)
    return figure


def _crossing(problem: Problem) -> Crossing | None:
    return crossing(problem) if len(problem.contenders) > CURVES else None


def _draw_pair(panels: Any, problem: Problem, against: str | None) -> None:
    left, right = panels
    pairs = [] if against is None else comparisons(problem, against)[0]
    _draw_curves(left, problem)
    if pairs:
        _draw_differences(right, problem, pairs, str(against))
        left.legend(fontsize="small")  # the other panel names all lines but the baseline's
    else:
        _draw_ranking(right, problem)


def _draw_curves(axes: Any, problem: Problem) -> None:
    lines = [
        Line(Look(position), contender.name, spent(contender, "round"), *mean_curve(contender))
        for position, contender in enumerate(problem.contenders)
    ]
    for line in lines:
        axes.plot(line.x, line.y, label=line.name, **line.look.in_matplotlib())
        if len(lines) <= BANDS:
            pairs = list(zip(line.y, line.half, strict=True))
            low, high = [y - half for y, half in pairs], [y + half for y, half in pairs]
            axes.fill_between(line.x, low, high, color=line.look.colour, alpha=0.13, linewidth=0)
    axes.set_title(problem.name, loc="left", fontweight="bold")
    axes.set_xlabel(f"rounds. {bands(problem)}")
    axes.set_ylabel(_label(problem, "validation"))
    axes.grid(alpha=0.25)
    _scale(axes, axes.yaxis, problem, reach(lines))


def _draw_crossing(axes: Any, problem: Problem, found: Crossing) -> None:
    places = range(len(found.columns))
    for position, row in enumerate(found.rows):
        aside = 0.5 * position / len(found.rows) - 0.25  # or intervals would cover each other
        points = [
            (x + aside, each.mean(), 0.0 if isnan(each.half()) else each.half())
            for x, column in zip(places, found.columns, strict=True)
            if (each := found.at.get((row, column)))
        ]
        x, y, half = zip(*points, strict=True)
        axes.errorbar(
            x, y, yerr=half, label=row, capsize=2, elinewidth=1, **Look(position).in_matplotlib()
        )
    axes.set_title(problem.name, loc="left", fontweight="bold")
    axes.set_xticks(places, found.columns)
    axes.set_xlabel(f"{found.across}. Intervals: 95 % t over {units(problem)}.")
    axes.set_ylabel(_label(problem, "test"))
    axes.grid(alpha=0.25, axis="y")
    axes.legend(fontsize="small")
    if problem.measure == "accuracy":
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}")


def _draw_ranking(axes: Any, problem: Problem) -> None:
    contenders = problem.contenders
    for position, contender in enumerate(contenders):
        look, half = Look(position), contender.half()
        axes.errorbar(
            contender.mean(), position, xerr=None if half != half else half, capsize=3,
            color=look.colour, fmt=look.marker, markersize=6,
        )  # fmt: skip
    axes.set_yticks(range(len(contenders)), [contender.name for contender in contenders])
    axes.invert_yaxis()
    axes.set_xlabel(f"{_label(problem, 'test')}, 95 %")
    axes.grid(alpha=0.25, axis="x")
    if problem.measure == "accuracy":
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}")


def _draw_differences(
    axes: Any, problem: Problem, pairs: Sequence[Comparison], against: str
) -> None:
    factor = 100 if problem.measure == "accuracy" else 1
    order = [contender.name for contender in problem.contenders]
    for place, pair in enumerate(pairs):
        look, middle = Look(order.index(pair.a)), factor * pair.difference
        low, high = (factor * end for end in pair.interval or (pair.difference, pair.difference))
        axes.errorbar(
            middle, place, xerr=[[middle - low], [high - middle]], capsize=3, color=look.colour,
            fmt=look.marker, markersize=6, markerfacecolor="white" if pair.verdict == "untold" else None,
        )  # fmt: skip
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(range(len(pairs)), [pair.a for pair in pairs])
    axes.invert_yaxis()
    unit = "points of accuracy" if problem.measure == "accuracy" else "lower loss"
    axes.set_xlabel(f"{unit} better than {against}, paired, 95 %\nhollow: cannot be told (Holm)")
    axes.grid(alpha=0.25, axis="x")


def _label(problem: Problem, split: str) -> str:
    return f"{problem.measure}{' (%)' * (problem.measure == 'accuracy')}, unseen {split} clients"


def _scale(axes: Any, side: Any, problem: Problem, seen: list[float]) -> None:
    scale = score_scale("", seen, problem.measure)
    axes.set_yscale(scale.kind)
    axes.set_ylim(scale.low, scale.high)
    side.set_minor_locator(_none())
    axes.set_yticks(scale.ticks, [f"{scale.factor * tick:.10g}" for tick in scale.ticks])


def _none() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()
