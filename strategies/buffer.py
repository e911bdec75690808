"""Deltas on their way: what makes a federation in simulated time asynchronous.

A client that begins now trains on the params of now, so its delta can be computed at once; it is kept
here until the simulated time at which it would arrive. That is the same as training later on params
that were kept. Clients begin when the server steps: one that comes in between two steps makes room for
another at the next.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fedmeta.params import concatenate, select
from strategies.gathered import Gathered, Memory

FLIGHT = "flight/"
CLIENTS, BEGAN, ARRIVES = f"{FLIGHT}clients", f"{FLIGHT}began", f"{FLIGHT}arrives"
DELTA, COLUMN = f"{FLIGHT}delta/", f"{FLIGHT}column/"


class Arrived(NamedTuple):
    """The next step's deltas."""

    gathered: Gathered | None
    memory: Memory
    """With those that are still on their way."""
    now: float
    """Simulated seconds at which the last of them came in."""


@dataclass(frozen=True)
class Buffer:
    """FedBuff's (Nguyen et al., AISTATS 2022, Algorithm 1)."""

    concurrency: int
    """Clients that train at the same time (M)."""

    @staticmethod
    def on_their_way(memory: Memory) -> Tensor:
        """Ids of the clients whose deltas have not come in."""
        return memory.get(CLIENTS, torch.empty(0, dtype=torch.int64))

    def free(self, memory: Memory) -> int:
        """How many clients can begin."""
        return self.concurrency - len(self.on_their_way(memory))

    def exchange(
        self, begun: Gathered | None, arrives: Tensor, count: int, step: int, memory: Memory
    ) -> Arrived:
        """Take in what began before the server's ``step``, and give out the ``count`` that come first.

        ``arrives`` ``[clients]`` is when the begun will, in simulated seconds. The columns of what
        comes out, in client order, say their ``staleness``: server steps since their clients began.
        Nothing comes out while fewer are on their way.
        """
        flying = {name: memory[name] for name in memory if name.startswith(FLIGHT)}
        if begun is not None:
            new = _boarded(begun, arrives, step)
            flying = concatenate([flying, new]) if flying else new
        memory = memory | flying
        if len(self.on_their_way(memory)) < count:
            return Arrived(None, memory, 0.0)
        order = torch.argsort(flying[ARRIVES], stable=True)
        first, rest = order[:count], order[count:]
        out = select(flying, first[flying[CLIENTS][first].argsort()])
        left = select(flying, rest.sort().values)
        return Arrived(_landed(out, step), memory | left, float(out[ARRIVES].max()))


def _boarded(begun: Gathered, arrives: Tensor, step: int) -> Memory:
    flat = {CLIENTS: begun.clients, ARRIVES: arrives}
    flat[BEGAN] = torch.full_like(begun.clients, step)
    flat |= {DELTA + name: values for name, values in begun.deltas.items()}
    return flat | {COLUMN + name: values for name, values in begun.columns.items()}


def _landed(flat: Memory, step: int) -> Gathered:
    columns = _under(COLUMN, flat) | {"staleness": (step - flat[BEGAN]).double()}
    return Gathered(flat[CLIENTS], _under(DELTA, flat), columns)


def _under(prefix: str, flat: Memory) -> Memory:
    return {k.removeprefix(prefix): v for k, v in flat.items() if k.startswith(prefix)}
