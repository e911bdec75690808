"""The baseline of each contender: the one that differs from it by a label alone."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from fedmeta.errors import ConfigError
from simulations.apart import within
from simulations.report.contenders import Contender, Problem
from simulations.report.settings import differing

PROTOCOL = ("rounds", "evaluation")
"""How long was trained, and how the params were chosen."""
INCIDENTAL = ("engine", "tracking", "published")
"""Sections that say nothing of what is compared."""


def with_baseline(problem: Problem, against: str) -> list[tuple[str, str]]:
    """Each contender and its baseline: the one of that name, or the one of its own labels but for that one.

    So in ``maml · median`` and ``reptile · median`` against ``fedadam``, each meets its own learner's.
    Raises ConfigError where several could be meant.
    """
    shared = _shared(problem)
    return [
        (contender.name, baseline)
        for contender in problem.contenders
        for baseline in _baselines(problem, contender, against, shared)
    ]


def without_baseline(
    problem: Problem, against: str, couples: Sequence[tuple[str, str]]
) -> list[str]:
    """Contenders that have none, and are none."""
    paired = {name for couple in couples for name in couple}
    return [
        contender.name
        for contender in problem.contenders
        if contender.name not in paired and against not in contender.labels.values()
    ]


def _baselines(problem: Problem, contender: Contender, against: str, shared: set[str]) -> list[str]:
    """By name, unless the name is a label of the grid that both are of; else one for each axis."""
    named = {each.name: each.labels for each in problem.contenders}.get(against)
    if named is not None:
        of_one_grid = named.keys() == contender.labels.keys()
        if not (of_one_grid and against in named.values()):
            return [against] if contender.name != against else []
    axes = [axis for axis, label in contender.labels.items() if label != against]
    found = (_baseline(problem, contender, axis, against, shared) for axis in axes)
    return [name for name in found if name is not None]


def _baseline(
    problem: Problem, contender: Contender, axis: str, against: str, shared: set[str]
) -> str | None:
    """Settings inside other axes may differ, as a grid's cases have it; then the nearest is taken."""
    kept = shared if axis == "base" else shared | {*PROTOCOL}  # bases have rounds of their own
    apart = {
        each.name: _apart(contender, each, axis)
        for each in problem.contenders
        if each.labels == contender.labels | {axis: against}
    }
    fitting = {
        name: len(keys) for name, keys in apart.items() if not any(_in(k, kept) for k in keys)
    }
    nearest = [name for name, count in fitting.items() if count == min(fitting.values())]
    if len(nearest) > 1:
        raise ConfigError(
            f"--against {against} could mean {' or '.join(nearest)} for {contender.name}; "
            "give one of them, or fewer RUNS"
        )
    return nearest[0] if nearest else None


def _apart(contender: Contender, other: Contender, axis: str) -> list[str]:
    """Keys in which the two differ besides the axis."""
    return [k for k in differing([contender.sections, other.sections]) if not _in(k, {axis})]


def _shared(problem: Problem) -> set[str]:
    """Keys that tell apart contenders of the same labels, which are of several comparisons."""
    groups: dict[Any, list[Contender]] = defaultdict(list)
    for each in problem.contenders:
        groups[frozenset(each.labels.items())].append(each)
    axes = {axis for each in problem.contenders for axis in each.labels}
    apart = {key for group in groups.values() for key in differing([c.sections for c in group])}
    return {key for key in apart if not _in(key, axes | {*INCIDENTAL})}


def _in(key: str, sections: set[str]) -> bool:
    return any(within(key, section) for section in sections)
