"""Many clients as one batch, by ``torch.vmap``."""

from dataclasses import dataclass
from functools import cached_property

import torch

from fedmeta.engines.blocks import (
    ClientFunction,
    Each,
    Result,
    add,
    client,
    clients_in,
    join,
    stack,
)
from fedmeta.engines.memory import Chunks
from fedmeta.settings import EngineSettings
from fedmeta.types import Params


@dataclass(frozen=True)
class Vmap:
    """Runs clients in chunks, each chunk one vectorised call.

    The client function takes its own gradients and is lifted as a whole: differentiating outside of
    a vmapped function gives wrong second-order gradients through affine norms, without an error.
    """

    chunk: int
    """Most clients per call."""

    @classmethod
    def of(cls, settings: EngineSettings) -> "Vmap":
        """``engine.chunk``."""
        return cls(settings.most)

    def map(self, function: ClientFunction[Each, Result], params: Params, each: Each) -> Result:
        """``function(params, each[client])`` of every client, stacked ``[clients, ...]``."""
        return join(self._chunks.run(lambda part: lifted(function, params, part), each))

    def total(
        self, function: ClientFunction[Each, tuple[Params, Result]], params: Params, each: Each
    ) -> tuple[Params, Result]:
        """Of functions that give two things: the sum of the first over clients, the second stacked."""
        parts = self._chunks.run(lambda part: summed(function, params, part), each)
        sums, rest = zip(*parts, strict=True)
        return add(sums), join(rest)

    @cached_property
    def _chunks(self) -> Chunks:
        return Chunks(self.chunk)


def lifted(function: ClientFunction[Each, Result], params: Params, each: Each) -> Result:
    """All clients in one call, stacked. For one there is nothing to lift, and plain calls are faster."""
    if clients_in(each) == 1:
        return stack([function(params, client(each, 0))])
    result: Result = torch.vmap(function, in_dims=(None, 0))(params, each)
    return result


def summed(
    function: ClientFunction[Each, tuple[Params, Result]], params: Params, each: Each
) -> tuple[Params, Result]:
    """All clients in one call: the sum of the first, the second stacked."""
    stack, rest = lifted(function, params, each)
    return {name: values.sum(dim=0) for name, values in stack.items()}, rest
