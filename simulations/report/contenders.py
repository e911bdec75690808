"""Rows sorted into problems, which are never mixed, and contenders, whose seeds belong together."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch

from fedmeta.tracking.plots import score_of
from fedmeta.tracking.recorder import Row
from simulations.grid_file import BETWEEN
from simulations.report.settings import differing
from strategies.evaluation import interval

SAME = ("name", "setting", "rounds", "evaluation", "episodes", "contents")
"""What the seeds of a contender have in common."""


@dataclass(frozen=True)
class Contender:
    """The seeds of one setting."""

    name: str
    rows: Sequence[Row]
    """The finished ones, in order of their seeds."""

    @property
    def measure(self) -> str:
        """``accuracy``, else ``loss``."""
        return score_of(self.rows[0]["test"]["after"])[0]

    @property
    def labels(self) -> dict[str, str]:
        """What it is on each axis of its grid; of a run that stands alone nothing."""
        return dict(self.rows[0]["labels"])

    @property
    def sections(self) -> Mapping[str, Any]:
        """Its config; rows of older comparisons have none."""
        return dict(self.rows[0].get("sections", {}))

    @property
    def has_clients(self) -> bool:
        """Whether its rows hold the scores of single test clients, as older ones do not."""
        return all(row.get("test_clients") for row in self.rows)

    def mean(self, when: str = "after") -> float:
        """Score of the test clients, mean over the seeds."""
        return fmean(row["test"][when][self.measure] for row in self.rows)

    def half(self, when: str = "after") -> float:
        """Half-width of the 95 % t interval: over seeds, with one seed over its clients."""
        return spread([row["test"][when] for row in self.rows], self.measure)


@dataclass(frozen=True)
class Problem:
    """What contenders had to solve; scores are comparable within, and nowhere else."""

    name: str
    contenders: Sequence[Contender]
    """The best first."""
    failed: Sequence[Row]
    known: bool
    """Older rows do not name their problem; then it is taken from how they were scored."""

    @property
    def measure(self) -> str:
        """``accuracy``, else ``loss``."""
        return self.contenders[0].measure

    @property
    def shared(self) -> list[str]:
        """The labels of axes in which contenders do not differ."""
        labels = [contender.labels for contender in self.contenders]
        return [
            label
            for axis, label in labels[0].items()
            if all(each.get(axis) == label for each in labels)
        ]

    @property
    def rows(self) -> list[Row]:
        """The finished ones."""
        return [row for contender in self.contenders for row in contender.rows]


def spread(points: Sequence[Row], measure: str) -> float:
    """Half-width of the 95 % t interval of points, one per seed; NaN where there is none."""
    if len(points) == 1:
        half = points[0].get(f"{measure}_ci95")
    else:
        half = interval(torch.tensor([p[measure] for p in points], dtype=torch.float64))
    return math.nan if half is None else float(half)


def over_seeds(points: Sequence[Sequence[Row]], measure: str) -> tuple[list[float], list[float]]:
    """Means and half-widths of the 95 % intervals of points ``[place][seed]``."""
    means = [fmean(point[measure] for point in seeds) for seeds in points]
    return means, [spread(seeds, measure) for seeds in points]


def problems(rows: Sequence[Row]) -> list[Problem]:
    """Rows by problem, in order of their names; cells that failed before theirs was known come last."""
    groups = list(_grouped(rows, _solved).values())
    found = [_problem(group) for group in groups]
    data = [{"data": group[0].get("sections", {}).get("data")} for group in groups]
    names = _told_apart([problem.name for problem in found], data)
    found = [replace(problem, name=name) for problem, name in zip(found, names, strict=True)]
    return sorted(found, key=lambda problem: (not problem.contenders, problem.name))


def _solved(row: Row) -> Any:
    """Its problem; rows of older comparisons do not name it, but how they were scored."""
    if row.get("problem") or row.get("failed"):
        return row.get("problem")
    scored = [row["evaluation"].get(key) for key in ("steps", "episodes", "transductive")]
    return [*scored, row["episodes"], row["test"]["clients"], score_of(row["test"]["after"])[0]]


def _problem(rows: Sequence[Row]) -> Problem:
    finished = [row for row in rows if not row.get("failed")]
    same = _grouped(finished, lambda row: [row.get(key) for key in SAME])
    groups = [seeds for group in same.values() for seeds in _seeds(group)]
    contenders = [
        Contender(name, group) for name, group in zip(_names(groups), groups, strict=True)
    ]
    better = -1 if contenders and contenders[0].measure == "accuracy" else 1
    contenders.sort(key=lambda c: (better * c.mean(), c.name))
    failed = [row for row in rows if row.get("failed")]
    return Problem(_title(rows[0]), contenders, failed, rows[0].get("problem") is not None)


def _title(row: Row) -> str:
    if row.get("problem_name"):
        return str(row["problem_name"])
    return "unknown problem" + (
        f", inner steps: {row['evaluation']['steps']}" if "test" in row else ""
    )


def _seeds(group: Sequence[Row]) -> list[list[Row]]:
    """In their order; a cell that was given twice, as folder and as row, counts once.

    A seed with other scores is another run, say of data that changed in their folder: none is left out.
    """
    found: list[dict[int, Row]] = []
    for row in group:
        fits = (each for each in found if _scores(each.get(row["seed"], row)) == _scores(row))
        seeds = next(fits, None)
        if seeds is None:
            found.append(seeds := {})
        seeds.setdefault(row["seed"], row)
    return [[seeds[seed] for seed in sorted(seeds)] for seeds in found]


def _scores(row: Row) -> Any:
    return row["test"]["after"]


def _grouped(rows: Sequence[Row], of: Callable[[Row], Any]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[json.dumps(of(row), sort_keys=True)].append(row)
    return groups


def _names(groups: Sequence[Sequence[Row]]) -> list[str]:
    firsts = [group[0] for group in groups]
    return _told_apart(_short(firsts), [row.get("sections", {}) for row in firsts])


def _told_apart(names: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Two of one name say in what their configs differ; where that does not do, they are numbered."""
    told = []
    for i, name in enumerate(names):
        twins = [config for each, config in zip(names, configs, strict=True) if each == name]
        at = names[:i].count(name)
        own = [f"{key}={values[at]}" for key, values in differing(twins).items()]
        told.append(" ".join([name, *own]))
    return [
        f"{name} #{1 + told[:i].count(name)}" if told.count(name) > 1 else name
        for i, name in enumerate(told)
    ]


def _short(rows: Sequence[Row]) -> list[str]:
    """Names without the labels that all share, where names are made of labels."""
    labels = [row["labels"] for row in rows]
    if len({tuple(each) for each in labels}) != 1:  # of different grids, or of none
        return [row["name"] for row in rows]
    varied = [axis for axis in labels[0] if len({each[axis] for each in labels}) > 1]
    return [
        BETWEEN.join(each[axis] for axis in varied) or row["name"]
        for row, each in zip(rows, labels, strict=True)
    ]
