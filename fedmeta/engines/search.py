"""The fastest engine for one function on the clients at hand, among those that are right."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from fedmeta.engines.blocks import clients_in, some
from fedmeta.engines.loop import Loop
from fedmeta.engines.lowrank import Lowrank
from fedmeta.engines.meter import peak_bytes
from fedmeta.engines.plans import Plan
from fedmeta.engines.recorded import Recorded
from fedmeta.engines.vmap import Vmap
from fedmeta.errors import ConfigError
from fedmeta.settings import EngineSettings
from fedmeta.types import Params

PART = 0.05
"""Of the time that all calls would take, what the search may take."""
EXACT = 1e-6
"""Greatest error against the loop in float64, relative to the greatest number of a part. Rounding is
some 1e-15, and 1e-8 where Adam divides a gradient that is 0 but for rounding; a wrong formula is 1e-4."""
WORTH = 1.1
"""How much faster than the best so far a larger chunk or another engine must be."""
CANDIDATES: dict[str, Any] = {"vmap": Vmap, "recorded": Recorded, "lowrank": Lowrank}
_log = logging.getLogger(__name__)


class NotFiniteError(Exception):
    """The loop's own numbers are none, so nothing can be compared with them."""


@dataclass(frozen=True)
class Work:
    """One call of an engine."""

    how: str
    """``map`` or ``total``."""
    function: Any
    params: Params
    each: Any

    @property
    def clients(self) -> int:
        """In the block."""
        return clients_in(self.each)

    def first(self, count: int) -> "Work":
        """The same for the first clients alone."""
        return replace(self, each=some(self.each, 0, count))

    def exact(self) -> "Work":
        """The same in float64."""
        params, each = tree_map(
            lambda leaf: leaf.double() if leaf.is_floating_point() else leaf,
            (self.params, self.each),
        )
        return replace(self, params=params, each=each)

    def run(self, engine: Any) -> Any:
        """The result."""
        return getattr(engine, self.how)(self.function, self.params, self.each)

    def seconds(self, engine: Any) -> float:
        """Per client: the best of three, after what the first call prepares."""
        self.run(engine)
        return min(_timed(lambda: self.run(engine)) for _ in range(3)) / self.clients


@dataclass(frozen=True)
class Found:
    """An engine that was timed."""

    name: str
    engine: Any
    chunk: int
    seconds: float
    """Per client."""


def search(work: Work, settings: EngineSettings) -> tuple[Plan, Any]:
    """Time the engines, as long as that is a small part of all the work.

    An engine that does not give the loop's numbers in float64 is out, however fast it is. Raises
    ConfigError where ``engine.memory`` has no room for a client.
    """
    begun, others = time.monotonic(), dict[str, str]()
    most = most_clients(work, settings)
    probe = work.first(min(2, most))
    truth = probe.exact().run(Loop())
    if not all(leaf.isfinite().all() for leaf in tree_leaves(truth)):
        raise NotFiniteError
    best = loop = Found("loop", Loop(), 1, probe.seconds(Loop()))
    for name in CANDIDATES:
        deadline = begun + PART * work.function.calls * work.clients * best.seconds
        if time.monotonic() > deadline:
            others[name] = "not tried, the run is too short"
            continue
        try:
            start = EngineSettings().most if best is loop else best.chunk
            found = fastest_chunk(work, name, start, most, deadline)
            faster = found.seconds * WORTH < best.seconds
            error = (
                difference(probe.exact().run(build(name, probe.clients)), truth) if faster else 0.0
            )
        except Exception as e:  # whatever a user's model does under vmap
            others[name] = f"failed with {type(e).__name__}"
            _log.debug("the engine %s cannot compute this", name, exc_info=True)
            continue
        speedup = f"{loop.seconds / found.seconds:.1f}x"
        if faster and error <= EXACT:
            others[best.name] = f"{loop.seconds / best.seconds:.1f}x"
            best = found
        else:
            others[name] = f"{speedup}, but wrong by {error:.0e}" if faster else speedup
    others.pop("loop", None)
    return Plan(best.name, best.chunk, loop.seconds / best.seconds, others), best.engine


def build(name: str, chunk: int) -> Any:
    """An engine by name."""
    return {"loop": Loop, **CANDIDATES}[name].of(EngineSettings(chunk=chunk))


def fastest_chunk(work: Work, name: str, start: int, most: int, deadline: float) -> Found:
    """From ``start`` the chunk is doubled, or else halved, as long as that pays and there is time."""
    best = begin = _first_that_fits(work, name, min(start, most))
    for factor in (2.0, 0.5):
        while time.monotonic() < deadline:
            chunk = max(1, min(most, int(factor * best.chunk)))
            other = _time(work, name, chunk) if chunk != best.chunk else best
            if other is None or other.seconds * WORTH > best.seconds:
                break
            best = other
        if best is not begin:
            break
    return best


def _first_that_fits(work: Work, name: str, chunk: int) -> Found:
    while chunk > 1:
        if found := _time(work, name, chunk):
            return found
        chunk //= 2
    engine = build(name, 1)
    return Found(name, engine, 1, work.first(1).seconds(engine))


def _time(work: Work, name: str, chunk: int) -> Found | None:
    """None where there is no memory for so many."""
    engine = build(name, chunk)
    try:
        return Found(name, engine, chunk, work.first(chunk).seconds(engine))
    except (RuntimeError, MemoryError):  # torch raises its own or a plain RuntimeError
        return None


def most_clients(work: Work, settings: EngineSettings) -> int:
    """How many clients a chunk may hold: all, ``engine.chunk``, or what ``engine.memory`` has room for."""
    one, memory = peak_bytes(lambda: work.first(1).run(Loop())), settings.memory * 2**30
    if one > memory:
        raise ConfigError(
            f"engine.memory must be {one / 2**30:.2g} GiB or more for one client, "
            f"got {settings.memory:g}"
        )
    return min(int(memory / one), work.clients, settings.chunk or work.clients)


def difference(found: Any, truth: Any) -> float:
    """The greatest error of any part, relative to the part's greatest number; NaN if there is any."""
    parts = truth if isinstance(truth, dict) else range(len(truth))
    errors = [_relative_error(tree_leaves(found[p]), tree_leaves(truth[p])) for p in parts]
    return float(torch.stack(errors).max())


def _relative_error(found: list[Tensor], truth: list[Tensor]) -> Tensor:
    """Of no numbers at all it is 0."""
    nothing = torch.zeros((), dtype=torch.float64)
    errors = [(f - t).abs().max().to(nothing) for f, t in zip(found, truth, strict=True)]
    scale = torch.stack([nothing, *(t.abs().max().to(nothing) for t in truth)]).max()
    return torch.stack([nothing, *errors]).max() / scale.clamp(min=1e-300)


def _timed(compute: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    result = compute()
    for leaf in tree_leaves(result)[:1]:
        if leaf.is_cuda:
            torch.cuda.synchronize(leaf.device)
    return time.perf_counter() - begun
