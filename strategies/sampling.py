"""Which clients take part in a round."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmeta.data.federation import Clients
from fedmeta.replies import Replies
from fedmeta.seeding import choose, uniform
from fedmeta.settings import CohortSettings
from strategies.gathered import Memory

Sizes = Mapping[int, int]
Losses = Mapping[int, float]
CLIENTS, LOSS = "heard/clients", "heard/loss"


def sample(
    clients: Clients,
    settings: CohortSettings,
    seed: int,
    round: int,
    sizes: Sizes | None = None,
    losses: Losses | None = None,
) -> Clients:
    """At most ``settings.clients`` of those that are there, without replacement, in ascending order.

    A pure function of its arguments. ``sizes`` are those of shards; ``losses`` are what clients said
    when last seen.
    """
    count = min(settings.clients, len(clients))
    if settings.sampling == "round_robin":
        return _in_turn(clients, count, seed, round)
    if settings.sampling == "size":
        return _by_size(clients, count, sizes or {}, seed, round)
    if settings.sampling == "loss":
        wanted = settings.candidates or 2 * settings.clients
        candidates = _uniform(clients, min(wanted, len(clients)), seed, round)
        return _highest(candidates, count, losses or {})
    return _uniform(clients, count, seed, round)


def _uniform(clients: Clients, count: int, seed: int, round: int) -> Clients:
    chosen: Clients = np.sort(clients[choose(len(clients), count, seed, "cohort", round)])
    return chosen


def _in_turn(clients: Clients, count: int, seed: int, round: int) -> Clients:
    """All in one random order, again and again: after n rounds nobody is more than one behind."""
    order = clients[np.argsort(uniform(seed, "turns", clients), kind="stable")]
    first = (round - 1) * count
    return np.sort(order[np.arange(first, first + count) % len(clients)])


def _by_size(clients: Clients, count: int, sizes: Sizes, seed: int, round: int) -> Clients:
    """One after the other with probability proportional to the shard's size.

    Efraimidis and Spirakis 2006: the clients with the largest ``u^(1/size)``.
    """
    known = np.array([sizes.get(client, 1) for client in clients.tolist()], dtype=np.float64)
    keys = np.log(uniform(seed, "cohort", round, clients)) / known
    return np.sort(clients[np.argsort(-keys, kind="stable")[:count]])


def _highest(candidates: Clients, count: int, losses: Losses) -> Clients:
    """Power of choice with what was last heard (Cho, Wang and Joshi 2020, rpow-d); news first."""
    known: NDArray[np.float64] = np.array([losses.get(c, np.inf) for c in candidates.tolist()])
    return np.sort(candidates[np.argsort(-known, kind="stable")[:count]])


@dataclass(frozen=True)
class Heard:
    """What clients said their loss was, when last they took part."""

    clients: Tensor
    loss: Tensor

    @classmethod
    def of(cls, memory: Memory) -> "Heard":
        """What a server remembers."""
        none = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.float64)
        return cls(memory.get(CLIENTS, none[0]), memory.get(LOSS, none[1]))

    def losses(self) -> Losses:
        """By client."""
        return dict(zip(self.clients.tolist(), self.loss.tolist(), strict=True))

    def hear(self, replies: Sequence[Replies]) -> Memory:
        """What to remember after a round."""
        losses = dict(self.losses())
        for reply in replies:
            losses |= dict(zip(reply.clients, reply.columns["loss"].tolist(), strict=True))
        return {
            CLIENTS: torch.tensor(list(losses), dtype=torch.int64),
            LOSS: torch.tensor(list(losses.values()), dtype=torch.float64),
        }
