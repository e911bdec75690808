"""Every test client: how scores are spread, and what adaptation changed for each."""

from dataclasses import replace
from itertools import accumulate

import numpy as np

from simulations.report.charts import Frame, Line, dot_chart, line_chart
from simulations.report.contenders import Contender, Problem
from simulations.report.figures import Figure, capital, ends, seeds_of
from simulations.report.looks import Look
from simulations.report.scales import Scale, client_scale

SHARES = Scale("", 0.0, 1.0, factor=100, unit=" %")


def distribution(problem: Problem) -> Figure | None:
    """How many test clients score at most so much after adaptation; none where rows hold no clients."""
    words = f"share of unseen test clients with at most this {problem.measure} after adaptation"
    lines = [
        line for position, c in enumerate(problem.contenders) for line in _spread(c, Look(position))
    ]
    if not lines:
        return None
    values = [score for line in lines for score in line.x]
    x = client_scale(f"{problem.measure} of a client after adaptation", values, problem.measure)
    seeds = " The clients of all seeds are counted together." if seeds_of(problem) > 1 else ""
    svg = line_chart(
        words, ends([replace(line, y=line.x) for line in lines]), Frame(x, SHARES), lines
    )
    return Figure("Distribution", f"{capital(words)}.{seeds}", [("share", svg)])


def _spread(contender: Contender, look: Look) -> list[Line]:
    scores = client_scores(contender, "after")
    if not scores:
        return []
    levels, counts = np.unique(scores, return_counts=True)
    shares = [count / len(scores) for count in accumulate(counts.tolist(), initial=0)]
    x = [float(levels[0]), *levels.tolist()]
    return [Line(look, contender.name, x, shares, steps=True)]


def clients(problem: Problem) -> list[Figure]:
    """For each contender, every test client before and after adaptation."""
    found = [(c, client_scores(c, "before"), client_scores(c, "after")) for c in problem.contenders]
    values = [score for _, before, after in found for score in before + after]
    if not values:
        return []
    scale, sign = client_scale("before", values, problem.measure), _sign(problem)
    frame = Frame(scale, replace(scale, label="after"), 230, 230)
    figures = []
    for position, (contender, before, after) in enumerate(found):
        pairs = list(zip(before, after, strict=True))
        better = sum(sign * (b - a) < 0 for b, a in pairs)
        caption = f"{better:,} of {len(pairs):,} score better after adaptation."
        title = f"{contender.name}: {problem.measure} of every client before and after adaptation"
        svg = dot_chart(title, caption, frame, pairs, Look(position))
        figures.append(Figure(contender.name, caption, [("clients", svg)]))
    return figures


def _sign(problem: Problem) -> int:
    return 1 if problem.measure == "accuracy" else -1


def client_scores(contender: Contender, when: str) -> list[float]:
    """One score for each client and seed; none where the rows are too old to hold them."""
    if not contender.has_clients:
        return []
    found = [row["test_clients"][when][contender.measure] for row in contender.rows]
    return [score for scores in found for score in scores]
