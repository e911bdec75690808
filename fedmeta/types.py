"""The values that travel through every part of fedmeta."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

Params = dict[str, Tensor]
"""Meta-parameters by name. A stack of them has a leading client dimension, ``[clients, ...]``."""

Metrics = dict[str, Tensor]


class Batch(NamedTuple):
    """Examples: inputs ``[examples, ...]`` and targets ``[examples]`` or ``[examples, outputs]``."""

    x: Tensor
    y: Tensor


class Episode(NamedTuple):
    """One draw from a shard. Support and query never share an example.

    Stacked draws carry leading dimensions, ``[draws, examples, ...]`` for one client and
    ``[clients, draws, examples, ...]`` for a cohort.
    """

    support: Batch
    query: Batch

    def draw(self, index: int) -> "Episode":
        """The episode at ``index`` of a stack."""
        return Episode(*(Batch(part.x[index], part.y[index]) for part in self))


Loss = Callable[[Params, Batch], Tensor]
"""Mean loss of the model with these params on a batch, a scalar."""


class Update(NamedTuple):
    """What a client sends back.

    ``delta`` is server minus client, a pseudo-gradient: a server that steps along ``-delta`` with
    rate 1 on the mean delta does federated averaging.
    """

    delta: Params
    metrics: Metrics
    state: Params = {}  # noqa: RUF012 (never written to)
    """The client's private params after the round, for learners that keep them."""
