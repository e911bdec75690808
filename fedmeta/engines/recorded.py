"""The vectorised computation recorded once as a flat program, improved, and run from then on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

from fedmeta.engines.blocks import ClientFunction, Each, Result, add, join
from fedmeta.engines.memory import Chunks
from fedmeta.engines.vmap import lifted, summed
from fedmeta.settings import EngineSettings
from fedmeta.types import Params

KEPT = 16
"""Programs that an engine keeps: each is of one function and one set of shapes."""
aten = torch.ops.aten
VIEWS = (aten.view.default, aten._unsafe_view.default)
"""Operations that ask for strides which a pass may have changed; ``torch.reshape`` does not."""
Lift = Callable[[ClientFunction[Any, Any], Params, Any], Any]
"""From a function for one client to what it gives for a chunk of them."""
Pass = Callable[[GraphModule], Callable[..., Any]]
"""From a program to a function that computes the same in a better way."""


@dataclass(frozen=True)
class Program:
    """What was recorded of one function for one set of shapes."""

    how: Lift
    function: ClientFunction[Any, Any]
    shapes: list[Any]
    run: Callable[..., Any]


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
        shapes = [_kind(leaf) for leaf in tree_leaves((params, each))]
        for known in self.programs:
            if (known.how, known.function, known.shapes) == (how, function, shapes):
                return known.run(params, each)
        run = self._record(lambda *given: how(function, *given), params, each)
        self.programs.append(Program(how, function, shapes, run))
        del self.programs[:-KEPT]
        return run(params, each)

    def _record(self, function: Callable[..., Any], *example: Any) -> Callable[..., Any]:
        program = record(function, *example)
        for by in self.passes:
            program = improve(program, by, *example)
        return self._ready(program, *example)

    def _ready(self, program: GraphModule, *example: Any) -> Callable[..., Any]:
        """The program as it is to be run: here by torch, operation by operation."""
        return program


def record(function: Callable[..., Any], *example: Any) -> GraphModule:
    """What ``function(*example)`` computes as one flat program, for tensors of these shapes.

    Nothing in it writes into a tensor that is there: a pass may put a copy in the place of any value.
    What is the same is computed once, as the first layer of a batch that every inner step sees.
    """
    pure = torch.func.functionalize(function)
    program: GraphModule = make_fx(pure, tracing_mode="fake", _allow_non_fake_inputs=True)(*example)
    _compute_once(program.graph)
    program.graph.eliminate_dead_code()
    program.recompile()
    return program


def _compute_once(graph: Graph) -> None:
    """Make equal steps one. torch.fx has a pass for it, which takes random numbers for equal ones."""
    known: dict[Any, Node] = {}
    for node in graph.nodes:
        random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if node.op != "call_function" or random:
            continue
        key = (
            node.target,
            repr(node.args),
            repr(node.kwargs),
        )  # 1 == 1.0 in Python, and not for torch
        first = known.setdefault(key, node)
        if first is not node:
            node.replace_all_uses_with(first)
            graph.erase_node(node)


def improve(program: GraphModule, by: Pass, *example: Any) -> GraphModule:
    """A program after a pass.

    Unchanged if it reads strides, which would not be those that it was recorded with.
    """
    strided = any(node.target is aten.as_strided.default for node in program.graph.nodes)
    return program if strided else record(by(program), *example)


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device
