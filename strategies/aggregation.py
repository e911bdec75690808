"""Aggregation: many deltas become one."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fedmeta.params import weighted_sum
from fedmeta.replies import Replies, column, said
from fedmeta.types import Params
from strategies.gathered import Gathered, Memory, gather
from strategies.weighting import ByColumn


class Combined(NamedTuple):
    """One delta out of many."""

    delta: Params
    weights: Tensor | None
    """What each delta counts in it, ``[clients]``; None where every coordinate mixes them anew."""
    memory: Memory


class Aggregation(ABC):
    """Frozen dataclasses."""

    def check(self, clients: int) -> None:
        """Refuse a cohort that is too small for the rule. Raises ConfigError."""
        return None

    @abstractmethod
    def __call__(self, gathered: Gathered, weights: Tensor, memory: Memory) -> Combined:
        """``weights`` ``[clients]`` come from a weighting, already normalised."""


@dataclass(frozen=True)
class WeightedMean(Aggregation):
    """``sum_c weight_c delta_c``."""

    def __call__(self, gathered: Gathered, weights: Tensor, memory: Memory) -> Combined:
        """The sum, added in client order."""
        return Combined(weighted_sum(gathered.deltas, weights), weights, memory)


def mean_of_sums(replies: Sequence[Replies], weighting: ByColumn) -> Params:
    """The weighted mean where nodes have already added up their clients' deltas, all or some of them."""
    total = weighting.total(torch.cat([column(reply, weighting.column) for reply in replies]))
    parts = [
        {name: value / total.to(value.dtype) for name, value in reply.deltas.items()}
        for reply in replies
        if reply.summed
    ]
    if each := [reply for reply in replies if not reply.summed]:
        gathered = gather(each, {})
        alone = said(gathered.columns, weighting.column, len(gathered))
        parts.append(weighted_sum(gathered.deltas, alone / total))
    return {name: torch.stack([part[name] for part in parts]).sum(dim=0) for name in parts[0]}
