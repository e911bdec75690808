"""A pool of Ray actors, each of which does whole jobs one after the other, with its data resident.

Imports and Ray's start are paid once, and what a process keeps (decoded datasets, choices of engines)
serves all its jobs.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from fedmeta.errors import ConfigError, FedmetaError
from simulations.executors.ray import PATIENCE, connect, first_line, gpu_share

LIVES = 2
"""Actors that may die over one job before it has failed."""
TICK = 0.5
"""Seconds between two looks at what is under way."""
Job = TypeVar("Job")
Result = TypeVar("Result")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Done(Generic[Job, Result]):
    """A job that is over."""

    job: Job
    result: Result | None
    seconds: float
    """That it took inside its actor."""
    failure: str = ""
    """Why there is no result, in a line."""


@dataclass(frozen=True)
class _Under(Generic[Job]):
    """A job under way."""

    actor: int
    job: Job
    lives: int


class Actor:
    """A process of the pool."""

    def __init__(self, folder: Path) -> None:
        with suppress(OSError):  # of another machine; paths that are relative mean the same here
            os.chdir(folder)
        import simulations.run  # noqa: F401 (torch and Flower, before the first job)

    def do(self, work: Callable[[Any], Any], job: Any) -> tuple[Any, float, str]:
        """The result, the seconds it took, and what went wrong."""
        began = time.perf_counter()
        try:
            return work(job), time.perf_counter() - began, ""
        except Exception as e:
            said = str(e) if isinstance(e, FedmetaError) else f"{type(e).__name__}: {e}"
            return None, time.perf_counter() - began, " ".join(said.split())[:500]


class Pool:
    """``size`` actors on this machine, or on the Ray cluster at an address; else one for each CPU.

    ``most`` is how many could have something to do at a time.
    """

    def __init__(
        self, size: int | None = None, address: str | None = None, most: int | None = None
    ) -> None:
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            connect(address, "--address", size)
        try:
            have: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            self.size = size or max(1, int(have.get("CPU", 1)))
            self.size = min(self.size, most or self.size)
            if self.size > have.get("CPU", 0):
                raise ConfigError(
                    f"--jobs must be at most the {have.get('CPU', 0):g} CPUs of the Ray cluster, "
                    f"got {self.size}"
                )
            self._gpus = gpu_share(have.get("GPU", 0), self.size)
            self._actors = self._spawn(self.size)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """The pool is up."""
        return self

    def __exit__(self, *_: object) -> None:
        """Whatever happened, nothing goes on."""
        self.close()

    def run(
        self,
        work: Callable[[Job], Result],
        jobs: Iterable[Job],
        tick: Callable[[Sequence[Job]], None] = lambda jobs: None,
    ) -> Iterator[Done[Job, Result]]:
        """``work(job)`` of every job, as they end.

        Jobs are asked for one by one when an actor is free, so what comes next may depend on what came
        out; ``tick`` hears every half second what is under way. An actor that dies is replaced, and its
        job done again from its beginning, or from what it left on disk.
        """
        queue, idle = iter(jobs), list(range(self.size))
        under: dict[Any, _Under[Job]] = {}
        while True:
            while idle and (found := next(queue, _NONE)) is not _NONE:
                fresh = _Under(idle.pop(0), found, LIVES)
                under[self._begin(work, fresh)] = fresh
            if not under:
                return
            ready, _ = ray.wait(list(under), timeout=TICK)
            for answer in ready:
                was = under.pop(answer)
                done: Done[Job, Result] | None = self._end(answer, was)
                if done is None:
                    again = _Under(was.actor, was.job, was.lives - 1)
                    under[self._begin(work, again)] = again
                else:
                    idle.append(was.actor)
                    yield done
            tick([each.job for each in under.values()])

    def close(self) -> None:
        """End the actors, and Ray if it was started here."""
        if self._owns_ray:
            ray.shutdown()
            return
        for actor in getattr(self, "_actors", []):
            ray.kill(actor)

    def _begin(self, work: Callable[[Job], Result], one: _Under[Job]) -> Any:
        return self._actors[one.actor].do.remote(work, one.job)

    def _end(self, answer: Any, was: _Under[Job]) -> Done[Job, Result] | None:
        """None where the actor died and the job has another life."""
        try:
            return Done(was.job, *ray.get(answer))
        except RayTaskError as e:  # what came back cannot be sent
            return Done(was.job, None, 0.0, first_line(e))
        except RayError as e:
            reason = f"its worker died ({first_line(e)})"
            _log.warning("%s: %s", was.job, reason)
        (self._actors[was.actor],) = self._spawn(1)
        if was.lives > 1:
            return None
        return Done(was.job, None, 0.0, f"{LIVES} times over, {reason}")

    def _spawn(self, count: int) -> list[Any]:
        """New actors, once they are up. For one that fits nowhere Ray itself would wait for ever."""
        options = {"num_cpus": 1, "num_gpus": self._gpus, "max_restarts": 0}
        make: Any = ray.remote(Actor).options(**options)
        actors = [make.remote(Path.cwd()) for _ in range(count)]
        up = [actor.__ray_ready__.remote() for actor in actors]
        _, late = ray.wait(up, num_returns=count, timeout=PATIENCE)
        if late:
            raise FedmetaError(
                f"{len(late)} of {self.size} workers were not up within {PATIENCE:g} s: the Ray "
                "cluster has no room for them; what was begun goes on when the command is given again"
            )
        return actors


_NONE: Any = object()
