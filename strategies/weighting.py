"""Weighting: what a client's delta counts in the mean."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedmeta.replies import said
from strategies.gathered import Gathered, Memory

Normalise = Literal["sum", "mean", "none"]
SMALLEST_LOSS = 1e-10
"""A loss of 0 has no power below 0 (Li et al. 2020 add as much in their code)."""


class Weighting(ABC):
    """Frozen dataclasses.

    The losses are those after adaptation, at the params that clients received: a client's part of the
    meta-objective.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"loss_after"})
    """What clients must say of how the params that they received serve them."""

    @abstractmethod
    def __call__(self, gathered: Gathered, memory: Memory) -> tuple[Tensor, Memory]:
        """What each delta counts, float64 ``[clients]``, and what to remember."""


@dataclass(frozen=True)
class ByColumn(Weighting):
    """A number that clients say themselves, so that a node can already add up its clients' deltas."""

    needs = frozenset()
    column: str
    """Of the replies; ``one`` is 1 for every client."""
    normalise: Normalise = "sum"
    """What is divided by: the sum of the weights, the number of clients, or nothing."""

    def __call__(self, gathered: Gathered, memory: Memory) -> tuple[Tensor, Memory]:
        """The numbers, normalised."""
        weights = said(gathered.columns, self.column, len(gathered))
        return weights / self.total(weights), memory

    def total(self, weights: Tensor) -> Tensor:
        """What is divided by."""
        totals = {"sum": weights.sum(), "mean": torch.tensor(float(len(weights)))}
        return totals.get(self.normalise, torch.ones(())).to(weights)


@dataclass(frozen=True)
class LossSigmoid(ByColumn):
    """Loss-sigmoid weights: ``alpha = mean_i sigmoid(alpha L_i / temperature)`` over the examples.

    The client finds the fixed point. Weights lie in [1/2, 1), so none is twice another.
    """

    needs = frozenset({"alpha"})
    column: str = "alpha"
    temperature: float = 1.0


@dataclass(frozen=True)
class Tilted(Weighting):
    """Tilted empirical risk (Li et al., ICLR 2021, Lemma 1): ``exp(t F_i)``, normalised by the sum.

    ``t`` above 0 looks at the worst served clients, below 0 away from them, 0 is the uniform mean.
    """

    t: float

    def __call__(self, gathered: Gathered, memory: Memory) -> tuple[Tensor, Memory]:
        """A softmax, which cannot overflow."""
        return torch.softmax(self.t * gathered.columns["loss_after"], dim=0), memory


@dataclass(frozen=True)
class Fair(Weighting):
    """q-FedAvg (Li et al., ICLR 2020, Algorithm 2) of the objective ``sum_i F_i^(q+1) / (q+1)``.

    With ``L = 1 / local_lr``: ``w <- w - sum_i F_i^q L delta_i / sum_i h_i``, where
    ``h_i = q F_i^(q-1) |L delta_i|^2 + L F_i^q``. For ``q = 0`` that is the uniform mean.
    """

    q: float
    local_lr: float

    def __call__(self, gathered: Gathered, memory: Memory) -> tuple[Tensor, Memory]:
        """The factors of the deltas in that step; their sum is below 1 where ``q`` is above 0."""
        loss = gathered.columns["loss_after"].clamp(min=SMALLEST_LOSS)
        steep, lengths = 1 / self.local_lr, gathered.lengths() / self.local_lr
        powers = (loss / loss.max()) ** self.q  # a common factor, so that none overflows
        estimates = powers * (self.q * lengths**2 / loss + steep)
        return steep * powers / estimates.sum(), memory


@dataclass(frozen=True)
class Minimax(Weighting):
    """AFL (Mohri, Sivek and Suresh, ICML 2019, Algorithm 1): ``min_w max_lambda sum_i lambda_i F_i``.

    After each round lambda goes up along the losses of the clients that took part and is projected on
    the simplex. It is over the clients that took part so far: a new one begins with their mean.
    """

    rate: float
    """Of lambda's ascent."""

    def __call__(self, gathered: Gathered, memory: Memory) -> tuple[Tensor, Memory]:
        """Lambda of this round's clients, normalised by its sum."""
        known = memory.get("clients", torch.empty(0, dtype=torch.int64))
        shares = memory.get("lambda", torch.empty(0, dtype=torch.float64))
        new = gathered.clients[~torch.isin(gathered.clients, known)]
        mean = shares.mean() if len(shares) else torch.ones(())
        clients = torch.cat([known, new])
        shares = torch.cat([shares, mean.double().expand(len(new))])
        shares = shares / shares.sum()
        order = clients.argsort()
        clients, shares = clients[order], shares[order]
        here = torch.searchsorted(clients, gathered.clients)
        chosen = shares[here]
        weights = (
            chosen / chosen.sum() if chosen.sum() > 0 else torch.full_like(chosen, 1 / len(here))
        )
        risen = shares.index_add(0, here, self.rate * gathered.columns["loss_after"])
        return weights, {"clients": clients, "lambda": on_simplex(risen)}


@dataclass(frozen=True)
class Stale(Weighting):
    """FedBuff (Nguyen et al., AISTATS 2022, Algorithm 1): ``(1 + staleness)^(-power) / K``."""

    needs = frozenset()
    power: float

    def __call__(self, gathered: Gathered, memory: Memory) -> tuple[Tensor, Memory]:
        """A delta that is late by many server steps counts less, and no other counts more for it."""
        return (1 + gathered.columns["staleness"]) ** -self.power / len(gathered), memory


def on_simplex(values: Tensor) -> Tensor:
    """The nearest point whose numbers are at least 0 and sum to 1 (Duchi et al., ICML 2008, Figure 1)."""
    below = values - values.max()  # the same projection; in huge values a 1 would be lost
    ordered = below.sort(descending=True).values
    ranks = torch.arange(1, len(values) + 1, dtype=values.dtype)
    excess = (ordered.cumsum(0) - 1) / ranks
    last = (ordered > excess).nonzero().max()
    return (below - excess[last]).clamp(min=0)


WEIGHTINGS: dict[str, Weighting] = {
    "examples": ByColumn("examples"),  # shard sizes, n_i of McMahan et al. 2017
    "uniform": ByColumn("one"),
}
