"""The readable engine: one client after the other. Every other engine must equal it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch.utils._pytree import tree_leaves, tree_map

from fedmeta.settings import EngineSettings
from fedmeta.types import Params

Each = TypeVar("Each")
Result = TypeVar("Result")
ClientFunction = Callable[[Params, Each], Result]


@dataclass(frozen=True)
class Loop:
    """Runs clients one by one."""

    @classmethod
    def of(cls, settings: EngineSettings) -> "Loop":
        """Nothing to set."""
        return cls()

    def map(self, function: ClientFunction[Each, Result], params: Params, each: Each) -> Result:
        """``function(params, each[client])`` of every client, stacked ``[clients, ...]``."""
        clients = range(len(tree_leaves(each)[0]))
        results = [function(params, tree_map(lambda leaf, c=c: leaf[c], each)) for c in clients]
        stacked: Result = tree_map(lambda *leaves: torch.stack(leaves), *results)
        return stacked
