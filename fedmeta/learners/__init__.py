"""Learners: what a client does with its episodes. One file each."""

from collections.abc import Iterator
from typing import Protocol

from fedmeta.learners.maml import Maml
from fedmeta.learners.reptile import Reptile
from fedmeta.learners.sgd import LocalSgd
from fedmeta.types import Batch, Episode, Loss, Params, Update


class Learner(Protocol):
    """A frozen dataclass of settings with pure methods; everything here also runs under ``torch.vmap``."""

    @property
    def draws(self) -> int:
        """Episodes that one update consumes."""

    def trajectory(
        self, loss: Loss, params: Params, support: Batch, steps: int
    ) -> Iterator[Params]:
        """Adaptation: the params after 0, 1, ..., ``steps`` inner steps on the support."""

    def update(self, loss: Loss, params: Params, episodes: Episode) -> Update:
        """One client's round; ``episodes`` has ``draws`` in its leading dimension."""


LEARNERS: dict[str, type[Learner]] = {"maml": Maml, "reptile": Reptile, "sgd": LocalSgd}
