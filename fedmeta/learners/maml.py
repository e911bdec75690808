"""Model-agnostic meta-learning."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Literal

from torch import Tensor
from torch.func import grad_and_value

from fedmeta.errors import ConfigError
from fedmeta.learners.checks import at_least_one, positive
from fedmeta.learners.inner_loop import Sgd, descend, last, local_steps
from fedmeta.types import Batch, Episode, Loss, Metrics, Params, Update


@dataclass(frozen=True)
class Maml:
    """MAML (Finn, Abbeel and Levine, ICML 2017, Algorithm 1), and FOMAML with ``order: 1``.

    The delta is the gradient of the query loss after adaptation on the support, looked at from the
    params before it: ``order: 2`` differentiates through the inner steps, ``order: 1`` does not.
    """

    inner_lr: float
    """Rate of the inner steps (alpha in the paper)."""
    inner_steps: int
    order: Literal[1, 2] = 2
    episodes: int = 1
    """Episodes per local step; their meta-gradients are averaged."""
    local_steps: int = 1
    """Outer steps on the client per round; above 1 this is Per-FedAvg's local training."""
    local_lr: float = 1.0
    """Rate of the local steps. With one local step the server's rate is the outer rate."""

    def __post_init__(self) -> None:
        positive(self, "inner_lr", "local_lr")
        at_least_one(self, "inner_steps", "episodes", "local_steps")
        if self.order not in (1, 2):
            raise ConfigError(f"learner.order must be 1 or 2, got {self.order!r}")

    @property
    def draws(self) -> int:
        """Episodes that one update consumes."""
        return self.episodes * self.local_steps

    def trajectory(
        self, loss: Loss, params: Params, support: Batch, steps: int
    ) -> Iterator[Params]:
        """The params after 0, 1, ..., ``steps`` inner steps on the support."""
        return descend(loss, params, repeat(support, steps), Sgd(self.inner_lr), self.order)

    def update(self, loss: Loss, params: Params, episodes: Episode) -> Update:
        """The client's delta and its mean query loss after adaptation."""

        def meta_gradient(params: Params, episode: Episode) -> tuple[Params, Metrics]:
            def query_loss(params: Params) -> Tensor:
                fast = last(self.trajectory(loss, params, episode.support, self.inner_steps))
                return loss(fast, episode.query)

            grads, value = grad_and_value(query_loss)(params)
            return grads, {"loss": value}

        return local_steps(meta_gradient, params, episodes, self.local_steps, self.local_lr)
