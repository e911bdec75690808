"""Arithmetic on stacks of params, ``[clients, ...]`` in every entry."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedmeta.types import Params


def finite(stack: Params) -> Tensor:
    """Whether every number at a leading index is finite, bool ``[clients]``."""
    checks = [
        torch.isfinite(values).reshape(len(values), -1).all(dim=1) for values in stack.values()
    ]
    return torch.stack(checks).all(dim=0)


def lengths(stack: Params) -> Tensor:
    """Euclidean length of every client's numbers, all names together, float64 ``[clients]``."""
    rows = [values.double().reshape(len(values), -1) for values in stack.values()]
    return torch.stack([row.square().sum(dim=1) for row in rows]).sum(dim=0).sqrt()


def weighted_sum(stack: Params, weights: Tensor) -> Params:
    """``sum_c weights[c] stack[c]``, added in client order."""
    return {
        name: torch.tensordot(weights.to(values.dtype), values, dims=1)
        for name, values in stack.items()
    }


def select(stack: Params, keep: Tensor) -> Params:
    """The clients at the given positions or of the given mask."""
    return {name: values[keep] for name, values in stack.items()}


def concatenate(stacks: Sequence[Params]) -> Params:
    """Stacks one after the other."""
    return {name: torch.cat([stack[name] for stack in stacks]) for name in stacks[0]}
