"""A strategy as a composition of three orthogonal pieces: weighting, aggregation, optimiser."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fedmeta.replies import Replies, said
from fedmeta.types import Metrics, Params
from strategies.aggregation import Aggregation, WeightedMean, mean_of_sums
from strategies.buffer import Buffer
from strategies.gathered import Gathered, Memory, gather
from strategies.optimizers import ServerOptimizer
from strategies.weighting import ByColumn, Weighting


class Outcome(NamedTuple):
    """One delta, and whose it is."""

    delta: Params
    clients: list[int]
    weights: Tensor | None
    """What each client's delta counts ``[clients]``; None where every coordinate mixes them anew."""
    columns: Metrics
    memory: Memory


@dataclass(frozen=True)
class Rules:
    """How a server makes a step out of replies."""

    weighting: Weighting
    optimizer: ServerOptimizer
    aggregation: Aggregation = WeightedMean()  # noqa: RUF009 (frozen)
    buffer: Buffer | None = None
    """Where deltas wait that are still on their way in simulated time."""

    @property
    def column(self) -> str:
        """The column that nodes may weigh one sum of their clients' deltas with; empty if they may not."""
        match self.weighting, self.aggregation, self.buffer:
            case ByColumn(column=column), WeightedMean(), None:
                return column
        return ""

    def combine(self, replies: Sequence[Replies], params: Params, memory: Memory) -> Outcome:
        """Many deltas become one."""
        if any(reply.summed for reply in replies):
            assert isinstance(self.weighting, ByColumn)
            return self._of_sums(replies, self.weighting, memory)
        return self.weigh(gather(replies, params), memory)

    def weigh(self, gathered: Gathered, memory: Memory) -> Outcome:
        """The same of deltas that are side by side."""
        weights, weighed = self.weighting(gathered, memory)
        memory = memory | weighed
        delta, counted, kept = self.aggregation(gathered, weights, memory)
        clients = gathered.clients.tolist()
        return Outcome(delta, clients, counted, gathered.columns, memory | kept)

    @staticmethod
    def _of_sums(replies: Sequence[Replies], weighting: ByColumn, memory: Memory) -> Outcome:
        outcome = uncounted(replies)
        weights = said(outcome.columns, weighting.column, len(outcome.clients))
        return outcome._replace(
            delta=mean_of_sums(replies, weighting),
            weights=weights / weighting.total(weights),
            memory=memory,
        )


def uncounted(replies: Sequence[Replies]) -> Outcome:
    """Whose replies there are, and that no delta counts."""
    clients = [client for reply in replies for client in reply.clients]
    columns = [reply.columns for reply in replies]
    shared = sorted(set.intersection(*(set(each) for each in columns))) if columns else []
    joined = {name: torch.cat([each[name].double() for each in columns]) for name in shared}
    return Outcome({}, clients, torch.zeros(len(clients), dtype=torch.float64), joined, {})


class StrategySettings(Protocol):
    """A frozen dataclass of settings that composes rules."""

    def rules(self) -> Rules:
        """The composition. Raises ConfigError where settings do not fit."""
