"""Named strategies that withstand clients who mean harm. Every client counts the same in them.

``attackers`` is how many of a round's clients may be such: a promise of the experimenter, which the
rule's guarantee rests on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from fedmeta.errors import ConfigError
from strategies.aggregation import Aggregation
from strategies.bulyan import bulyan
from strategies.clipping import clipped_mean, geometric_median
from strategies.krum import krum, multi_krum
from strategies.means import Stepping, positive
from strategies.robust import (
    Mix,
    Needs,
    bulyan_needs,
    krum_needs,
    median,
    trimmed_mean,
    trimmed_mean_needs,
)
from strategies.robust_aggregation import Centred, Robust, Rule
from strategies.rules import Rules, StrategySettings
from strategies.weighting import WEIGHTINGS


@dataclass(frozen=True)
class _Uniform(Stepping):
    def _by(self, aggregation: Aggregation) -> Rules:
        return Rules(WEIGHTINGS["uniform"], self.step(), aggregation)

    def _rule(self, rule: Rule, needs: Needs | None = None) -> Rules:
        return self._by(Robust(rule) if needs is None else Robust(rule, needs))


@dataclass(frozen=True)
class Median(_Uniform):
    """Median of every number (Yin et al., ICML 2018): fewer than half of the clients may attack."""

    def rules(self) -> Rules:
        """The median."""
        return self._rule(_unweighted(median))


@dataclass(frozen=True)
class TrimmedMean(_Uniform):
    """Mean of every number without its largest and smallest values (Yin et al., ICML 2018)."""

    trim: int = 1
    """Values left out at either end: as many clients may attack."""

    def rules(self) -> Rules:
        """The trimmed mean."""
        rule = _unweighted(partial(trimmed_mean, trim=self.trim))
        return self._rule(rule, trimmed_mean_needs(self.trim))


@dataclass(frozen=True)
class Krum(_Uniform):
    """Krum (Blanchard et al., NeurIPS 2017): the one delta that is closest to its neighbours."""

    attackers: int = 1
    """Of n clients, ``n >= 2 attackers + 3``."""

    def rules(self) -> Rules:
        """Krum."""
        rule = partial(krum, attackers=self.attackers)
        return self._rule(_unweighted(rule), krum_needs(self.attackers))


@dataclass(frozen=True)
class MultiKrum(_Uniform):
    """Multi-Krum (Blanchard et al., NeurIPS 2017): the mean of the ``keep`` deltas that Krum likes best."""

    attackers: int = 1
    keep: int = 2
    """At most as many as are honest."""

    def rules(self) -> Rules:
        """Multi-Krum."""
        rule = partial(multi_krum, attackers=self.attackers, keep=self.keep)
        return self._rule(_unweighted(rule), krum_needs(self.attackers, self.keep))


@dataclass(frozen=True)
class Bulyan(_Uniform):
    """Bulyan (El Mhamdi et al., ICML 2018): Krum again and again, then a mean close to the median."""

    attackers: int = 1
    """Of n clients, ``n >= 4 attackers + 3``."""

    def rules(self) -> Rules:
        """Bulyan."""
        rule = partial(bulyan, attackers=self.attackers)
        return self._rule(_unweighted(rule), bulyan_needs(self.attackers))


@dataclass(frozen=True)
class GeometricMedian(_Uniform):
    """RFA (Pillutla, Kakade and Harchaoui 2022): the point with the least sum of distances to deltas."""

    nu: float = 1e-6
    """What distances are at least taken for."""

    def __post_init__(self) -> None:
        positive("nu", self.nu)

    def rules(self) -> Rules:
        """The smoothed Weiszfeld algorithm."""
        return self._rule(partial(geometric_median, nu=self.nu))


@dataclass(frozen=True)
class NormClipping(_Uniform):
    """Mean of deltas none of which is longer than ``radius`` (Sun et al. 2019): bounds what one can do."""

    radius: float = 1.0

    def __post_init__(self) -> None:
        positive("radius", self.radius)

    def rules(self) -> Rules:
        """The mean after clipping."""
        return self._rule(partial(clipped_mean, radius=self.radius))


@dataclass(frozen=True)
class CentredClipping(_Uniform):
    """Centred clipping (Karimireddy, He and Jaggi, ICML 2021): clip around the last round's delta."""

    radius: float = 1.0
    iterations: int = 1

    def __post_init__(self) -> None:
        positive("radius", self.radius)
        if self.iterations < 1:
            raise ConfigError(f"strategy.iterations must be 1 or more, got {self.iterations!r}")

    def rules(self) -> Rules:
        """Clipping that remembers."""
        return self._by(Centred(self.radius, self.iterations))


def _unweighted(rule: Callable[[Tensor], Tensor | Mix]) -> Rule:
    """A rule in which all clients count the same."""
    return lambda stack, weights: rule(stack)


ROBUST: dict[str, type[StrategySettings]] = {
    "bulyan": Bulyan,
    "centred_clipping": CentredClipping,
    "geometric_median": GeometricMedian,
    "krum": Krum,
    "median": Median,
    "multi_krum": MultiKrum,
    "norm_clipping": NormClipping,
    "trimmed_mean": TrimmedMean,
}
