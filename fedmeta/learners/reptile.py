"""Reptile."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from fedmeta.learners.base import Learner
from fedmeta.learners.checks import at_least_one, positive
from fedmeta.learners.inner_loop import (
    InnerOptimizer,
    RmsAdam,
    Sgd,
    descend,
    difference,
    every_example,
    last,
    local_steps,
    minibatches,
)
from fedmeta.objective import Objective
from fedmeta.types import Batch, Episode, Metrics, Params, Update


@dataclass(frozen=True)
class Reptile(Learner):
    """Reptile (Nichol, Achiam and Schulman 2018, Algorithm 1): walk towards the adapted params.

    The delta is ``w - w'`` after ``inner_steps`` minibatch steps on all examples of an episode; the
    server's rate is the paper's epsilon. Unlike the authors' code, the second moments of ``adam``
    begin anew in every episode: a client has no other episode's moments to start from.
    """

    inner_lr: float
    inner_steps: int
    batch_size: int
    """Examples per inner step; steps run through the episode and begin again at its end."""
    inner_optimizer: Literal["sgd", "adam"] = "sgd"
    """``adam`` is the paper's, with beta1 = 0."""
    episodes: int = 1
    """Episodes per local step; their displacements are averaged."""
    local_steps: int = 1
    """Outer steps on the client per round."""
    local_lr: float = 1.0
    """Rate of the local steps."""

    def __post_init__(self) -> None:
        positive(self, "inner_lr", "local_lr")
        at_least_one(self, "inner_steps", "batch_size", "episodes", "local_steps")

    @property
    def draws(self) -> int:
        """Episodes that one update consumes."""
        return self.episodes * self.local_steps

    def steps(self, examples: int) -> int:
        """Inner steps of all episodes."""
        return self.draws * self.inner_steps

    @property
    def _optimizer(self) -> InnerOptimizer:
        return (RmsAdam if self.inner_optimizer == "adam" else Sgd)(self.inner_lr)

    @property
    def adaptation(self) -> int:
        """The inner steps."""
        return self.inner_steps

    def trajectory(
        self, loss: Objective, params: Params, support: Batch, steps: int
    ) -> Iterator[Params]:
        """The params after 0, 1, ..., ``steps`` minibatch steps on the support."""
        batches = minibatches(support, self.batch_size, steps)
        return descend(loss, params, batches, self._optimizer)

    def update(
        self, loss: Objective, params: Params, episodes: Episode, progress: float = 0.0
    ) -> Update:
        """The client's displacement and its loss after adaptation."""

        def displacement(params: Params, episode: Episode) -> tuple[Params, Metrics]:
            examples = every_example(episode)
            adapted = last(self.trajectory(loss, params, examples, self.inner_steps))
            return difference(params, adapted), {"loss": loss(adapted, examples)}

        return local_steps(displacement, params, episodes, self.local_steps, self.local_lr)
