"""A pass over a recorded program that keeps images with their channels last.

On a CPU torch pools and normalises such images several times as fast, and convolves them no slower.
Within a model's own Python the layout is lost at the first operation that does not keep it, and in
second-order gradients soon; in a flat program every operation can be seen to.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Interpreter
from torch.utils._pytree import tree_map

from fedmeta.engines.program import VIEWS
from fedmeta.engines.recorded import Recorded
from fedmeta.settings import EngineSettings

aten = torch.ops.aten
CONVOLUTIONS = (aten.convolution.default, aten.convolution_backward.default)


@dataclass(frozen=True)
class ChannelsLast(Recorded):
    """Recorded programs with channels last; by itself one client after the other.

    Several at once would lie beside each other between channels and pixels.
    """

    @classmethod
    def of(cls, settings: EngineSettings) -> "ChannelsLast":
        """``engine.chunk``."""
        return cls(settings.chunk or 1, (lay_channels_last,))


def has_images(program: GraphModule) -> bool:
    """Whether there is something to lay out."""
    return any(node.target in CONVOLUTIONS for node in program.graph.nodes)


def lay_channels_last(program: GraphModule) -> Callable[..., Any]:
    """The program with images laid out so; to be recorded again (``program.improve``)."""
    return lambda *args: _ChannelsLast(program).run(*args)


class _ChannelsLast(Interpreter):
    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target in CONVOLUTIONS:
            args = tree_map(_for_convolution, args)
        if target is aten.convolution_backward.default:
            return _backward(*args)
        result = super().call_function(torch.reshape if target in VIEWS else target, args, kwargs)
        return tree_map(_laid, result) if _makes_new(target) else result


def _backward(grads: Tensor, *rest: Any) -> tuple[Tensor | None, ...]:
    """Gradients of a convolution, that of its bias by a sum: oneDNN takes as long over it as over all."""
    *settings, (inputs, weight, bias) = rest
    found = aten.convolution_backward.default(grads, *settings, [inputs, weight, False])
    return *tree_map(_laid, found[:2]), grads.sum(dim=(0, 2, 3)) if bias else None


def _makes_new(target: Any) -> bool:
    """Whether its results share memory with nothing, so that copies of them may take their place."""
    return isinstance(target, OpOverload) and all(
        result.alias_info is None for result in target._schema.returns
    )


def _laid(value: Any) -> Any:
    """Images and what is like them. What was expanded stays so: its numbers are not there at all."""
    if not isinstance(value, Tensor) or value.dim() != 4 or 0 in value.stride():
        return value
    return value.contiguous(memory_format=torch.channels_last)


def _for_convolution(value: Any) -> Any:
    """With one channel both layouts are one, and only strides tell a convolution which is meant."""
    if not isinstance(value, Tensor) or value.dim() != 4:
        return value
    if value.is_contiguous(memory_format=torch.channels_last) and value.stride(1) == 1:
        return value
    return value.clone(memory_format=torch.channels_last)
