"""What every learner is."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from typing import ClassVar

import torch

from fedmeta.objective import Objective
from fedmeta.types import Batch, Episode, Params, Update


class Learner(ABC):
    """A frozen dataclass of settings with pure methods; all of them also run under ``torch.vmap``.

    ``loss(params, batch)`` is the mean loss of a batch. ``params`` are the model's, and whatever the
    learner put beside them in ``init`` under names with a slash.
    """

    keeps_state: ClassVar[bool] = False
    """Whether a client keeps its private params from one round to its next."""

    @property
    def draws(self) -> int:
        """Episodes that one update consumes."""
        return 1

    def steps(self, examples: int) -> int:
        """Gradient steps of one update, where an episode has so many examples."""
        return self.draws

    @property
    def adaptation(self) -> int:
        """Steps on the support that training takes before it looks at the query."""
        return 0

    @property
    def annealed_until(self) -> float:
        """The part of the run after which ``progress`` makes no difference to ``update``."""
        return 0.0

    def init(self, loss: Objective, params: Params, generator: torch.Generator) -> Params:
        """All params of the learner from the model's own. Raises ConfigError where they do not fit."""
        return params

    def private(self, names: Collection[str]) -> frozenset[str]:
        """Which of the params stay on the node: they begin as ``init`` made them and never travel."""
        return frozenset()

    @abstractmethod
    def trajectory(
        self, loss: Objective, params: Params, support: Batch, steps: int
    ) -> Iterator[Params]:
        """Adaptation of a new client: the params after 0, 1, ..., ``steps`` steps on the support."""

    @abstractmethod
    def update(
        self, loss: Objective, params: Params, episodes: Episode, progress: float = 0.0
    ) -> Update:
        """One client's round.

        ``episodes`` has ``draws`` in its leading dimension; ``progress`` in [0, 1] is the part of the
        run's rounds that lies behind. The delta names no private param.
        """

    def personal(self, params: Params) -> Params:
        """What a client that takes part predicts with, its private params among those it is given."""
        return params

    def remark(self, metrics: Mapping[str, float]) -> str | None:
        """What a round's mean metrics should make a person look at, if anything."""
        return None
