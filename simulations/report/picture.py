"""Learning curves and ranking of every problem as one picture, for a paper or a slide."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from simulations.report.charts import BANDS
from simulations.report.contenders import Problem
from simulations.report.figures import bands
from simulations.report.looks import Look
from simulations.report.scales import score_scale
from simulations.report.validation import mean_curve, spent


def picture(problems: Sequence[Problem]) -> bytes:
    """As PNG."""
    content = BytesIO()
    draw(problems).savefig(content, format="png")
    return content.getvalue()


def draw(problems: Sequence[Problem]) -> Any:
    """A row of two panels for each problem: validation scores by rounds, test scores with intervals."""
    from matplotlib.figure import Figure

    heights = [max(3.6, 0.8 + 0.34 * len(problem.contenders)) for problem in problems]
    figure = Figure(figsize=(12.0, sum(heights) + 0.4), dpi=120, layout="constrained")
    panels = figure.subplots(
        len(problems),
        2,
        squeeze=False,
        gridspec_kw={"width_ratios": [3, 2], "height_ratios": heights},
    )
    for (left, right), problem in zip(panels, problems, strict=True):
        _draw_curves(left, problem)
        _draw_ranking(right, problem)
    return figure


def _draw_curves(axes: Any, problem: Problem) -> None:
    seen: list[float] = []
    for position, contender in enumerate(problem.contenders):
        look, x = Look(position), spent(contender, "round")
        y, half = mean_curve(contender)
        axes.plot(x, y, label=contender.name, **look.in_matplotlib())
        if len(problem.contenders) <= BANDS:
            low, high = zip(*((m - h, m + h) for m, h in zip(y, half, strict=True)), strict=True)
            axes.fill_between(x, low, high, color=look.colour, alpha=0.13, linewidth=0)
        seen += y
    axes.set_title(problem.name, loc="left", fontweight="bold")
    axes.set_xlabel(f"rounds. {bands(problem)}")
    axes.set_ylabel(_label(problem, "validation"))
    axes.grid(alpha=0.25)
    _scale(axes, axes.yaxis, problem, seen)


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
