"""The vectorised computation recorded once as a flat program, improved, and run from then on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

from fedmeta.engines.blocks import ClientFunction, Each, Result, add, chunks, join
from fedmeta.engines.vmap import lifted, summed
from fedmeta.settings import EngineSettings
from fedmeta.types import Params

KEPT = 16
"""Programs that an engine keeps: each is of one function and one set of shapes."""
Pass = Callable[[GraphModule], Callable[..., Any]]
"""From a program to a function that computes the same in a better way."""


@dataclass(frozen=True)
class Recorded:
    """Runs clients in chunks by programs that hold no Python any more: no autograd, no vmap.

    A program is for one function and one set of shapes. Functions are told apart by ``==``, so they
    are values: two of the same settings share a program.
    """

    chunk: int
    passes: Sequence[Pass] = ()
    programs: list[tuple[Any, Any, GraphModule]] = field(
        default_factory=list, compare=False, repr=False
    )
    """Function, shapes, program."""

    @classmethod
    def of(cls, settings: EngineSettings) -> "Recorded":
        """``engine.chunk``."""
        return cls(settings.most)

    def map(self, function: ClientFunction[Each, Result], params: Params, each: Each) -> Result:
        """``function(params, each[client])`` of every client, stacked ``[clients, ...]``."""
        joined: Result = join(self._run(lifted, function, params, each))
        return joined

    def total(
        self, function: ClientFunction[Each, tuple[Params, Result]], params: Params, each: Each
    ) -> tuple[Params, Result]:
        """Of functions that give two things: the sum of the first over clients, the second stacked."""
        sums, rest = zip(*self._run(summed, function, params, each), strict=True)
        return add(sums), join(rest)

    @torch.no_grad()
    def _run(self, how: Any, function: Any, params: Params, each: Any) -> list[Any]:
        """Chunk by chunk. What is computed only once is not worth recording."""
        parts = chunks(each, self.chunk)
        if function.calls == 1:
            return [how(function, params, part) for part in parts]
        return [self._replay(how, function, params, part) for part in parts]

    def _replay(self, how: Any, function: Any, params: Params, each: Any) -> Any:
        shapes = [_kind(leaf) for leaf in tree_leaves((params, each))]
        for known, of, program in self.programs:
            if known == (how, function) and of == shapes:
                return program(params, each)
        program = self._record(lambda params, each: how(function, params, each), params, each)
        self.programs.append(((how, function), shapes, program))
        del self.programs[:-KEPT]
        return program(params, each)

    def _record(self, function: Callable[..., Any], *example: Any) -> GraphModule:
        program = record(function, *example)
        for improve in self.passes:
            program = record(improve(program), *example)
        return program


def record(function: Callable[..., Any], *example: Any) -> GraphModule:
    """What ``function(*example)`` computes as one flat program, for tensors of these shapes."""
    program: GraphModule = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(
        *example
    )
    program.graph.eliminate_dead_code()
    program.recompile()
    return program


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device
