"""Proximal meta-learning: the params that adapt stay near those that were received.

One inner problem, ``min_v L(v) + lam / 2 |v - w|^2``, and two outer rules: its Moreau envelope here,
and its implicit gradient in ``imaml.py``.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from fedmeta.learners.base import Learner
from fedmeta.learners.checks import at_least_one, positive, stable
from fedmeta.learners.inner_loop import (
    Sgd,
    descend,
    every_example,
    last,
    local_steps,
    minibatches,
    proximal,
)
from fedmeta.objective import Objective
from fedmeta.types import Batch, Episode, Metrics, Params, Update


@dataclass(frozen=True)
class MinibatchProx(Learner):
    """Meta-MinibatchProx (Zhou et al., NeurIPS 2019, Algorithm 1): down the Moreau envelope.

    The delta is ``lam (w - v)``, the gradient of ``min_v L(v) + lam / 2 |v - w|^2`` in ``w``: first
    order by the envelope theorem, from all examples of an episode, with no query held back.
    """

    lam: float
    """Strength of the proximal term (lambda)."""
    inner_lr: float
    inner_steps: int
    """Gradient steps towards ``v``, from ``w``."""
    batch_size: int
    """Examples per inner step; steps run through the episode and begin again at its end."""
    local_steps: int = 1
    """Outer steps on the client per round, one episode each."""
    local_lr: float = 1.0
    """Rate of the local steps."""

    def __post_init__(self) -> None:
        positive(self, "lam", "inner_lr", "local_lr")
        at_least_one(self, "inner_steps", "batch_size", "local_steps")
        stable(self, "inner_lr", "lam")
        if self.local_steps > 1:
            stable(self, "local_lr", "lam")

    @property
    def draws(self) -> int:
        """One episode per local step."""
        return self.local_steps

    def steps(self, examples: int) -> int:
        """Inner steps of all episodes."""
        return self.draws * self.inner_steps

    @property
    def adaptation(self) -> int:
        """The inner steps."""
        return self.inner_steps

    def trajectory(
        self, loss: Objective, params: Params, support: Batch, steps: int
    ) -> Iterator[Params]:
        """The params after 0, 1, ..., ``steps`` proximal minibatch steps on the support."""
        batches = minibatches(support, self.batch_size, steps)
        return descend(proximal(loss, params, self.lam), params, batches, Sgd(self.inner_lr))

    def update(
        self, loss: Objective, params: Params, episodes: Episode, progress: float = 0.0
    ) -> Update:
        """The client's delta and its loss after adaptation."""

        def envelope_gradient(params: Params, episode: Episode) -> tuple[Params, Metrics]:
            examples = every_example(episode)
            near = last(self.trajectory(loss, params, examples, self.inner_steps))
            gradient = {name: self.lam * (w - near[name]) for name, w in params.items()}
            return gradient, {"loss": loss(near, examples)}

        return local_steps(envelope_gradient, params, episodes, self.local_steps, self.local_lr)


@dataclass(frozen=True)
class PFedMe(MinibatchProx):
    """pFedMe (T. Dinh, Tran and Nguyen, NeurIPS 2020, Algorithm 1): local steps down the envelope.

    ``local_steps`` is R of the paper, ``local_lr`` eta, ``inner_steps`` K. Its server rate beta is the
    strategy's. The inner steps begin at the current local params in every local step, and there is no
    weight decay: the authors' code begins at the last personal params and has a hidden decay of 0.001.
    """

    local_steps: int = 20
    local_lr: float = 0.005
