"""What a sweep has found: for the terminal, as a file of trials, and as the config of the best."""

import csv
from collections.abc import Sequence
from io import StringIO
from typing import Literal

from rich.table import Table

from simulations.sweep.file import Sweep
from simulations.sweep.space import Value
from simulations.sweep.study import Outcome

BEST = 10
"""Trials that the terminal shows."""


def shown_value(value: Value) -> str:
    """Numbers with four digits."""
    return value if isinstance(value, str) else f"{value:.4g}"


def shown_score(score: float, measure: str) -> str:
    """Accuracy in percent, or the loss."""
    return f"{100 * score:.2f} %" if measure == "accuracy" else f"{score:.4g}"


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted key, or so many parts that no two are alike."""
    names: dict[str, str] = {}
    for key in keys:
        parts = key.split(".")
        tails = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        others = [f".{other}" for other in keys if other != key]
        alone = [tail for tail in tails if not any(other.endswith(f".{tail}") for other in others)]
        names[key] = alone[0] if alone else key
    return names


def ranked(outcomes: Sequence[Outcome], measure: str) -> list[Outcome]:
    """Trials with a score, the best first."""
    found = [outcome for outcome in outcomes if outcome.state == "complete"]
    sign = -1 if measure == "accuracy" else 1
    return sorted(found, key=lambda outcome: sign * (outcome.score or 0.0))


def best_table(sweep: Sweep, outcomes: Sequence[Outcome]) -> Table:
    """The best trials, for a terminal."""
    found, names = ranked(outcomes, sweep.measure), short_names(list(sweep.space))
    title = (
        f"best of {len(outcomes)} trials, {sweep.measure} of validation clients after adaptation"
    )
    table = Table(
        title=title, title_justify="left", caption=_others(outcomes), caption_justify="left"
    )
    columns: list[tuple[str, Literal["left", "right"]]] = [
        ("trial", "right"), (sweep.measure, "right"), ("round", "right"),
        *((name, "right") for name in names.values()),
    ]  # fmt: skip
    for name, justify in columns:
        table.add_column(name, justify=justify, overflow="fold")
    for each in found[:BEST]:
        assert each.score is not None
        values = [shown_value(each.values[key]) for key in names]
        score = shown_score(each.score, sweep.measure)
        table.add_row(str(each.number), score, str(each.round), *values)
    return table


def trials_csv(sweep: Sweep, outcomes: Sequence[Outcome]) -> str:
    """A line for each trial. Accuracies from 0 to 1; the score of a pruned trial is the last seen."""
    text = StringIO()
    seeds = range(sweep.probe.seed, sweep.probe.seed + sweep.seeds)
    writer = csv.writer(text, lineterminator="\n")
    each_seed = [f"seed {seed}" for seed in seeds] if sweep.seeds > 1 else []
    writer.writerow(
        ["trial", "state", sweep.measure, *each_seed, "round", "seconds", *sweep.space, "reason"]
    )
    for one in outcomes:
        scores = [*one.scores, *[""] * sweep.seeds][: len(each_seed)]
        values = [one.values[key] for key in sweep.space]
        score = "" if one.score is None else one.score
        writer.writerow(
            [
                one.number,
                one.state,
                score,
                *scores,
                one.round,
                f"{one.seconds:.3f}",
                *values,
                one.reason,
            ]
        )
    return text.getvalue()


def best_config(sweep: Sweep, outcomes: Sequence[Outcome]) -> str:
    """All of the config of the best trial, for ``fedmeta run``."""
    best = ranked(outcomes, sweep.measure)[0]
    assert best.score is not None
    experiment = sweep.experiment(best.values, f"{sweep.name}-best")
    score = f"{sweep.measure} {shown_score(best.score, sweep.measure)}"
    return (
        f"# Trial {best.number} of {sweep.source.name}, the best of {len(outcomes)}: {score} on validation "
        f"clients.\n# No test client was looked at.\n{experiment.to_yaml()}"
    )


def _others(outcomes: Sequence[Outcome]) -> str | None:
    """How many trials have no score."""
    states = [outcome.state for outcome in outcomes]
    counts = {state: states.count(state) for state in ("pruned", "failed")}
    said = [f"{count} {state}" for state, count in counts.items() if count]
    return f"besides: {', '.join(said)}, see trials.csv" if said else None
