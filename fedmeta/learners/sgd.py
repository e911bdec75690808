"""Plain local SGD: what federated averaging runs on a client, and the baselines around it."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import torch

from fedmeta.learners.base import Learner
from fedmeta.learners.checks import at_least_one, not_negative, positive, stable
from fedmeta.learners.inner_loop import (
    Sgd,
    descend,
    difference,
    every_example,
    last,
    minibatches,
    proximal,
)
from fedmeta.objective import Objective
from fedmeta.types import Batch, Episode, Loss, Params, Update


@dataclass(frozen=True)
class LocalSgd(Learner):
    """Local SGD (McMahan et al., AISTATS 2017, Algorithm 1, ClientUpdate).

    With the strategy ``fedavg`` this is federated averaging; evaluated after steps on the support
    of an unseen client it is FedAvg with fine-tuning (Chen et al. 2018 call it FedAvg(Meta)).
    """

    lr: float
    epochs: int
    """Passes over the round's episode, support and query together; the last batch is filled up."""
    batch_size: int

    def __post_init__(self) -> None:
        positive(self, "lr")
        at_least_one(self, "epochs", "batch_size")

    def steps(self, examples: int) -> int:
        """Minibatches of all epochs."""
        return self._batches(self.epochs, examples)

    def trajectory(
        self, loss: Objective, params: Params, support: Batch, steps: int
    ) -> Iterator[Params]:
        """Fine-tuning: the params after 0, 1, ..., ``steps`` minibatch steps on the support."""
        return descend(loss, params, minibatches(support, self.batch_size, steps), Sgd(self.lr))

    def update(
        self, loss: Objective, params: Params, episodes: Episode, progress: float = 0.0
    ) -> Update:
        """The client's displacement after its epochs, and its loss after them."""
        examples = every_example(episodes.draw(0))
        trained = self.train(loss, params, examples)
        return Update(difference(params, trained), {"loss": loss(trained, examples)})

    def train(
        self, loss: Loss, params: Params, examples: Batch, epochs: int | None = None
    ) -> Params:
        """The params after the epochs."""
        steps = self._batches(self.epochs if epochs is None else epochs, len(examples.y))
        return last(
            descend(loss, params, minibatches(examples, self.batch_size, steps), Sgd(self.lr))
        )

    def _batches(self, epochs: int, examples: int) -> int:
        return ceil(epochs * examples / min(self.batch_size, examples))


@dataclass(frozen=True)
class FedProx(LocalSgd):
    """FedProx (Li et al., MLSys 2020, Algorithm 2): local SGD with ``mu / 2 |w - w_t|^2``.

    ``w_t`` is what the server sent. The norm is squared and goes over all params together. Unseen
    clients are fine-tuned without the term.
    """

    mu: float

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "mu")
        stable(self, "lr", "mu")

    def train(
        self, loss: Loss, params: Params, examples: Batch, epochs: int | None = None
    ) -> Params:
        """The params after the epochs, held near those that were received."""
        return super().train(proximal(loss, params, self.mu), params, examples, epochs)


@dataclass(frozen=True)
class LocalOnly(LocalSgd):
    """Local training only: no client learns from another, the delta is zero.

    What an unseen client reaches from the random initialisation is the floor of every comparison.
    """

    def update(
        self, loss: Objective, params: Params, episodes: Episode, progress: float = 0.0
    ) -> Update:
        """A zero delta, and the loss after training."""
        _, metrics, _ = super().update(loss, params, episodes, progress)
        return Update({name: torch.zeros_like(w) for name, w in params.items()}, metrics)
