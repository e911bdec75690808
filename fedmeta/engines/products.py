"""A pass over a recorded program that multiplies matrices by oneDNN.

torch multiplies float32 matrices by MKL, which uses half the width of a processor that is not
Intel's, and convolves by oneDNN, which uses all of it. ``search`` measures which is faster.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter

from fedmeta.engines.recorded import Recorded

aten = torch.ops.aten
_library: Any = torch.library.Library("fedmeta", "DEF")  # type: ignore[no-untyped-call]
_library.define("multiply(Tensor a, Tensor b) -> Tensor")
"""``a [n, m] @ b [m, k]``. An operator of our own, since TorchInductor takes oneDNN's for constants."""


def _multiply(a: Tensor, b: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")
    return product


_library.impl("multiply", _multiply, "CPU")
_library.impl("multiply", lambda a, b: a.new_empty(a.shape[0], b.shape[1]), "Meta")


def by_onednn(engine: Recorded) -> Recorded:
    """The engine with this pass as its last."""
    return replace(engine, passes=(*engine.passes, multiply_by_onednn), programs=[])


def has_products(program: GraphModule) -> bool:
    """Whether there is one that oneDNN can compute."""
    products = [node for node in program.graph.nodes if node.target is aten.mm.default]
    return any(_fits(node.meta["val"]) for node in products)


def multiply_by_onednn(program: GraphModule) -> Callable[..., Any]:
    """The program with its products so; to be recorded again (``program.improve``)."""
    return lambda *args: _Multiplied(program).run(*args)


class _Multiplied(Interpreter):
    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target is aten.mm.default and all(_fits(matrix) for matrix in args):
            target = torch.ops.fedmeta.multiply.default
        return super().call_function(target, args, kwargs)


def _fits(matrix: Tensor) -> bool:
    return matrix.dtype == torch.float32 and matrix.device.type == "cpu"
