"""The good replies of a round as one stack: what weightings and aggregations see."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedmeta.params import concatenate, lengths, select
from fedmeta.replies import Replies
from fedmeta.types import Metrics, Params

Memory = dict[str, Tensor]
"""What a rule remembers between rounds, by name; empty before the first. It is in the checkpoint."""


@dataclass(frozen=True)
class Gathered:
    """One delta a client, in client order: which node a client sat on leaves no trace."""

    clients: Tensor
    """Ids, int64 ``[clients]``."""
    deltas: Params
    """``[clients, ...]``, server minus client; by name, for checkpoints keep no order of params."""
    columns: Metrics
    """What clients say of themselves, float64 ``[clients]``."""
    params: Params = field(default_factory=dict)
    """What they were sent."""

    def __len__(self) -> int:
        return len(self.clients)

    @property
    def stack(self) -> Tensor:
        """The deltas as rows of numbers, ``[clients, numbers]``."""
        return torch.cat([values.reshape(len(self), -1) for values in self.deltas.values()], dim=1)

    def like(self, numbers: Tensor) -> Params:
        """One row of numbers as a delta."""
        shapes = {name: values.shape[1:] for name, values in self.deltas.items()}
        parts = torch.split(numbers, [shape.numel() for shape in shapes.values()])
        return {
            name: part.reshape(shape).to(self.deltas[name].dtype)
            for part, (name, shape) in zip(parts, shapes.items(), strict=True)
        }

    def lengths(self) -> Tensor:
        """Euclidean length of every delta, float64 ``[clients]``."""
        return lengths(self.deltas)

    def some(self, chosen: Tensor) -> "Gathered":
        """The clients at these positions."""
        return Gathered(
            self.clients[chosen],
            select(self.deltas, chosen),
            select(self.columns, chosen),
            self.params,
        )


def gather(replies: Sequence[Replies], params: Params) -> Gathered:
    """Replies of one delta a client, put in client order."""
    clients = torch.tensor([client for reply in replies for client in reply.clients])
    shared = set.intersection(*(set(reply.columns) for reply in replies))
    columns = [{name: reply.columns[name] for name in sorted(shared)} for reply in replies]
    deltas = concatenate([reply.deltas for reply in replies])
    whole = Gathered(
        clients,
        {name: deltas[name] for name in sorted(deltas)},
        {name: values.double() for name, values in concatenate(columns).items()},
        params,
    )
    return whole.some(clients.argsort())
