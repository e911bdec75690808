"""Flower's own strategies by name, ``flwr.Krum`` and the like: their code in place of all three pieces."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from strategies.aggregation import Aggregation, Combined
from strategies.flower import STOCK, flower_needs, flower_step, flower_strategy
from strategies.gathered import Gathered, Memory
from strategies.optimizers import ServerOptimizer
from strategies.rules import Rules, StrategySettings
from strategies.weighting import Weighting


@dataclass(frozen=True)
class Measured(Weighting):
    """Flower weighs by itself; q-FedAvg by a loss that clients must measure."""

    needs: frozenset[str]  # type: ignore[misc]

    def __call__(self, gathered: Gathered, memory: Memory) -> tuple[Tensor, Memory]:
        """All alike; nobody looks."""
        return torch.ones(len(gathered), dtype=torch.float64), {}


@dataclass(frozen=True)
class FlowerAggregation(Aggregation):
    """One ``aggregate_train`` of a strategy of Flower."""

    kind: str
    options: dict[str, Any]

    def check(self, clients: int) -> None:
        """Refuse fewer clients than Flower's rule takes."""
        flower_needs(self.kind, self.options).check(clients)

    def __call__(self, gathered: Gathered, weights: Tensor, memory: Memory) -> Combined:
        """The delta that leads to Flower's params."""
        columns = gathered.columns
        if "loss_after" in columns:
            columns = columns | {"loss": columns["loss_after"]}
        delta, kept = flower_step(
            self.kind, self.options, gathered.params, gathered.deltas, columns, memory
        )
        return Combined(delta, None, kept)


@dataclass(frozen=True)
class Flower:
    """A strategy of Flower with its own options."""

    kind: ClassVar[str]
    options: dict[str, Any] = field(default_factory=dict)
    lr: float = 1.0
    """What Flower's step is multiplied with: 1 for displacements, which are steps of a model, and a
    rate for meta-gradients, which are not."""

    def rules(self) -> Rules:
        """Flower's step, taken as it is."""
        flower_strategy(self.kind, self.options)
        needs = frozenset({"loss_after"} if self.kind == "QFedAvg" else ())
        step = ServerOptimizer("SGD", self.lr)
        return Rules(Measured(needs), step, FlowerAggregation(self.kind, self.options))


def _named(kind: str) -> type[StrategySettings]:
    doc = f"``{kind}`` as Flower has it; ``options`` are its own."
    return type(kind, (Flower,), {"kind": kind, "__doc__": doc})


FLOWER: dict[str, type[StrategySettings]] = {f"flwr.{kind}": _named(kind) for kind in STOCK}
