"""The engine that is fastest for the work at hand: measured on the first cohort, then remembered."""

import logging
from dataclasses import dataclass, field
from typing import Any

from torch.utils._pytree import tree_leaves

from fedmeta.engines.blocks import ClientFunction, Each, Result
from fedmeta.engines.candidates import build
from fedmeta.engines.loop import Loop
from fedmeta.engines.plans import key_of, recall, remember
from fedmeta.engines.search import NotFiniteError, search
from fedmeta.engines.vmap import Vmap
from fedmeta.engines.work import Work
from fedmeta.errors import ConfigError
from fedmeta.settings import EngineSettings
from fedmeta.types import Params

FEW = 500
"""Computations of single clients, in all calls together, for which nothing is measured."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Planner:
    """Chooses once for every function and shape of a client, and computes with what it chose."""

    settings: EngineSettings
    chosen: list[tuple[Any, Any]] = field(default_factory=list, compare=False, repr=False)
    """For which kind of work which engine."""

    @classmethod
    def of(cls, settings: EngineSettings) -> "Planner":
        """``engine.chunk`` and ``engine.memory``, which are bounds."""
        return cls(settings)

    def map(self, function: ClientFunction[Each, Result], params: Params, each: Each) -> Result:
        """``function(params, each[client])`` of every client, stacked ``[clients, ...]``."""
        engine = self._engine(Work("map", function, params, each))
        result: Result = engine.map(function, params, each)
        return result

    def total(
        self, function: ClientFunction[Each, tuple[Params, Result]], params: Params, each: Each
    ) -> tuple[Params, Result]:
        """Of functions that give two things: the sum of the first over clients, the second stacked."""
        engine = self._engine(Work("total", function, params, each))
        result: tuple[Params, Result] = engine.total(function, params, each)
        return result

    def _engine(self, work: Work) -> Any:
        if work.clients == 1:
            return Loop()
        if work.function.calls * work.clients < FEW:
            return Vmap.of(self.settings)
        kind = (work.how, work.function, [leaf.shape[1:] for leaf in tree_leaves(work.each)])
        for known, engine in self.chosen:
            if known == kind:
                return engine
        engine = self._choose(work)
        if engine is None:
            return Vmap.of(self.settings)
        self.chosen.append((kind, engine))
        return engine

    def _choose(self, work: Work) -> Any:
        key = key_of(work.how, work.function, work.params, work.each, self.settings)
        if plan := recall(key):
            _log.info("engine for %s: %s, as measured before", work.function.purpose, plan)
            return build(plan.engine, plan.chunk)
        try:
            plan, engine = search(work, self.settings)
        except ConfigError:
            raise
        except NotFiniteError:
            return None  # another cohort will do
        except Exception as e:  # whatever a user's model does
            _log.warning("engine: vmap, nothing could be measured: %s: %s", type(e).__name__, e)
            return Vmap.of(self.settings)
        _log.info("engine for %s: %s", work.function.purpose, plan)
        remember(key, plan)
        return engine
