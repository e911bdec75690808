"""Engines timed one after the other on the same work, and compared with the loop."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.fx import GraphModule

from fedmeta.engines.candidates import NEEDS, build, programs
from fedmeta.engines.memory import lacks_memory
from fedmeta.engines.plans import UNTRIED
from fedmeta.engines.work import Work, difference

PART = 0.05
"""Of the time that all calls would take, what the search may take."""
COMPILING = 0.25
"""The same for a compiler, which makes small programs two to four times as fast."""
PER_OPERATION = 0.1
"""Seconds that it takes for an operation of a program, on a busy machine."""
EXACT = 1e-6
"""Greatest error against the loop in float64, relative to the greatest number of a part. Rounding is
some 1e-15, and 1e-8 where Adam divides a gradient that is 0 but for rounding; a wrong formula is 1e-4."""
TRIES = 5
"""Params with which a variant may be compared until the numbers agree; what is wrong is so with all."""
WORTH = 1.1
"""How much faster than the best so far a larger chunk must be."""
_log = logging.getLogger(__name__)


class TooShortError(Exception):
    """All the work takes too little time to try this."""


class NoUseError(Exception):
    """The fastest engine has nothing that this could make faster; the message says what."""


@dataclass(frozen=True)
class Found:
    """An engine that was timed."""

    name: str
    engine: Any
    chunk: int
    seconds: float
    """Per client."""
    error: Callable[[], float] = lambda: 0.0
    """Relative to the greatest number, computed when asked for."""


@dataclass
class Trials:
    """Engines tried one after the other on the same work."""

    work: Work
    probe: Work
    """Of it, what the numbers are checked on."""
    truth: Any
    """What the loop gives for that in float64."""
    first: int
    """Clients in a chunk to begin with."""
    most: int
    loop: Found
    best: Found
    timed: list[Found] = field(default_factory=list)
    others: dict[str, str] = field(default_factory=dict)
    """What became of them."""
    begun: float = field(default_factory=time.monotonic)

    @property
    def all_seconds(self) -> float:
        """What all calls take with the best engine so far."""
        return self.work.function.calls * self.work.clients * self.best.seconds

    @property
    def deadline(self) -> float:
        """When the search has taken its part."""
        return self.begun + PART * self.all_seconds

    def consider(self, name: str, find: Callable[[str], Found]) -> None:
        """Take an engine as the best, or say why not."""
        try:
            found = find(name)
            self.timed.append(found)
            faster = found.seconds < self.best.seconds
            error = found.error() if faster else 0.0
        except TooShortError:
            self.others[name] = UNTRIED
        except NoUseError as e:
            self.others[name] = str(e)
        except Exception as e:  # whatever a user's model does under vmap
            self.others[name] = f"failed with {type(e).__name__}"
            _log.debug("the engine %s cannot compute this", name, exc_info=True)
        else:
            if faster and error <= EXACT:
                self.others[self.best.name] = self._speedup(self.best)
                self.best = found
            else:
                wrong = f", but wrong by {error:.0e}" if faster else ""
                self.others[name] = self._speedup(found) + wrong

    def fastest_chunk(self, name: str) -> Found:
        """The chunk is doubled, or else halved, as long as that pays and there is time."""
        self._check_use(name, [p for found in self.timed for p in programs(found.engine)])
        best = begin = self._first_that_fits(name)
        for factor in (2.0, 0.5):
            while time.monotonic() < self.deadline:
                chunk = max(1, min(self.most, int(factor * best.chunk)))
                other = self._time(name, chunk) if chunk != best.chunk else best
                if other is None or other.seconds * WORTH > best.seconds:
                    break
                best = other
            if best is not begin:
                break
        return best

    def bases(self) -> list[Found]:
        """Of every kind of engine that replays programs the fastest, if it is half as fast as the best."""
        kinds = dict[str, Found]()
        for found in sorted(self.timed, key=lambda found: found.seconds):
            if found.seconds <= 2 * self.best.seconds and programs(found.engine):
                kinds.setdefault(found.name.split(" + ")[0], found)
        return list(kinds.values())

    def variant(self, trusted: Found, base: Found, name: str) -> Found:
        """Adds in another order, and in float32 alone: there it may be ten times as far from float64.

        That is what an engine finds which the loop agreed with in float64, ``trusted``.
        """
        self._check_use(name.split(" + ")[-1], programs(base.engine))
        engine, some = build(name, base.chunk), self.work.first(base.chunk)

        def error(work: Work) -> float:
            exact = work.exact().run(trusted.engine)
            was, found = (difference(work.run(e), exact) for e in (trusted.engine, engine))
            return found - 10 * was

        def least_error() -> float:
            """A ReLU of a number that is 0 but for rounding goes either way: with few params of many."""
            return least(error(some.with_params_times(1 + k / 100)) for k in range(TRIES))

        return Found(name, engine, base.chunk, some.seconds(engine), least_error)

    def _check_use(self, name: str, programs: Sequence[GraphModule]) -> None:
        """Raise where there is no time for it, or nothing that it could do."""
        needs, without = NEEDS.get(name, (bool, ""))
        if programs and not any(map(needs, programs)):
            raise NoUseError(without)
        spent, part = time.monotonic() - self.begun, PART
        if name == "compiled":
            spent += PER_OPERATION * max(len(program.graph.nodes) for program in programs)
            part = COMPILING
        if spent >= part * self.all_seconds:
            raise TooShortError

    def _first_that_fits(self, name: str) -> Found:
        begin = self.first if self.best is self.loop else self.best.chunk
        alone = build(name, None).chunk == 1  # as channels_last has it
        chunk = 1 if alone else min(self.most, begin)
        while chunk > 1:
            if found := self._time(name, chunk):
                return found
            chunk //= 2
        return self._found(name, 1)

    def _time(self, name: str, chunk: int) -> Found | None:
        """None where there is no memory for so many."""
        try:
            return self._found(name, chunk)
        except Exception as e:
            if lacks_memory(e):
                return None
            raise

    def _found(self, name: str, chunk: int) -> Found:
        engine = build(name, chunk)
        return Found(
            name,
            engine,
            chunk,
            self.work.first(chunk).seconds(engine),
            lambda: self._wrong_by(build(name, min(chunk, self.probe.clients))),
        )

    def _wrong_by(self, engine: Any) -> float:
        return difference(self.probe.exact().run(engine), self.truth)

    def _speedup(self, found: Found) -> str:
        return f"{self.loop.seconds / found.seconds:.1f}x"


def least(errors: Iterable[float]) -> float:
    """The least of them; none is asked for after one that is small enough."""
    found = float("inf")
    for error in errors:
        found = min(found, error)
        if found <= EXACT:
            break
    return found
