"""Model-agnostic meta-learning, and the variants that one inner loop with choices gives."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fedmeta.errors import ConfigError
from fedmeta.learners.adaptation import (
    LearnedRates,
    RatedSgd,
    adapted,
    check_adapt,
    first_rates,
    with_adapters,
)
from fedmeta.learners.base import Learner
from fedmeta.learners.checks import at_least_one, fraction, positive, second_derivatives
from fedmeta.learners.inner_loop import (
    InnerOptimizer,
    Sgd,
    beside,
    descend,
    local_steps,
    take_step,
)
from fedmeta.learners.meta_gradient import recomputed, unrolled
from fedmeta.objective import Objective
from fedmeta.types import Batch, Episode, Metrics, Params, Update


@dataclass(frozen=True)
class Maml(Learner):
    """MAML (Finn, Abbeel and Levine, ICML 2017, Algorithm 1).

    The delta is the gradient of the query loss after adaptation on the support, looked at from the
    params before it: ``order: 2`` differentiates through the inner steps, ``order: 1`` does not.
    """

    meant: ClassVar[tuple[str, ...]] = ()
    """Settings that the name of a variant stands for, so that it has them at their default."""

    inner_lr: float
    """Rate of the inner steps (alpha in the paper); where rates are learned, what they begin with."""
    inner_steps: int
    order: Literal[1, 2] = 2
    adapt: Any = "all"
    """What the inner steps move: all, head, body, norm, lora, film, or patterns of param names."""
    learn_rates: LearnedRates = "none"
    """Whether inner rates are learned, and how finely."""
    first_order_until: float = 0.0
    """Part of the run before order 2 begins (Antoniou et al. 2019, derivative-order annealing)."""
    multi_step_until: float = 0.0
    """Part of the run in which the losses after all inner steps count (Antoniou et al. 2019, MSL)."""
    freeze: bool = False
    """Whether what does not adapt stays as it was at the start, and does not travel."""
    rank: int = 4
    """Rank of ``adapt: lora``."""
    checkpoint: bool = False
    """Whether inner steps are computed again instead of remembered: less memory, more time."""
    episodes: int = 1
    """Episodes per local step; their meta-gradients are averaged."""
    local_steps: int = 1
    """Outer steps on the client per round."""
    local_lr: float = 1.0
    """Rate of the local steps. With one local step the server's rate is the outer rate."""

    def __post_init__(self) -> None:
        positive(self, "inner_lr", "local_lr")
        at_least_one(self, "inner_steps", "episodes", "local_steps", "rank")
        fraction(self, "first_order_until", "multi_step_until")
        check_adapt(self.adapt)
        if self.order not in (1, 2):
            raise ConfigError(f"learner.order must be 1 or 2, got {self.order!r}")
        for name in self.meant:
            if (value := getattr(self, name)) != (own := getattr(type(self), name)):
                raise ConfigError(
                    f"learner.{name} is {own} by the name of this learner, got {value!r}; "
                    "learner.name: maml has all of them"
                )

    @property
    def draws(self) -> int:
        """Episodes that one update consumes."""
        return self.episodes * self.local_steps

    def steps(self, examples: int) -> int:
        """Inner steps of all episodes."""
        return self.draws * self.inner_steps

    @property
    def annealed_until(self) -> float:
        """When the gradients are second order and the last loss alone counts."""
        return max(self.first_order_until, self.multi_step_until)

    def init(self, loss: Objective, params: Params, generator: torch.Generator) -> Params:
        """The model's params with adapters and learned rates beside them."""
        params = with_adapters(self.adapt, params, self.rank, generator)
        fast = {name: params[name] for name in adapted(self.adapt, params)}
        return params | first_rates(self.learn_rates, self.inner_lr, fast, self.inner_steps)

    def private(self, names: Collection[str]) -> frozenset[str]:
        """With ``freeze``, all that does not adapt."""
        if not self.freeze:
            return frozenset()
        travels = {*adapted(self.adapt, names), *(n for n in names if n.startswith("rate/"))}
        return frozenset(names) - travels

    @property
    def adaptation(self) -> int:
        """The inner steps."""
        return self.inner_steps

    def trajectory(
        self, loss: Objective, params: Params, support: Batch, steps: int
    ) -> Iterator[Params]:
        """The params after 0, 1, ..., ``steps`` inner steps on the support."""
        fast = {name: params[name] for name in adapted(self.adapt, params)}
        optimizer = self._optimizer(params)
        path = descend(beside(params, loss), fast, repeat(support, steps), optimizer, self.order)
        return (params | fast for fast in path)

    def update(
        self, loss: Objective, params: Params, episodes: Episode, progress: float = 0.0
    ) -> Update:
        """The client's delta and its mean query loss after adaptation (with MSL the weighted one)."""
        if progress < self.first_order_until:
            return replace(self, order=1, first_order_until=0.0).update(
                loss, params, episodes, progress
            )
        fixed = {name: params[name] for name in self.private(params)}
        moving = {name: value for name, value in params.items() if name not in fixed}
        names, weights = adapted(self.adapt, params), self._weights(progress)
        differentiate = recomputed if self.checkpoint else unrolled

        def meta_gradient(moving: Params, episode: Episode) -> tuple[Params, Metrics]:
            def step(moving: Params, fast: Params, number: int) -> Params:
                partial = beside(fixed | moving, loss)
                optimizer = self._optimizer(moving)
                return take_step(partial, fast, episode.support, optimizer, number, self.order)[0]

            def query(moving: Params, fast: Params) -> Tensor:
                return loss(fixed | moving | fast, episode.query)

            with second_derivatives(f"order: {self.order}"):
                grads, value = differentiate(step, query, moving, names, weights)
            return grads, {"loss": value}

        return local_steps(meta_gradient, moving, episodes, self.local_steps, self.local_lr)

    def _optimizer(self, params: Params) -> InnerOptimizer:
        if self.learn_rates == "none":
            return Sgd(self.inner_lr)
        return RatedSgd(self.learn_rates, params)

    def _weights(self, progress: float) -> Sequence[float]:
        """What the query loss after each of 0, 1, ..., k steps counts (Antoniou et al. 2019, eq. 4)."""
        k = self.inner_steps
        if progress >= self.multi_step_until:
            return [0.0] * k + [1.0]
        early = max((1 - progress / self.multi_step_until) / k, 0.03 / k)
        return [0.0] + [early] * (k - 1) + [1 - (k - 1) * early]


