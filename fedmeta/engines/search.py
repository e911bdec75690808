"""The fastest engine for one function on the clients at hand, among those that are right."""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves

from fedmeta.engines.channels_last import ChannelsLast
from fedmeta.engines.compiled import Compiled
from fedmeta.engines.loop import Loop
from fedmeta.engines.lowrank import Lowrank
from fedmeta.engines.memory import lacks_memory
from fedmeta.engines.meter import peak_bytes
from fedmeta.engines.plans import UNTRIED, Plan
from fedmeta.engines.products import by_onednn, has_products
from fedmeta.engines.recorded import Recorded
from fedmeta.engines.vmap import Vmap
from fedmeta.engines.work import Work, difference
from fedmeta.errors import ConfigError
from fedmeta.settings import EngineSettings

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
NEAR = 2**26
"""Bytes of tensors that the first chunk takes: some two times a processor's cache."""
CANDIDATES: dict[str, Any] = {
    "vmap": Vmap,
    "recorded": Recorded,
    "channels_last": ChannelsLast,
    "lowrank": Lowrank,
}
VARIANTS: dict[str, Callable[[Recorded], Recorded]] = {
    "onednn": by_onednn,
    "compiled": Compiled.like,
}
"""What may make the programs of the fastest of them faster still, one after the other."""
_log = logging.getLogger(__name__)


class TooShortError(Exception):
    """All the work takes too little time to try this."""


class NoUseError(Exception):
    """The fastest engine has nothing that this could make faster; the message says what."""


class NotFiniteError(Exception):
    """The loop's own numbers are none, so nothing can be compared with them."""


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


def search(work: Work, settings: EngineSettings) -> tuple[Plan, Any]:
    """Time the engines, as long as that is a small part of all the work.

    An engine that does not give the loop's numbers in float64 is out, however fast it is. Raises
    ConfigError where ``engine.memory`` has no room for a client.
    """
    trials = begin(work, settings)
    for name in CANDIDATES:
        trials.consider(name, trials.fastest_chunk)
    for name in VARIANTS:
        trials.consider(name, getattr(trials, name))
    best, others = trials.best, trials.others
    others.pop("loop", None)
    return Plan(best.name, best.chunk, trials.loop.seconds / best.seconds, others), best.engine


def begin(work: Work, settings: EngineSettings) -> "Trials":
    """With the loop as the best so far. Raises ConfigError, and NotFiniteError."""
    first, most = clients_at_once(work, settings)
    probe = work.first(min(2, most))
    truth = probe.exact().run(Loop())
    if not all(leaf.isfinite().all() for leaf in tree_leaves(truth)):
        raise NotFiniteError
    loop = Found("loop", Loop(), 1, probe.seconds(Loop()))
    return Trials(work, probe, truth, first, most, loop, loop)


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
        if time.monotonic() > self.deadline:
            raise TooShortError
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

    def onednn(self, name: str) -> Found:
        """The best engine so far, its products of matrices computed by oneDNN."""
        if not any(map(has_products, self._programs())):
            raise NoUseError("has no product to compute")
        if time.monotonic() > self.deadline:
            raise TooShortError
        return self._variant(name)

    def compiled(self, name: str) -> Found:
        """The best engine so far as machine code."""
        operations = max((len(p.graph.nodes) for p in self._programs()), default=0)
        if not operations:
            raise NoUseError("has no program to start from")
        if PER_OPERATION * operations >= COMPILING * self.all_seconds:
            raise TooShortError
        return self._variant(name)

    def _variant(self, name: str) -> Found:
        """Adds in another order, and in float32 alone: there it may be ten times as far from float64."""
        before, chunk = self.best, self.best.chunk
        name = f"{before.name} + {name}"
        engine, some = build(name, chunk), self.work.first(chunk)

        def error(work: Work) -> float:
            exact = work.exact().run(before.engine)
            was, found = (difference(work.run(e), exact) for e in (before.engine, engine))
            return found - 10 * was

        def least_error() -> float:
            """A ReLU of a number that is 0 but for rounding goes either way: with few params of many."""
            return least(error(some.with_params_times(1 + k / 100)) for k in range(TRIES))

        return Found(name, engine, chunk, some.seconds(engine), least_error)

    def _programs(self) -> list[GraphModule]:
        return [program.run for program in getattr(self.best.engine, "programs", ())]

    def _first_that_fits(self, name: str) -> Found:
        chunk = min(self.most, self.first if self.best is self.loop else self.best.chunk)
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


def build(name: str, chunk: int) -> Any:
    """An engine by name, such as ``lowrank`` or ``lowrank + onednn + compiled``."""
    kind, *variants = name.split(" + ")
    engine = {"loop": Loop, **CANDIDATES}[kind].of(EngineSettings(chunk=chunk))
    for variant in variants:
        engine = VARIANTS[variant](engine)
    return engine


def least(errors: Iterable[float]) -> float:
    """The least of them; none is asked for after one that is small enough."""
    found = float("inf")
    for error in errors:
        found = min(found, error)
        if found <= EXACT:
            break
    return found


def clients_at_once(work: Work, settings: EngineSettings) -> tuple[int, int]:
    """How many to begin with, and at most: all, ``engine.chunk``, or what ``engine.memory`` can hold."""
    one, memory = peak_bytes(lambda: work.first(1).run(Loop())), settings.memory * 2**30
    if one > memory:
        raise ConfigError(
            f"engine.memory must be {one / 2**30:.2g} GiB or more for one client, "
            f"got {settings.memory:g}"
        )
    most = min(int(memory / one), work.clients, settings.chunk or work.clients)
    return max(1, min(most, int(NEAR / one), EngineSettings().most)), most
