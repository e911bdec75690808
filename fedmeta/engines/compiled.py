"""Recorded programs made machine code by TorchInductor."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch._inductor
from torch.fx import GraphModule

from fedmeta.engines.lowrank import Lowrank

SHAPES = 2
"""Programs that an engine compiles, for each takes long: the chunks of a block have two sizes at most."""


@dataclass(frozen=True)
class Compiled(Lowrank):
    """What ``lowrank`` replays, with neighbouring operations fused. Needs a C++ compiler."""

    def _ready(self, program: GraphModule, *example: Any) -> Callable[..., Any]:
        compiled = [p for p in self.programs if not isinstance(p.run, GraphModule)]
        if len(compiled) >= SHAPES:
            return program
        machine_code: Callable[..., Any] = torch._inductor.compile(program, list(example))
        return machine_code
