"""From numbers to places along the side of a chart, and the ticks between."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log
from typing import Literal

Kind = Literal["linear", "log", "logit"]
LOGIT_ABOVE = 0.95
"""With accuracies above, equal steps are equal odds: what differs is near 100 %."""
ODDS = (0.01, 0.05, 0.1, 0.2, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))


@dataclass(frozen=True)
class Scale:
    """One side of a chart."""

    label: str
    low: float
    high: float
    kind: Kind = "linear"
    factor: float = 1.0
    """Ticks show the value times this."""
    unit: str = ""

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high end; values beyond an end lie on it."""
        low, at, high = (self._bent(v) for v in (self.low, value, self.high))
        return min(max((at - low) / (high - low), 0.0), 1.0)

    def text(self, value: float) -> str:
        """With its unit."""
        return f"{self.factor * value:,.10g}{self.unit}"

    @cached_property
    def ticks(self) -> list[float]:
        """Round values within the ends."""
        from matplotlib.ticker import LogLocator, MaxNLocator

        if self.kind == "logit":
            found: Sequence[float] = ODDS
        elif self.kind == "log":
            subs = (1.0, 2.0, 5.0) if self.high < 100 * self.low else (1.0,)
            found = list(map(float, LogLocator(subs=subs).tick_values(self.low, self.high)))
        else:
            ends = (self.low * self.factor, self.high * self.factor)
            located = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(*ends)
            found = [float(tick) / self.factor for tick in located]
        slack = 1e-9 * (self.high - self.low)
        return [tick for tick in found if self.low - slack <= tick <= self.high + slack]

    def _bent(self, value: float) -> float:
        if self.kind == "linear":
            return value
        value = max(value, min(self.low, 1e-12) if self.kind == "log" else 1e-6)
        if self.kind == "log":
            return log(value)
        value = min(value, 1 - 1e-6)
        return log(value / (1 - value))


def score_scale(label: str, values: Sequence[float], measure: str) -> Scale:
    """Of mean accuracies, by odds where they come near 100 %, or of losses."""
    low, high = min(values), max(values)
    if measure != "accuracy" or high <= LOGIT_ABOVE:
        return client_scale(label, values, measure)
    return Scale(label, max(0.97 * low, 0.01), 1 - (1 - min(high, 0.999)) / 2, "logit", 100, " %")


def client_scale(label: str, values: Sequence[float], measure: str) -> Scale:
    """Of accuracies in percent, or of losses, whose equal steps are equal ratios."""
    low, high = min(values), max(values)
    if measure == "accuracy":
        room = max(0.05 * (high - low), 0.005)
        return Scale(label, max(low - room, 0.0), min(high + room, 1.0), "linear", 100, " %")
    low = max(low, 1e-6 * high, 1e-12)
    return Scale(label, low / 1.1, max(high, low) * 1.1, "log")


def amount_scale(label: str, most: float) -> Scale:
    """Of what is spent, from nothing."""
    return Scale(label, 0.0, most or 1.0)


def byte_scale(label: str, most: float) -> Scale:
    """Of bytes, in the unit that fits."""
    size, unit = next((pair for pair in BYTES if most >= pair[0]), BYTES[-1])
    return Scale(f"{unit} {label}", 0.0, most or 1.0, "linear", 1 / size)
