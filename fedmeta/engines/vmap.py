"""Many clients as one batch, by ``torch.vmap``."""

from dataclasses import dataclass

import torch

from fedmeta.engines.loop import ClientFunction, Each, Result
from fedmeta.settings import EngineSettings
from fedmeta.types import Params


@dataclass(frozen=True)
class Vmap:
    """Runs clients in chunks, each chunk one vectorised call.

    The client function takes its own gradients and is lifted as a whole: differentiating outside of
    a vmapped function gives wrong second-order gradients through affine norms, without an error.
    """

    chunk: int
    """Clients per call."""

    @classmethod
    def of(cls, settings: EngineSettings) -> "Vmap":
        """``engine.chunk``."""
        return cls(settings.chunk)

    def map(self, function: ClientFunction[Each, Result], params: Params, each: Each) -> Result:
        """``function(params, each[client])`` of every client, stacked ``[clients, ...]``."""
        lifted = torch.vmap(function, in_dims=(None, 0), chunk_size=self.chunk)
        result: Result = lifted(params, each)
        return result
