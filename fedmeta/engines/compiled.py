"""Recorded programs made machine code by TorchInductor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.fx import GraphModule

from fedmeta.engines.lowrank import keep_factors
from fedmeta.engines.recorded import Recorded
from fedmeta.settings import EngineSettings

SHAPES = 2
"""Programs that an engine compiles, for each takes long: the chunks of a block have two sizes at most."""


@dataclass(frozen=True)
class Compiled(Recorded):
    """A recorded program with neighbouring operations fused. Needs a C++ compiler."""

    @classmethod
    def of(cls, settings: EngineSettings) -> "Compiled":
        """``engine.chunk``; by itself of what ``lowrank`` replays."""
        return cls(settings.most, (keep_factors,))

    @classmethod
    def like(cls, engine: Recorded) -> "Compiled":
        """Of what another engine replays."""
        return cls(engine.chunk, engine.passes)

    def _ready(self, program: GraphModule, *example: Tensor) -> Callable[..., Sequence[Tensor]]:
        compiled = [p for p in self.programs if not isinstance(p.run, GraphModule)]
        if len(compiled) >= SHAPES:
            return program
        from torch._inductor import compile  # half of what an import of fedmeta would take

        machine_code: Callable[..., Sequence[Tensor]] = compile(program, list(example))
        return machine_code
