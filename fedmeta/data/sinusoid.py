"""Sinusoid regression: every client is a sine of its own, and holds a few points of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from fedmeta.data.federation import ClientCounts, Clients, Split, consecutive
from fedmeta.data.values import ValueEpisodes, ValueFederation
from fedmeta.errors import ConfigError
from fedmeta.seeding import uniform


@dataclass(frozen=True, kw_only=True)
class Sinusoid(ValueEpisodes):
    """Regression of sines of unknown amplitude and phase (Finn et al. 2017, section 5.1).

    ``y = A sin(f x - p)`` with A in [0.1, 5], p in [0, pi], x in [-5, 5], all uniform, and f = 1.

    Before adaptation no model can have a mean squared error below 3.0 on new clients: the best
    function that does not know the client is ``-(5.1/pi) cos x``.
    """

    clients: ClientCounts
    examples: int
    """Points in each client's shard; with ``least_examples`` the most."""
    least_examples: int | None = None
    """Where given, shards are of unequal size, uniform from this to ``examples``."""
    frequencies: list[float] = field(default_factory=lambda: [1.0, 1.0])
    """Range of the angular frequency; Li et al. 2017 draw it too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.frequencies) != 2 or not 0 < self.frequencies[0] <= self.frequencies[1] < 1e9:
            raise ConfigError(
                f"data.frequencies must be [lowest, highest] above 0, got {self.frequencies!r}"
            )
        least = self.examples if self.least_examples is None else self.least_examples
        if least > self.examples:
            raise ConfigError(
                f"data.least_examples must be at most the {self.examples} examples, got {least!r}"
            )
        self.check(0, least)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One number."""
        return (1,)

    @property
    def outputs(self) -> int:
        """One number."""
        return 1

    def open(self, seed: int, device: torch.device, dtype: torch.dtype) -> "SinusoidFederation":
        """The federation; nothing is stored, every shard is computed when it is asked for."""
        return SinusoidFederation(self, seed, device, dtype)


class SinusoidFederation(ValueFederation):
    """Sines whose amplitude, phase and points are functions of (seed, client)."""

    def __init__(
        self, dataset: Sinusoid, seed: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(dataset, device, dtype)
        self.dataset, self.seed = dataset, seed

    def clients(self, split: Split) -> Sequence[int]:
        """The ids of a split's clients."""
        return consecutive(self.dataset.clients)[split]

    def examples(self, clients: Clients) -> Clients:
        """Points in each shard."""
        most, least = self.dataset.examples, self.dataset.least_examples
        if least is None:
            return np.full(len(clients), most)
        spread = uniform(self.seed, "sinusoid examples", clients)
        return least + np.floor(spread * (most - least + 1)).astype(np.int64)

    def wave(
        self, clients: Clients
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Amplitude, phase and frequency of each client, ``[clients]`` each."""
        amplitude = 0.1 + 4.9 * uniform(self.seed, "sinusoid amplitude", clients)
        low, high = self.dataset.frequencies
        frequency = low + (high - low) * uniform(self.seed, "sinusoid frequency", clients)
        return amplitude, np.pi * uniform(self.seed, "sinusoid phase", clients), frequency

    def rows(
        self, clients: Clients, members: Clients
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Points of clients by number."""
        each = (slice(None), *[None] * (members.ndim - 1))
        x = -5 + 10 * uniform(self.seed, "sinusoid point", clients[each], members)
        amplitude, phase, frequency = (part[each] for part in self.wave(clients))
        y = amplitude * np.sin(frequency * x - phase)
        return x[..., None], y[..., None]
