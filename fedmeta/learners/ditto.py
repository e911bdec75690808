"""Ditto."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch

from fedmeta.adapters import own
from fedmeta.learners.checks import not_negative, stable
from fedmeta.learners.inner_loop import Sgd, descend, every_example, minibatches, proximal
from fedmeta.learners.sgd import LocalSgd
from fedmeta.objective import Objective
from fedmeta.types import Batch, Episode, Params, Update

MINE = "personal/"


@dataclass(frozen=True)
class Ditto(LocalSgd):
    """Ditto (Li et al., ICML 2021, Algorithm 1): federated averaging, and a personal model beside it.

    The personal params ``v`` stay on the client from round to round: ``v <- v - lr (grad L(v) +
    lam (v - w))`` with the ``w`` that was received. Averaging knows nothing of them. An unseen client
    has no ``v`` yet and begins with ``w``.
    """

    lam: float
    """How much the personal params are drawn to the shared ones (lambda)."""

    keeps_state = True

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "lam")
        stable(self, "lr", "lam")

    def steps(self, examples: int) -> int:
        """Minibatches of the shared params and of the personal ones."""
        return 2 * super().steps(examples)

    def init(self, loss: Objective, params: Params, generator: torch.Generator) -> Params:
        """The model's params and, equal to them, the personal ones."""
        return params | {MINE + name: w.clone() for name, w in params.items()}

    def private(self, names: Collection[str]) -> frozenset[str]:
        """The personal params."""
        return frozenset(name for name in names if name.startswith(MINE))

    def personal(self, params: Params) -> Params:
        """The personal params, under the names of the model."""
        return {n.removeprefix(MINE): v for n, v in params.items() if n.startswith(MINE)}

    def trajectory(
        self, loss: Objective, params: Params, support: Batch, steps: int
    ) -> Iterator[Params]:
        """The params after 0, 1, ..., ``steps`` minibatch steps of a new personal model."""
        shared = own(params)
        batches = minibatches(support, self.batch_size, steps)
        return descend(proximal(loss, shared, self.lam), shared, batches, Sgd(self.lr))

    def update(
        self, loss: Objective, params: Params, episodes: Episode, progress: float = 0.0
    ) -> Update:
        """The shared params' displacement, both losses after training, and the new personal params."""
        shared, personal = own(params), self.personal(params)
        delta, metrics, _ = super().update(loss, shared, episodes, progress)
        examples = every_example(episodes.draw(0))
        personal = self.train(proximal(loss, shared, self.lam), personal, examples)
        state = {MINE + name: v for name, v in personal.items()}
        return Update(delta, metrics | {"personal_loss": loss(personal, examples)}, state)
