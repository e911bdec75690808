"""A function of tensors recorded as a flat list of operations, which passes then improve."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen

aten = torch.ops.aten
VIEWS = (aten.view.default, aten._unsafe_view.default)
"""Operations that ask for strides which a pass may have changed; ``torch.reshape`` does not."""
IDLE: dict[Any, float | None] = {
    aten.mul.Tensor: 1,
    aten.mul.Scalar: 1,
    aten.div.Tensor: 1,
    aten.div.Scalar: 1,
    **dict.fromkeys(VIEWS),
    aten.expand.default: None,
    aten.detach.default: None,
    aten.alias.default: None,
}
"""Operations that may change nothing, and with which number they do not; None where none is given."""
SUM = aten.sum.dim_IntList
Pass = Callable[[GraphModule], Callable[..., Any]]
"""From a program to a function that computes the same in a better way."""


def record(function: Callable[..., Any], *example: Tensor) -> GraphModule:
    """What ``function(*example)`` computes as one flat program, for tensors of these shapes.

    Nothing in it writes into a tensor that is there: a pass may put a copy in the place of any value.
    What is the same is computed once, as the first layer of a batch that every inner step sees; what
    changes nothing is left out.
    """
    pure = torch.func.functionalize(function)
    program: GraphModule = make_fx(pure, tracing_mode="fake", _allow_non_fake_inputs=True)(*example)
    program.graph.set_codegen(CodeGen())  # no nests to take apart in every call
    _leave_out_idle(program.graph)
    _compute_once(program.graph)
    _sum_at_once(program.graph)
    program.graph.eliminate_dead_code()
    program.recompile()
    return program


def _leave_out_idle(graph: Graph) -> None:
    """Take away steps whose result is what they are given: times one, shaped as it is."""
    for node in graph.nodes:
        if node.target in IDLE and _is_idle(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _is_idle(node: Node) -> bool:
    if not isinstance(node.args[0], Node):
        return False
    given, found = node.args[0].meta["val"], node.meta["val"]
    if (given.shape, given.stride(), given.dtype) != (found.shape, found.stride(), found.dtype):
        return False
    return IDLE[node.target] is None or node.args[1] == IDLE[node.target]


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


def _sum_at_once(graph: Graph) -> None:
    """Make a sum over one dimension after the other a sum over all of them, which reads once."""
    for node in graph.nodes:
        if node.target is not SUM:
            continue
        inner, dims, *rest = cast(tuple[Node, list[int], Any], node.args)
        kept = rest[:1] == [True] and inner.args[2:] == (True,)  # or the shape would be another
        if kept and inner.target is SUM and len(inner.users) == 1:
            value, more = cast(tuple[Node, list[int]], inner.args[:2])
            rank = value.meta["val"].dim()
            node.args = (value, sorted({dim % rank for dim in [*dims, *more]}), *rest)


def improve(program: GraphModule, by: Pass, *example: Any) -> GraphModule:
    """A program after a pass.

    Unchanged if it reads strides, which would not be those that it was recorded with.
    """
    strided = any(node.target is aten.as_strided.default for node in program.graph.nodes)
    return program if strided else record(by(program), *example)
