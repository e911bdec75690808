"""A pass over a recorded program that keeps outer products of a few rows as their two factors.

The gradient of a linear layer with a few examples is an outer product, ``G = D^T A`` with as many
rows as examples, so the adapted weights of a client are ``W - lr D^T A``: they need not be formed.
What they are multiplied with goes through the shared ``W``, one product for all clients, and through
the thin factors. All is exact, and autograd has already run: second order included.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter
from torch.utils._pytree import tree_map

from fedmeta.engines.factors import Entrywise, LowRank, Value, thin
from fedmeta.engines.program import VIEWS
from fedmeta.engines.recorded import Recorded
from fedmeta.settings import EngineSettings

aten = torch.ops.aten


@dataclass(frozen=True)
class Lowrank(Recorded):
    """Recorded programs with outer products left unformed."""

    @classmethod
    def of(cls, settings: EngineSettings) -> "Lowrank":
        """``engine.chunk``."""
        return cls(settings.most, (keep_factors,))


def keep_factors(program: GraphModule) -> Callable[..., Any]:
    """The program with outer products left unformed; to be recorded again (``program.improve``)."""
    return lambda *args: _form(_Factored(program).run(*args))


class _Factored(Interpreter):
    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule = RULES.get(target)
        found = rule(*args) if rule and not kwargs else None
        if found is not None:
            return found
        if target in VIEWS:
            target = torch.reshape  # a product's strides are not those of what it stands for
        return super().call_function(target, *_form((args, kwargs)))


def _form(values: Any) -> Any:
    return tree_map(lambda v: v.dense if isinstance(v, LowRank | Entrywise) else v, values)


def _multiply(a: Value, b: Value) -> Value | None:
    """``a @ b`` for every client."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return LowRank(a, b) if thin(a.shape[2], a.shape[1], b.shape[2]) else None
    if isinstance(a, Tensor) and isinstance(b, LowRank):
        return b.left_times(a)
    if isinstance(a, LowRank) and isinstance(b, Tensor):
        return a.mT.left_times(b.mT).mT
    if isinstance(a, LowRank) and isinstance(b, LowRank):
        if a.shared is None:
            return LowRank(a.left, b.left_times(a.right))
        if b.shared is None:
            return LowRank(a.mT.left_times(b.left.mT).mT, b.right)
    return None


def _scale(a: Any, b: Any) -> Value | None:
    """Times a number, or one number for each client; or entry by entry."""
    if isinstance(a, LowRank) and isinstance(b, LowRank):
        return Entrywise(a, b) if a.shape == b.shape else None
    if isinstance(b, LowRank):
        a, b = b, a
    if not isinstance(a, LowRank):
        return None
    if isinstance(b, int | float):
        return a.times(b)
    number = _number(a, b)
    return None if number is None else replace(a, left=a.left * number)


def _divide(a: Any, b: Any) -> Value | None:
    if not isinstance(a, LowRank) or isinstance(b, LowRank):
        return None
    if isinstance(b, int | float):
        return replace(a, left=a.left / b, factor=a.factor / b) if b else None
    number = _number(a, b)
    return None if number is None else replace(a, left=a.left / number)


def _number(a: LowRank, value: Any) -> Tensor | None:
    """The tensor as one number, or one for each client, ``[clients, 1, 1]``, if that is what it holds."""
    if not isinstance(value, Tensor) or value.dtype != a.left.dtype or a.shared is not None:
        return None
    if value.numel() == 1 and value.dim() <= 3:
        return value.reshape(())
    if value.dim() != 3 or len(value) != len(a.left):
        return None
    sides = zip(value.shape[1:], value.stride()[1:], strict=True)
    return value[:, :1, :1] if all(size == 1 or step == 0 for size, step in sides) else None


def _plus(a: Any, b: Any, sign: float = 1.0) -> LowRank | None:
    """``a + sign b``."""
    if isinstance(a, LowRank) and isinstance(b, LowRank):
        return a.plus(b.times(sign)) if a.shape == b.shape else None
    if isinstance(a, LowRank) and isinstance(b, Tensor):
        return a.plus_shared(b, sign) if tuple(b.shape) == a.shape[1:] else None
    if isinstance(a, Tensor) and isinstance(b, LowRank):
        return _plus(b.times(sign), a)
    return None


def _sum(a: Value, dims: list[int] | None, keepdim: bool = False) -> Value | None:
    """Over the clients: one product with all their factors in a row. Over the entries of two."""
    where = sorted(dim % 3 for dim in dims or ())
    if isinstance(a, LowRank) and where == [0] and not keepdim and a.shared is None:
        left = a.left.transpose(0, 1).reshape(a.shape[1], -1)
        return torch.mm(left, a.right.reshape(-1, a.shape[2]))
    if isinstance(a, Entrywise) and where == [1, 2]:
        return a.sum.reshape(-1, 1, 1) if keepdim else a.sum
    return None


def _transpose(a: Value, first: int, second: int) -> Value | None:
    return a.mT if isinstance(a, LowRank) and {first % 3, second % 3} == {1, 2} else None


def _same_shape(a: Value, shape: list[int], *_: Any) -> Value | None:
    if not isinstance(a, LowRank) or len(shape) != 3:
        return None
    full = [mine if size == -1 else size for size, mine in zip(shape, a.shape, strict=True)]
    return a if full == list(a.shape) else None


def _itself(a: Value) -> Value | None:
    return a if isinstance(a, LowRank) else None


RULES: dict[Any, Callable[..., Value | None]] = {
    aten.bmm.default: _multiply,
    aten.mul.Tensor: _scale,
    aten.mul.Scalar: _scale,
    aten.div.Tensor: _divide,
    aten.neg.default: lambda a: _scale(a, -1.0),
    aten.pow.Tensor_Scalar: lambda a, power: _scale(a, a) if power == 2 else None,
    aten.add.Tensor: _plus,
    aten.sub.Tensor: lambda a, b: _plus(a, b, -1.0),
    aten.sum.dim_IntList: _sum,
    aten.transpose.int: _transpose,
    aten.view.default: _same_shape,
    aten._unsafe_view.default: _same_shape,
    aten.expand.default: _same_shape,
    aten.detach.default: _itself,
    aten.alias.default: _itself,
}
"""How ATen acts on factors. Where a rule gives None, or there is none, they are multiplied out."""
