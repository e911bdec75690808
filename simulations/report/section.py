"""Everything that is said of one problem."""

from collections.abc import Sequence
from dataclasses import dataclass

from simulations.report import pairwise
from simulations.report.client_figures import clients, distribution
from simulations.report.contenders import Problem
from simulations.report.costs import cost_to_reach
from simulations.report.crossed import crossed
from simulations.report.figures import Figure, adaptation, curves, seeds_of
from simulations.report.looks import Look
from simulations.report.ranking import failures, fairness, ranking
from simulations.report.settings import differing
from simulations.report.tables import Cell, Table, score_text


@dataclass(frozen=True)
class Section:
    """What a page or Markdown shows of a problem, in their order."""

    title: str
    facts: str
    headline: str
    statements: Sequence[str]
    """About the best contender and each other one."""
    others: Sequence[str]
    """About the pairs without the best."""
    remarks: Sequence[str]
    legend: Sequence[tuple[str, Look]]
    overview: Sequence[Table]
    figures: Sequence[Figure]
    distribution: Figure | None
    fairness: Table | None
    clients: Sequence[Figure]
    details: Sequence[Table]


def section(problem: Problem, target: float | None = None, against: str | None = None) -> Section:
    """``target`` is a score whose cost is told, None for the usual one; ``against`` names a baseline."""
    failed = [failures(problem)] if problem.failed else []
    if not problem.contenders:
        facts = "No cell has finished."
        return Section(problem.name, facts, "", [], [], [], [], failed, [], None, None, [], [])
    found, why = pairwise.comparisons(problem, against)
    best, order = problem.contenders[0], [c.name for c in problem.contenders]
    about, others = pairwise.statements(found, best.name if against is None else None)
    matrix = [pairwise.matrix(found, order)] if against is None else []
    both = crossed(problem, [] if against is None else found)
    pairs = pairwise.pairs(found, order)
    details = [pairs, cost_to_reach(problem, target), settings(problem)]
    evenly = fairness(problem)
    score = score_text(best.mean(), best.measure, best.half())
    return Section(
        title=problem.name,
        facts=_facts(problem),
        headline=f"{best.name} has the best mean on unseen test clients: {problem.measure} {score}.",
        statements=about,
        others=others,
        remarks=[why] * bool(why) + _remarks(problem),
        legend=[(c.name, Look(i)) for i, c in enumerate(problem.contenders)],
        overview=[
            table for table in (both, ranking(problem), *failed, *matrix) if table and table.rows
        ],
        figures=[curves(problem), adaptation(problem)],
        distribution=distribution(problem),
        fairness=evenly if evenly.rows else None,
        clients=clients(problem),
        details=[table for table in details if table.rows],
    )


def settings(problem: Problem) -> Table:
    """The keys whose values are not the same for all contenders, whose names head the columns."""
    configs = [contender.rows[0].get("sections", {}) for contender in problem.contenders]
    return Table(
        "Settings that differ",
        "Of the resolved configs; a dash where a key does not exist. All other keys are the same.",
        ["key", *(contender.name for contender in problem.contenders)],
        [[Cell(key), *map(Cell, values)] for key, values in differing(configs).items()],
    )


def _facts(problem: Problem) -> str:
    count, most = len(problem.contenders), seeds_of(problem)
    tested = sorted({row["test"]["clients"] for row in problem.rows})
    spoken = f"{tested[0]:,}" if len(tested) == 1 else f"{tested[0]:,} to {tested[-1]:,}"
    shared = f" All of them: {', '.join(problem.shared)}." if problem.shared else ""
    return (
        f"{count} contender{'s' * (count > 1)}, {most} seed{'s' * (most > 1)}, "
        f"{len(problem.rows)} finished and {len(problem.failed)} failed cells; "
        f"{spoken} unseen test clients each.{shared}"
    )


def _remarks(problem: Problem) -> list[str]:
    few = [c.name for c in problem.contenders if len(c.rows) < seeds_of(problem)]
    remarks = []
    if seeds_of(problem) == 1:
        remarks.append(
            "One seed: intervals are over clients of one training each. Another seed may turn the order."
        )
    if not problem.known:
        remarks.append(
            "These rows are of an older version: that they share a problem is taken from how many test "
            "clients they scored, and how."
        )
    if few:
        remarks.append(f"Fewer seeds than others: {', '.join(few)}.")
    return remarks
