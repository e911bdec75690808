"""How scores rise: with rounds and what they cost, and with inner steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from markupsafe import Markup

from fedmeta.tracking.recorder import Row
from simulations.report.charts import Frame, Line, line_chart
from simulations.report.contenders import Contender, Problem, spread
from simulations.report.looks import Look
from simulations.report.scales import Scale, amount_scale, byte_scale, score_scale

AXES: dict[str, tuple[str, str, Callable[[str, float], Scale]]] = {
    "round": ("rounds", "rounds", amount_scale),
    "bytes": ("bytes", "sent and received by all clients", byte_scale),
    "client_updates": ("client updates", "client updates", amount_scale),
    "minutes": ("minutes", "minutes of training", amount_scale),
    "simulated_seconds": ("simulated time", "simulated seconds", amount_scale),
}
"""What scores are drawn against: by key of a validation point its choice, its label and its scale."""


@dataclass(frozen=True)
class Figure:
    """One or several views of the same, of which the reader chooses one."""

    title: str
    caption: str
    views: Sequence[tuple[str, Markup]]


def curves(problem: Problem) -> Figure:
    """Scores of unseen validation clients against what the training cost so far."""
    words = f"{problem.measure} after adaptation, unseen validation clients"
    lines = [_curve(contender, position) for position, contender in enumerate(problem.contenders)]
    y = score_scale(words, [score for line in lines for score in line.y], problem.measure)
    views = []
    for key, (choice, label, scale) in AXES.items():
        amounts = [spent(contender, key) for contender in problem.contenders]
        shown = [replace(line, x=x) for line, x in zip(lines, amounts, strict=True) if x]
        most = max((x for line in shown for x in line.x), default=0.0)
        if most:
            frame = Frame(scale(label, most), y)
            views.append(
                (choice, line_chart(f"{words}, against {choice}", ends(shown), frame, shown))
            )
    return Figure("Learning", f"{capital(words)}. {bands(problem)}", views)


def adaptation(problem: Problem) -> Figure:
    """Scores of test clients after each inner step on their support."""
    words = f"{problem.measure} by inner steps, unseen test clients"
    lines = []
    for position, contender in enumerate(problem.contenders):
        steps = zip(*(row["test"]["curve"] for row in contender.rows), strict=True)
        y, half = _over_seeds(list(steps), problem.measure)
        lines.append(Line(Look(position), contender.name, list(range(len(y))), y, half))
    y_scale = score_scale(words, [score for line in lines for score in line.y], problem.measure)
    frame = Frame(
        amount_scale("inner steps on the client's support", max(len(line.y) - 1 for line in lines)),
        y_scale,
    )
    svg = line_chart(words, ends(lines), frame, lines)
    return Figure("Adaptation", f"{capital(words)}. {bands(problem)}", [("inner steps", svg)])


def bands(problem: Problem) -> str:
    """What the bands of the charts are."""
    over = "seeds" if seeds_of(problem) > 1 else "clients"
    return f"Lines: mean{' over seeds' if over == 'seeds' else ''}. Bands: 95 % t interval over {over}."


def seeds_of(problem: Problem) -> int:
    """The most seeds that a contender has."""
    return max(len(contender.rows) for contender in problem.contenders)


def _shared_points(contender: Contender) -> list[tuple[Row, ...]]:
    """Validation points of the rounds that every seed has, a tuple over seeds for each."""
    by_round = [{point["round"]: point for point in row["val"]} for row in contender.rows]
    rounds = sorted(set.intersection(*(set(points) for points in by_round)))
    return [tuple(points[r] for points in by_round) for r in rounds]


def mean_curve(contender: Contender) -> tuple[list[float], list[float]]:
    """Validation scores, means over the seeds, and the half-widths of their intervals."""
    return _over_seeds(_shared_points(contender), contender.measure)


def _curve(contender: Contender, position: int) -> Line:
    return Line(Look(position), contender.name, [], *mean_curve(contender))


def spent(contender: Contender, key: str) -> list[float]:
    """What the points of ``mean_curve`` took, mean over the seeds; empty where it was not recorded."""
    amounts = [[spent_at(point, key) for point in seeds] for seeds in _shared_points(contender)]
    known = [[amount for amount in seeds if amount is not None] for seeds in amounts]
    return [fmean(seeds) for seeds in known] if known == amounts else []


def spent_at(point: Row, key: str) -> float | None:
    """What training had cost at a validation point; None where it was not recorded."""
    value: float | None = point.get(key) if point["round"] else 0.0
    return value


def _over_seeds(points: Sequence[Sequence[Row]], measure: str) -> tuple[list[float], list[float]]:
    means = [fmean(point[measure] for point in seeds) for seeds in points]
    return means, [spread(seeds, measure) for seeds in points]


def ends(lines: Sequence[Line]) -> str:
    """In words for those who do not see the chart."""
    return "; ".join(f"{line.name} from {line.y[0]:.4g} to {line.y[-1]:.4g}" for line in lines)


def capital(words: str) -> str:
    """The first letter as a capital, the others as they are."""
    return words[:1].upper() + words[1:]
