"""Named strategies: each a composition of a weighting, an aggregation and a server optimiser."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from fedmeta.replies import Replies
from fedmeta.types import Params
from strategies.aggregation import weighted_mean
from strategies.optimizers import Schedule, ServerOptimizer
from strategies.weighting import WEIGHTINGS

Weighting = Literal["examples", "uniform"]


@dataclass(frozen=True)
class Rules:
    """The three orthogonal pieces of a strategy."""

    weight_column: str
    """Column of the replies that deltas are weighted with."""
    aggregate: Callable[[Sequence[Replies], str], Params]
    optimizer: ServerOptimizer


class StrategySettings(Protocol):
    """A frozen dataclass of settings that composes rules."""

    def rules(self) -> Rules:
        """The composition."""


def _mean(weighting: str, optimizer: ServerOptimizer) -> Rules:
    return Rules(WEIGHTINGS[weighting], weighted_mean, optimizer)


@dataclass(frozen=True)
class FedAvg:
    """Federated averaging (McMahan et al., AISTATS 2017): ``w <- w - lr mean(delta)``."""

    lr: float = 1.0
    schedule: Schedule = "constant"
    weighting: Weighting = "examples"

    def rules(self) -> Rules:
        """SGD of rate 1."""
        return _mean(self.weighting, ServerOptimizer("SGD", self.lr, {}, self.schedule))


@dataclass(frozen=True)
class FedAvgM:
    """Server momentum (Hsu, Qi and Brown 2019): ``m <- momentum m + delta``, ``w <- w - lr m``."""

    lr: float = 1.0
    momentum: float = 0.9
    schedule: Schedule = "constant"
    weighting: Weighting = "examples"

    def rules(self) -> Rules:
        """SGD with momentum, not dampened."""
        options = {"momentum": self.momentum}
        return _mean(self.weighting, ServerOptimizer("SGD", self.lr, options, self.schedule))


@dataclass(frozen=True)
class _Adaptive(ABC):
    lr: float
    tau: float = 1e-3
    """What is added to the root of the second moment; Adam's epsilon."""
    beta1: float = 0.9
    beta2: float = 0.99
    schedule: Schedule = "constant"
    weighting: Weighting = "examples"

    @abstractmethod
    def rules(self) -> Rules:
        """The composition."""

    def _with(self, optimizer: str) -> Rules:
        options = {"betas": (self.beta1, self.beta2), "eps": self.tau}
        return _mean(self.weighting, ServerOptimizer(optimizer, self.lr, options, self.schedule))


@dataclass(frozen=True)
class FedAdam(_Adaptive):
    """Server Adam (Reddi et al., ICLR 2021, Algorithm 2).

    This is ``torch.optim.Adam`` fed the mean delta, so with Kingma and Ba's bias correction, which
    Reddi et al. leave out; ``tau`` is Adam's epsilon. Meta-learning papers use 1e-8 and beta2 0.999.
    """

    def rules(self) -> Rules:
        """Adam of torch."""
        return self._with("Adam")


@dataclass(frozen=True)
class FedYogi(_Adaptive):
    """Server Yogi (Reddi et al., ICLR 2021, Algorithm 2), no bias correction."""

    def rules(self) -> Rules:
        """Our Yogi: torch has none."""
        return self._with("Yogi")


@dataclass(frozen=True)
class FedAdagrad:
    """Server Adagrad (Reddi et al., ICLR 2021, Algorithm 2 with beta1 = 0); v starts at tau^2."""

    lr: float
    tau: float = 1e-3
    schedule: Schedule = "constant"
    weighting: Weighting = "examples"

    def rules(self) -> Rules:
        """Adagrad of torch."""
        options = {"eps": self.tau, "initial_accumulator_value": self.tau**2}
        return _mean(self.weighting, ServerOptimizer("Adagrad", self.lr, options, self.schedule))


@dataclass(frozen=True)
class ReptileStep:
    """Reptile's outer step (Nichol et al. 2018): ``w <- w - epsilon mean(delta)``, epsilon to 0."""

    lr: float
    """Epsilon at the start."""
    schedule: Schedule = "linear"
    weighting: Weighting = "uniform"

    def rules(self) -> Rules:
        """SGD whose rate falls linearly."""
        return _mean(self.weighting, ServerOptimizer("SGD", self.lr, {}, self.schedule))


@dataclass(frozen=True)
class Custom:
    """Your own composition: a weighting and any optimiser of ``torch.optim`` by name."""

    optimizer: str
    lr: float
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the optimiser."""
    schedule: Schedule = "constant"
    weighting: Weighting = "examples"

    def rules(self) -> Rules:
        """As named."""
        return _mean(
            self.weighting, ServerOptimizer(self.optimizer, self.lr, self.options, self.schedule)
        )


STRATEGIES: dict[str, type[StrategySettings]] = {
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedadagrad": FedAdagrad,
    "reptile": ReptileStep,
    "custom": Custom,
}
