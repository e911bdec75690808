"""Who scores best on unseen test clients, how evenly, and who failed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

from simulations.fairness import gini, jain
from simulations.report.charts import interval_chart
from simulations.report.contenders import Contender, Problem
from simulations.report.figures import units
from simulations.report.looks import Look
from simulations.report.scales import Scale
from simulations.report.tables import Cell, Table, number, score
from strategies.evaluation import worst_decile


def ranking(problem: Problem) -> Table:
    """The best first, with intervals."""
    ends = [(c.mean(), 0.0 if c.half() != c.half() else c.half()) for c in problem.contenders]
    low, high = min(mean - half for mean, half in ends), max(mean + half for mean, half in ends)
    scale = Scale("", low, high if high > low else low + 1)
    return Table(
        "Ranking",
        f"{problem.measure.capitalize()} of unseen test clients, ± half of the 95 % t interval over "
        f"{units(problem)}. Intervals that overlap may still differ for sure, since contenders are "
        "compared on the same clients and seeds: see the pairs.",
        [
            "contender",
            "after adaptation",
            "before",
            "seeds",
            "rounds",
            "clients / round",
            "minutes",
        ],
        [_ranked(c, position, scale) for position, c in enumerate(problem.contenders)],
    )


def _ranked(contender: Contender, position: int, scale: Scale) -> list[Cell]:
    mean, half, measure = contender.mean(), contender.half(), contender.measure
    graphic = interval_chart(scale, mean, half, Look(position))
    return [
        named(contender, position),
        replace(score(mean, measure, half), graphic=graphic),
        score(contender.mean("before"), measure, contender.half("before")),
        number(len(contender.rows)),
        number(contender.rows[0]["rounds"]),
        number(contender.rows[0]["clients"]),
        number(fmean(row["minutes"] for row in contender.rows), ",.1f"),
    ]


def named(contender: Contender, position: int) -> Cell:
    """The contender, sorted by rank."""
    return Cell(contender.name, position, Look(position))


def fairness(problem: Problem) -> Table:
    """How evenly scores are spread over test clients; empty where rows hold no single clients."""
    accuracy = problem.measure == "accuracy"
    columns: dict[str, Callable[[Sequence[float]], float]] = {
        "worst tenth": _worst(problem.measure)
    }
    note = "Worst tenth: mean of the tenth of the test clients that fare worst. "
    if accuracy:  # both compare shares of a total, of which more must be better
        columns |= {"Gini": gini, "Jain": jain}
        note += "Gini is 0 and Jain is 1 where all clients score alike. "
    rows = [
        [
            named(contender, position),
            *(_mean_over_seeds(contender, of, name) for name, of in columns.items()),
            _helped(contender),
        ]
        for position, contender in enumerate(problem.contenders)
        if contender.has_clients
    ]
    return Table(
        "Fairness among test clients",
        note
        + "All after adaptation, means over the seeds. Helped: clients that score better after "
        "adaptation than before.",
        ["contender", *columns, "helped"],
        rows,
    )


def _worst(measure: str) -> Callable[[Sequence[float]], float]:
    if measure == "accuracy":
        return worst_decile
    return lambda losses: -worst_decile([-loss for loss in losses])


def _mean_over_seeds(
    contender: Contender, of: Callable[[Sequence[float]], float], name: str
) -> Cell:
    value = fmean(of(row["test_clients"]["after"][contender.measure]) for row in contender.rows)
    return score(value, contender.measure) if name == "worst tenth" else number(value, ".3f")


def _helped(contender: Contender) -> Cell:
    sign = 1 if contender.measure == "accuracy" else -1
    shares = []
    for row in contender.rows:
        before, after = (row["test_clients"][w][contender.measure] for w in ("before", "after"))
        shares.append(fmean(sign * (a - b) > 0 for b, a in zip(before, after, strict=True)))
    return Cell(f"{100 * fmean(shares):.0f} %", fmean(shares))


def failures(problem: Problem) -> Table:
    """Cells without results, which no number here includes."""
    return Table(
        "Failed",
        "These cells have no results and are in no number of this page.",
        ["cell", "seed", "reason"],
        [
            [Cell(str(row["name"])), number(row.get("seed")), Cell(str(row["failed"]))]
            for row in problem.failed
        ],
    )
