"""The readable engine: one client after the other. Every other engine must equal it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch.utils._pytree import tree_map

from fedmeta.settings import EngineSettings
from fedmeta.types import Episode, Params

Result = TypeVar("Result")
ClientFunction = Callable[[Params, Episode], Result]


@dataclass(frozen=True)
class Loop:
    """Runs clients one by one."""

    @classmethod
    def of(cls, settings: EngineSettings) -> "Loop":
        """Nothing to set."""
        return cls()

    def map(self, function: ClientFunction[Result], params: Params, episodes: Episode) -> Result:
        """``function(params, episodes[client])`` of every client, stacked ``[clients, ...]``."""
        results = [function(params, episodes.draw(c)) for c in range(len(episodes.support.y))]
        stacked: Result = tree_map(lambda *leaves: torch.stack(leaves), *results)
        return stacked
