"""Whose machine a node runs on: what it holds, and what its owner allows a server to ask for."""

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedmeta.cohort import Cohort
from fedmeta.compression import traffic
from fedmeta.config import Experiment
from fedmeta.data.federation import SPLITS
from fedmeta.errors import ConfigError, RefusedError

STATES = "~/.local/state/fedmeta"
"""Where clients keep their state, unless the node config says ``states``."""
FLOWERS = ("partition-id", "num-partitions")
"""What Flower itself puts into the node config of a simulation."""
AGAIN = 1.0
"""Seconds between two alarms, where the first was not heard."""


@dataclass(frozen=True)
class Limits:
    """What is too much to ask of a device; 0 or empty: no limit."""

    max_steps: int = 0
    """Gradient steps of a client per round, or per evaluation."""
    max_episodes: int = 0
    """Episodes of a client per round, or per evaluation."""
    max_seconds: float = 0.0
    """For which a round, or an evaluation, may compute."""
    max_megabytes: float = 0.0
    """A message and its reply together, 1e6 bytes each."""
    min_examples: int = 0
    """That a client must hold before it takes part."""
    learners: str = ""
    """Names that are accepted, with spaces or commas between them."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            number = number and 0 <= value < float("inf")
            if not (isinstance(value, str) if each.name == "learners" else number):
                expected = "names of learners" if each.name == "learners" else "0 or more"
                raise ConfigError(
                    f"node config: {_key(each.name)} must be {expected}, got {value!r}"
                )

    @property
    def accepted(self) -> list[str]:
        """The learners by name; none: all."""
        return self.learners.replace(",", " ").split()

    def allow(self, what: str, asked: float, limit: str) -> None:
        """Refuse more than a limit. Raises RefusedError."""
        if (most := getattr(self, limit)) and asked > most:
            raise RefusedError(f"{what} are {asked:,.6g}, the owner allows {_key(limit)} {most:g}")

    def said(self) -> dict[str, Any]:
        """Those that there are, for a server."""
        return {_key(each.name): v for each in fields(self) if (v := getattr(self, each.name))}


@dataclass(frozen=True)
class Host:
    """The surroundings of a node."""

    states: Path
    """Folder of what its clients keep to themselves."""
    shard: Path | None = None
    """File of its client, or folder of files; without one, clients are those of the experiment."""
    log: Path | None = None
    """File that a person can read; beside the states of a client with a shard file."""
    limits: Limits = field(default_factory=Limits)
    trusted: bool = False
    """Whether the server is this machine's own, so that it may name files here."""

    @classmethod
    def of(cls, node_config: Mapping[str, Any]) -> "Host":
        """The host of a Flower node. Raises ConfigError for a key that means nothing."""
        limits = {_key(each.name): each.name for each in fields(Limits)}
        known = ("shard", "states", "log", *limits)
        for key in node_config:
            if key not in (*known, *FLOWERS):
                near = get_close_matches(key, known, n=1)
                meant = f" (did you mean {near[0]}?)" if near else ""
                raise ConfigError(
                    f"node config: {key} is not a setting{meant}; there are {', '.join(known)}"
                )
        asked = {name: node_config[key] for key, name in limits.items() if key in node_config}
        states, shard = _path(node_config, "states") or Path(STATES), _path(node_config, "shard")
        return cls(states.expanduser(), shard, log_of(node_config), Limits(**asked))


def log_of(node_config: Mapping[str, Any]) -> Path | None:
    """Where the owner reads what became of messages, also of those that the config itself fails."""
    beside = (_path(node_config, "states") or Path(STATES)).expanduser() / "log.txt"
    return _path(node_config, "log") or (beside if "shard" in node_config else None)


def _path(node_config: Mapping[str, Any], key: str) -> Path | None:
    return Path(str(node_config[key])).expanduser() if key in node_config else None


def permit(limits: Limits, experiment: Experiment, cohort: Cohort, deltas: int = 1) -> None:
    """Refuse what asks for more than the owner allows, or for so many deltas. Raises RefusedError."""
    learner, scored, federation = experiment.learner, experiment.evaluation, cohort.federation
    name = experiment.sections["learner"]["name"]
    if limits.accepted and name not in limits.accepted:
        accepted = ", ".join(limits.accepted)
        raise RefusedError(f"the learner is {name}, the owner allows learners {accepted}")
    limits.allow("the episodes of a round", learner.draws, "max_episodes")
    limits.allow("the episodes of an evaluation", scored.episodes, "max_episodes")
    if limits.max_megabytes:
        params = {
            name: torch.zeros(shape, dtype=cohort.dtype) for name, shape in cohort.shapes.items()
        }
        megabytes = traffic(params, experiment.wire, deltas) / 1e6
        limits.allow("the megabytes of a round", megabytes, "max_megabytes")
    steps = scored.steps * scored.episodes
    limits.allow("the gradient steps of an evaluation", steps, "max_steps")
    if limits.max_steps and len(train := np.array(federation.clients("train"))):
        longest = int(federation.lengths(train, "train").max())
        limits.allow("the gradient steps of a round", learner.steps(longest), "max_steps")
    if limits.min_examples:
        hosted = np.array([client for split in SPLITS for client in federation.clients(split)])
        sizes = federation.examples(hosted)
        if (least := int(sizes.min())) < limits.min_examples:
            raise RefusedError(
                f"client {hosted[sizes.argmin()]} holds {least} examples, the owner takes part from "
                f"min-examples {limits.min_examples:g}"
            )


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Stop what takes longer, where there is a limit. Raises RefusedError; for the main thread.

    The alarm comes again every second until it is heard: in a finaliser, or in the import of a module,
    Python prints what is raised and goes on.
    """
    if not seconds:
        yield
        return

    def stop(*_: object) -> None:
        raise _OverTimeError

    before = signal.signal(signal.SIGALRM, stop)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _OverTimeError as e:
        raise RefusedError(f"it took longer than the owner allows, max-seconds {seconds:g}") from e
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)  # an alarm may have cut the first one short
        signal.signal(signal.SIGALRM, before)


class _OverTimeError(BaseException):
    """Not an Exception: whoever catches what goes wrong with a client lets this one through."""


def _key(name: str) -> str:
    return name.replace("_", "-")
