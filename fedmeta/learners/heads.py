"""Shared body, private head: what travels is the body alone."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from fedmeta.learners.adaptation import adapted
from fedmeta.learners.checks import at_least_one
from fedmeta.learners.inner_loop import (
    Sgd,
    beside,
    descend,
    difference,
    every_example,
    minibatches,
)
from fedmeta.learners.sgd import LocalSgd
from fedmeta.objective import Objective
from fedmeta.types import Batch, Episode, Params, Update

Part = Literal["all", "head", "body"]


@dataclass(frozen=True)
class FedPer(LocalSgd):
    """FedPer (Arivazhagan et al. 2019, Algorithm 1): SGD on body and head, of which the body travels.

    Each client keeps its head from round to round; a new one begins with the common first head.
    """

    finetune: Part = "all"
    """What an unseen client trains on its support."""

    keeps_state = True

    def init(self, loss: Objective, params: Params, generator: torch.Generator) -> Params:
        """The model's params. Raises ConfigError where it has no head."""
        adapted("head", params)
        return params

    def private(self, names: Collection[str]) -> frozenset[str]:
        """The head."""
        return frozenset(adapted("head", names))

    def trajectory(
        self, loss: Objective, params: Params, support: Batch, steps: int
    ) -> Iterator[Params]:
        """The params after 0, 1, ..., ``steps`` minibatch steps on the support."""
        fast = _only(self.finetune, params)
        batches = minibatches(support, self.batch_size, steps)
        return (params | now for now in descend(beside(params, loss), fast, batches, Sgd(self.lr)))

    def update(
        self, loss: Objective, params: Params, episodes: Episode, progress: float = 0.0
    ) -> Update:
        """The body's displacement, the loss after training, and the client's new head."""
        examples = every_example(episodes.draw(0))
        trained = self.fit(loss, params, examples)
        delta = difference(params, _only("body", trained))
        return Update(delta, {"loss": loss(trained, examples)}, self.keep(trained))

    def fit(self, loss: Objective, params: Params, examples: Batch) -> Params:
        """All params after the round."""
        return self.train(loss, params, examples)

    def keep(self, trained: Params) -> Params:
        """What the client keeps to itself."""
        return _only("head", trained)

    def train_part(
        self, part: Part, loss: Objective, params: Params, examples: Batch, epochs: int
    ) -> Params:
        """All params after some epochs in which one part moves."""
        return params | self.train(beside(params, loss), _only(part, params), examples, epochs)


@dataclass(frozen=True)
class FedRep(FedPer):
    """FedRep (Collins et al., ICML 2021, Algorithm 1): first the head, then the body with it fixed.

    ``epochs`` are the body's.
    """

    head_epochs: int = 4
    finetune: Part = "head"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "head_epochs")

    def steps(self, examples: int) -> int:
        """Minibatches of the head's epochs and of the body's."""
        return self._batches(self.head_epochs, examples) + super().steps(examples)

    def fit(self, loss: Objective, params: Params, examples: Batch) -> Params:
        """All params after the head's epochs and then the body's."""
        params = self.train_part("head", loss, params, examples, self.head_epochs)
        return self.train_part("body", loss, params, examples, self.epochs)


@dataclass(frozen=True)
class FedBabu(FedPer):
    """FedBABU (Oh, Kim and Yun, ICLR 2022, Algorithm 1): the head stays as it was drawn at first.

    The same head on every client; only the body is trained, and a new client fine-tunes.
    """

    keeps_state = False

    def fit(self, loss: Objective, params: Params, examples: Batch) -> Params:
        """All params after the body's epochs."""
        return self.train_part("body", loss, params, examples, self.epochs)

    def keep(self, trained: Params) -> Params:
        """Nothing: the head did not move."""
        return {}


def _only(part: Part, params: Params) -> Params:
    return {name: params[name] for name in adapted(part, params)}
