"""Per-FedAvg."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Literal

from torch.func import grad_and_value

from fedmeta.learners.base import Learner
from fedmeta.learners.checks import at_least_one, positive
from fedmeta.learners.curvature import difference_quotient, hessian
from fedmeta.learners.inner_loop import (
    Sgd,
    descend,
    every_example,
    last,
    local_steps,
    minibatches,
)
from fedmeta.objective import Objective
from fedmeta.types import Batch, Episode, Metrics, Params, Update


@dataclass(frozen=True)
class PerFedAvg(Learner):
    """Per-FedAvg (Fallah, Mokhtari and Ozdaglar, NeurIPS 2020, Algorithm 1 and section 5).

    Every local step has three batches D, D', D'' of an episode: one step of rate ``alpha`` on D, the
    gradient ``g`` of the loss after it on D', and ``w <- w - beta (I - alpha H) g`` with the Hessian
    of D''. ``first_order`` leaves ``H`` out; ``hessian_free`` takes ``H g`` from two gradients a
    small step along ``g`` apart, which a net with kinks like ReLU's spoils: the quotient sees them,
    the Hessian does not. Average the clients with the strategy ``fedavg``.
    """

    alpha: float
    """Rate of adaptation."""
    beta: float
    """Rate of the local meta-steps."""
    local_steps: int
    """Meta-steps per round (tau), one episode each."""
    batch_size: int
    """Examples in each of the three batches."""
    variant: Literal["exact", "first_order", "hessian_free"] = "exact"
    probe: float = 1e-3
    """Length of the step along ``g`` to each side (delta times the norm of ``g``)."""

    def __post_init__(self) -> None:
        positive(self, "alpha", "beta", "probe")
        at_least_one(self, "local_steps", "batch_size")

    @property
    def draws(self) -> int:
        """One episode per local step."""
        return self.local_steps

    @property
    def adaptation(self) -> int:
        """The one step of its objective."""
        return 1

    def trajectory(
        self, loss: Objective, params: Params, support: Batch, steps: int
    ) -> Iterator[Params]:
        """The params after 0, 1, ..., ``steps`` steps of rate alpha on the support."""
        return descend(loss, params, repeat(support, steps), Sgd(self.alpha))

    def update(
        self, loss: Objective, params: Params, episodes: Episode, progress: float = 0.0
    ) -> Update:
        """The client's displacement and its mean loss after adaptation."""

        def direction(params: Params, episode: Episode) -> tuple[Params, Metrics]:
            first, second, third = minibatches(every_example(episode), self.batch_size, 3)
            adapted = last(self.trajectory(loss, params, first, 1))
            g, value = grad_and_value(loss)(adapted, second)
            if self.variant != "first_order":
                curved = self._curved(loss, params, third, g)
                g = {name: v - self.alpha * curved[name] for name, v in g.items()}
            return g, {"loss": value}

        return local_steps(direction, params, episodes, self.local_steps, self.beta)

    def _curved(self, loss: Objective, params: Params, batch: Batch, g: Params) -> Params:
        if self.variant == "hessian_free":
            return difference_quotient(loss, params, batch, g, self.probe)
        return hessian(loss, params, batch, "variant: exact")(g)