@dataclass(frozen=True)
class Fomaml(Maml):
    """First-order MAML (Finn et al., ICML 2017, section 5.2): the inner gradients are constants."""

    meant = ("order",)
    order: Literal[1, 2] = 1


@dataclass(frozen=True)
class Anil(Maml):
    """ANIL (Raghu et al., ICLR 2020): MAML whose inner steps move the head alone."""

    meant = ("adapt",)
    adapt: Any = "head"


@dataclass(frozen=True)
class Boil(Maml):
    """BOIL (Oh et al., ICLR 2021): MAML whose inner steps move everything but the head."""

    meant = ("adapt",)
    adapt: Any = "body"


@dataclass(frozen=True)
class MetaSgd(Maml):
    """Meta-SGD (Li et al. 2017, Algorithm 1): MAML that learns an inner rate for every number.

    A learned rate may become negative, as in the paper.
    """

    meant = ("learn_rates",)
    learn_rates: LearnedRates = "per_parameter"


@dataclass(frozen=True)
class MamlPlusPlus(Maml):
    """MAML++ (Antoniou, Edwards and Storkey, ICLR 2019): rates per layer and step, multi-step loss.

    Their cosine outer rate is the strategy's (``schedule: cosine``). Their batch norm statistics and
    biases per step are left out: here the statistics are always those of the batch at hand.
    """

    meant = ("learn_rates",)
    learn_rates: LearnedRates = "per_layer_per_step"
    multi_step_until: float = 0.1
