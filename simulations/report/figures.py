"""How scores rise: with rounds and what they cost, and with inner steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from simulations.report.charts import BANDS, Frame, Line, line_chart, reach
from simulations.report.contenders import Problem, over_seeds
from simulations.report.looks import Look
from simulations.report.scales import Scale, amount_scale, byte_scale, score_scale
from simulations.report.validation import mean_curve, spent

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
    views = []
    for key, (choice, label, scale) in AXES.items():
        lines = _lines(problem, key)
        most = max((x for line in lines for x in line.x), default=0.0)
        if most:
            scores = score_scale(words, reach(lines), problem.measure)
            frame = Frame(scale(label, most), scores)
            svg = line_chart(f"{words}, against {choice}", ends(lines), frame, lines)
            views.append((choice, svg))
    return Figure("Learning", f"{capital(words)}. {bands(problem)}", views)


def _lines(problem: Problem, key: str) -> list[Line]:
    """Of the contenders that recorded the key."""
    found = [(Look(i), c, spent(c, key)) for i, c in enumerate(problem.contenders)]
    return [Line(look, c.name, x, *mean_curve(c)) for look, c, x in found if x]


def adaptation(problem: Problem) -> Figure:
    """Scores of test clients after each inner step on their support."""
    words = f"{problem.measure} by inner steps, unseen test clients"
    lines = []
    for position, contender in enumerate(problem.contenders):
        steps = list(zip(*(row["test"]["curve"] for row in contender.rows), strict=True))
        y, half = over_seeds(steps, problem.measure)
        lines.append(Line(Look(position), contender.name, list(range(len(y))), y, half))
    most = max(len(line.y) - 1 for line in lines)
    scores = score_scale(words, reach(lines), problem.measure)
    frame = Frame(amount_scale("inner steps on the client's support", most), scores)
    svg = line_chart(words, ends(lines), frame, lines)
    return Figure("Adaptation", f"{capital(words)}. {bands(problem)}", [("inner steps", svg)])


def bands(problem: Problem) -> str:
    """What the bands of the charts are."""
    mean = "mean over seeds" if seeds_of(problem) > 1 else "mean"
    if len(problem.contenders) > BANDS:
        return f"Lines: {mean}."
    return f"Lines: {mean}. Bands: 95 % t interval over {units(problem)}."


def units(problem: Problem) -> str:
    """What intervals are over."""
    if seeds_of(problem) == 1:
        return "clients"
    single = any(len(contender.rows) == 1 for contender in problem.contenders)
    return "seeds (where there is one seed over clients)" if single else "seeds"


def seeds_of(problem: Problem) -> int:
    """The most seeds that a contender has."""
    return max(len(contender.rows) for contender in problem.contenders)


def ends(lines: Sequence[Line]) -> str:
    """In words for those who do not see the chart."""
    return "; ".join(f"{line.name} from {line.y[0]:.4g} to {line.y[-1]:.4g}" for line in lines)


def capital(words: str) -> str:
    """The first letter as a capital, the others as they are."""
    return words[:1].upper() + words[1:]
