"""Episodes of unequal length as one stack: the shorter are padded, and padding counts nothing.

That is exact for a loss that is a mean over examples, and wrong where padding enters batch
statistics or makes another minibatch: ``stacks.py`` tries it before it relies on it.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fedmeta.objective import Objective
from fedmeta.types import Batch, Episode

NO_CLASS = -100
"""The class that torch's cross entropy leaves out."""
NO_VALUE = -(2.0**126)
"""The same of values: finite, so that a target of a client that is no number still is none."""


class Padded(Objective):
    """The same judge, who leaves out examples without a target."""

    def _loss(self, output: Tensor, target: Tensor) -> Tensor:
        if self.kind == "cross_entropy":
            return F.cross_entropy(output, target, ignore_index=NO_CLASS)
        known = target != NO_VALUE
        gap = output - torch.where(known, target, output)  # 0, and so are its derivatives
        return (gap**2).sum() / known.sum()

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of every example; 0 without a target."""
        if self.kind == "cross_entropy":
            return F.cross_entropy(output, target, ignore_index=NO_CLASS, reduction="none")
        return super().losses(output, torch.where(target != NO_VALUE, target, output))

    def counts(self, target: Tensor) -> Tensor:
        """1, and 0 without a target."""
        missing = NO_CLASS if self.kind == "cross_entropy" else NO_VALUE
        return (target != missing).reshape(len(target), -1)[:, 0].to(torch.float32)

    def _accuracy(self, output: Tensor, target: Tensor) -> Tensor:
        hits = output.argmax(dim=-1) == target
        return hits.sum().to(output.dtype) / (target != NO_CLASS).sum()


def pad(stacks: Sequence[Episode]) -> Episode:
    """Stacks ``[clients, draws, examples, ...]`` one after the other, all as long as the longest."""
    return Episode(*(_pad([stack[part] for stack in stacks]) for part in range(2)))


def _pad(batches: Sequence[Batch]) -> Batch:
    missing = NO_CLASS if batches[0].y.dtype == torch.int64 else NO_VALUE
    return Batch(
        _stretched([batch.x for batch in batches], 0.0),
        _stretched([batch.y for batch in batches], missing),
    )


def _stretched(stacks: Sequence[Tensor], fill: float) -> Tensor:
    longest = max(stack.shape[2] for stack in stacks)
    return torch.cat(
        [
            F.pad(stack, (0, 0) * (stack.dim() - 3) + (0, longest - stack.shape[2]), value=fill)
            for stack in stacks
        ]
    )
