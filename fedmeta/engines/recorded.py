"""The vectorised computation recorded once as a flat program, improved, and run from then on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from fedmeta.engines.blocks import ClientFunction, Each, Result, add, join
from fedmeta.engines.memory import Chunks
from fedmeta.engines.program import Pass, improve, record
from fedmeta.engines.vmap import lifted, summed
from fedmeta.settings import EngineSettings
from fedmeta.types import Params

KEPT = 16
"""Programs that an engine keeps: each is of one function and one set of shapes."""
Lift = Callable[[ClientFunction[Any, Any], Params, Any], Any]
"""From a function for one client to what it gives for a chunk of them."""


@dataclass(frozen=True)
class Program:
    """What was recorded of one function for one set of shapes."""

    how: Lift
    function: ClientFunction[Any, Any]
    shapes: list[Any]
    run: Callable[..., Sequence[Tensor]]
    """From the tensors of what it is given, one by one, to those of the result."""
    result: TreeSpec
    """The nest of what comes out."""


@dataclass(frozen=True)
class Recorded:
    """Runs clients in chunks by programs that hold no Python any more: no autograd, no vmap.

    A program is for one function and one set of shapes. Functions are told apart by ``==``, so they
    are values: two of the same settings share a program.
    """

    chunk: int
    passes: Sequence[Pass] = ()
    programs: list[Program] = field(default_factory=list, compare=False, repr=False)

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

    @cached_property
    def _chunks(self) -> Chunks:
        return Chunks(self.chunk)

    @torch.no_grad()
    def _run(
        self, how: Lift, function: ClientFunction[Any, Any], params: Params, each: Any
    ) -> list[Any]:
        """Chunk by chunk. What is computed only once is not worth recording."""
        compute = how if function.calls == 1 else partial(self._replay, how)
        return self._chunks.run(partial(compute, function, params), each)

    def _replay(
        self, how: Lift, function: ClientFunction[Any, Any], params: Params, each: Any
    ) -> Any:
        leaves, nest = tree_flatten((params, each))
        shapes = [_kind(leaf) for leaf in leaves]
        for known in self.programs:
            if (known.how, known.function, known.shapes) == (how, function, shapes):
                break
        else:
            known = self._record(how, function, shapes, leaves, nest)
            self.programs.append(known)
            del self.programs[:-KEPT]
        return tree_unflatten(known.run(*leaves), known.result)

    def _record(
        self,
        how: Lift,
        function: ClientFunction[Any, Any],
        shapes: list[Any],
        leaves: list[Tensor],
        nest: TreeSpec,
    ) -> Program:
        results = list[TreeSpec]()

        def flat(*leaves: Tensor) -> list[Tensor]:
            found, result = tree_flatten(how(function, *tree_unflatten(leaves, nest)))
            results.append(result)
            return found

        graph = record(flat, *leaves)
        for by in self.passes:
            graph = improve(graph, by, *leaves)
        run = self._ready(graph, *leaves)
        return Program(how, function, shapes, run, results[0])

    def _ready(self, program: GraphModule, *example: Tensor) -> Callable[..., Sequence[Tensor]]:
        """The program as it is to be run: here by torch, operation by operation."""
        return program


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device
