"""Named strategies whose step is a weighted mean: a weighting and a server optimiser."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

from fedmeta.errors import ConfigError
from strategies.buffer import Buffer
from strategies.optimizers import Schedule, ServerOptimizer
from strategies.rules import Rules, StrategySettings
from strategies.weighting import (
    WEIGHTINGS,
    Fair,
    LossSigmoid,
    Minimax,
    Normalise,
    Stale,
    Tilted,
)

Weighting = Literal["examples", "uniform"]


@dataclass(frozen=True)
class FedAvg:
    """Federated averaging (McMahan et al., AISTATS 2017): ``w <- w - lr mean(delta)``."""

    lr: float = 1.0
    schedule: Schedule = "constant"
    weighting: Weighting = "examples"

    def rules(self) -> Rules:
        """SGD of rate 1."""
        return Rules(WEIGHTINGS[self.weighting], ServerOptimizer("SGD", self.lr, {}, self.schedule))


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
        return Rules(
            WEIGHTINGS[self.weighting], ServerOptimizer("SGD", self.lr, options, self.schedule)
        )


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
        return Rules(
            WEIGHTINGS[self.weighting], ServerOptimizer(optimizer, self.lr, options, self.schedule)
        )


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
        return Rules(
            WEIGHTINGS[self.weighting], ServerOptimizer("Adagrad", self.lr, options, self.schedule)
        )


@dataclass(frozen=True)
class ReptileStep:
    """Reptile's outer step (Nichol et al. 2018): ``w <- w - epsilon mean(delta)``, epsilon to 0."""

    lr: float
    """Epsilon at the start."""
    schedule: Schedule = "linear"
    weighting: Weighting = "uniform"

    def rules(self) -> Rules:
        """SGD whose rate falls linearly."""
        return Rules(WEIGHTINGS[self.weighting], ServerOptimizer("SGD", self.lr, {}, self.schedule))


@dataclass(frozen=True)
class Uniform(FedAvg):
    """Federated averaging in which every client counts the same, however much data it has."""

    weighting: Weighting = "uniform"


@dataclass(frozen=True)
class Stepping:
    """The server's step of strategies whose point is elsewhere: any optimiser of ``torch.optim``."""

    lr: float = 1.0
    optimizer: str = "SGD"
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the optimiser, such as ``betas`` and ``eps`` of Adam."""
    schedule: Schedule = "constant"

    def step(self) -> ServerOptimizer:
        """The server's optimiser."""
        return ServerOptimizer(self.optimizer, self.lr, self.options, self.schedule)


@dataclass(frozen=True)
class Custom(Stepping):
    """Your own composition: a weighting and any optimiser of ``torch.optim`` by name."""

    weighting: Weighting = "examples"

    def rules(self) -> Rules:
        """As named."""
        return Rules(WEIGHTINGS[self.weighting], self.step())


@dataclass(frozen=True)
class Pyramid(Stepping):
    """Loss-sigmoid weights: a client counts ``alpha = mean_i sigmoid(alpha L_i)`` over its examples.

    The clients find alpha themselves, so sums of weighted deltas are all that a server must see. No
    client counts twice as much as another: emphasis on hard clients that an exploding one cannot seize.
    """

    normalise: Normalise = "sum"
    """Of the weights: by their sum; by the number of clients; or not at all, the raw form."""
    temperature: float = 1.0
    """Losses are divided by it first: the weights of small losses differ hardly."""

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)

    def rules(self) -> Rules:
        """The weighted mean."""
        weighting = LossSigmoid(normalise=self.normalise, temperature=self.temperature)
        return Rules(weighting, self.step())


@dataclass(frozen=True)
class QFedAvg(Stepping):
    """q-FedAvg (Li et al., ICLR 2020, Algorithm 2): fairer the larger ``q`` is; 0 is the uniform mean."""

    q: float = 1.0
    local_lr: float = 1.0
    """The rate that makes a delta a gradient: the clients' own for displacements, 1 for
    meta-gradients. Its inverse is the paper's estimate L of the Lipschitz constant."""

    def __post_init__(self) -> None:
        positive("local_lr", self.local_lr)
        if not 0 <= self.q < float("inf"):
            raise ConfigError(f"strategy.q must be a number of 0 or more, got {self.q!r}")

    def rules(self) -> Rules:
        """Its own weights, whose sum is below 1."""
        return Rules(Fair(self.q, self.local_lr), self.step())


@dataclass(frozen=True)
class Afl(Stepping):
    """Agnostic federated learning (Mohri, Sivek and Suresh, ICML 2019): for the worst served clients."""

    lambda_lr: float = 0.1
    """Rate at which the weights of clients follow their losses."""

    def __post_init__(self) -> None:
        positive("lambda_lr", self.lambda_lr)

    def rules(self) -> Rules:
        """Weights that are remembered."""
        return Rules(Minimax(self.lambda_lr), self.step())


@dataclass(frozen=True)
class Term(Stepping):
    """Tilted empirical risk minimisation (Li et al., ICLR 2021): weights ``exp(t F_i)``."""

    t: float = 1.0

    def __post_init__(self) -> None:
        if not abs(self.t) < float("inf"):
            raise ConfigError(f"strategy.t must be a finite number, got {self.t!r}")

    def rules(self) -> Rules:
        """Softmax weights."""
        return Rules(Tilted(self.t), self.step())


@dataclass(frozen=True)
class FedBuff(Stepping):
    """FedBuff (Nguyen et al., AISTATS 2022): asynchronous, a step for every ``cohort.clients`` deltas.

    In simulated time (the section ``devices``). A delta that is s server steps late counts
    ``(1 + s)^-power``, 1 / sqrt(1 + s) in the paper.
    """

    concurrency: int = 100
    """Clients that train at the same time."""
    power: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.power < float("inf"):
            raise ConfigError(f"strategy.power must be a number of 0 or more, got {self.power!r}")

    def rules(self) -> Rules:
        """A mean of what comes in."""
        return Rules(Stale(self.power), self.step(), buffer=Buffer(self.concurrency))


def positive(key: str, value: float) -> None:
    """Raises ConfigError for a setting that must be above 0."""
    if not 0 < value < float("inf"):
        raise ConfigError(f"strategy.{key} must be a number above 0, got {value!r}")


MEANS: dict[str, type[StrategySettings]] = {
    "afl": Afl,
    "custom": Custom,
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedbuff": FedBuff,
    "fedyogi": FedYogi,
    "pyramid": Pyramid,
    "qfedavg": QFedAvg,
    "reptile": ReptileStep,
    "term": Term,
    "uniform": Uniform,
}
