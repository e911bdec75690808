"""One call of an engine: to be timed, and to be compared with what the loop gives."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from fedmeta.engines.blocks import ClientFunction, clients_in, some
from fedmeta.types import Params

ENOUGH = 0.05
"""Seconds of calls that are timed."""


@dataclass(frozen=True)
class Work:
    """A function, and the clients to compute it for."""

    how: str
    """``map`` or ``total``."""
    function: ClientFunction[Any, Any]
    params: Params
    each: Any

    @property
    def clients(self) -> int:
        """In the block."""
        return clients_in(self.each)

    def first(self, count: int) -> "Work":
        """The same for the first clients alone."""
        return replace(self, each=some(self.each, 0, count))

    def with_params_times(self, factor: float) -> "Work":
        """The same with other params."""
        return replace(self, params={n: factor * value for n, value in self.params.items()})

    def exact(self) -> "Work":
        """The same in float64."""
        params, each = tree_map(
            lambda leaf: leaf.double() if leaf.is_floating_point() else leaf,
            (self.params, self.each),
        )
        return replace(self, params=params, each=each)

    def run(self, engine: Any) -> Any:
        """The result."""
        return getattr(engine, self.how)(self.function, self.params, self.each)

    def seconds(self, engine: Any) -> float:
        """Per client: the best of three calls or more, after what the first one prepares.

        Of more where they are short, for then whatever else the machine does disturbs them most.
        """
        self.run(engine)
        found = list[float]()
        while len(found) < 3 or sum(found) < ENOUGH:
            found.append(_timed(lambda: self.run(engine)))
        return min(found) / self.clients


def difference(found: Any, truth: Any) -> float:
    """The greatest error of any part, relative to the part's greatest number; NaN if there is any."""
    parts = truth if isinstance(truth, dict) else range(len(truth))
    errors = [_relative_error(tree_leaves(found[p]), tree_leaves(truth[p])) for p in parts]
    return float(torch.stack(errors).max())


def _relative_error(found: list[Tensor], truth: list[Tensor]) -> Tensor:
    """Of no numbers at all it is 0."""
    nothing = torch.zeros((), dtype=torch.float64)
    errors = [(f - t).abs().max().to(nothing) for f, t in zip(found, truth, strict=True)]
    scale = torch.stack([nothing, *(t.abs().max().to(nothing) for t in truth)]).max()
    return torch.stack([nothing, *errors]).max() / scale.clamp(min=1e-300)


def _timed(compute: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    result = compute()
    for leaf in tree_leaves(result)[:1]:
        if leaf.is_cuda:
            torch.cuda.synchronize(leaf.device)
    return time.perf_counter() - begun
