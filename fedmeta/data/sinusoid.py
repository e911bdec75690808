"""Sinusoid regression: every client is a sine of its own, and holds a few points of it."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmeta.data.federation import ClientCounts, Clients, Split, consecutive
from fedmeta.errors import ConfigError, DataError
from fedmeta.objective import Kind
from fedmeta.seeding import Part, choose, uniform
from fedmeta.types import Batch, Episode


@dataclass(frozen=True)
class Sinusoid:
    """Regression of sines of unknown amplitude and phase (Finn et al. 2017, section 5.1).

    ``y = A sin(x - p)`` with A in [0.1, 5], p in [0, pi], x in [-5, 5], all uniform.

    Before adaptation no model can have a mean squared error below 3.0 on new clients: the best
    function that does not know the client is ``-(5.1/pi) cos x``.
    """

    shots: int
    """Support examples per episode."""
    queries: int
    """Query examples per episode."""
    clients: ClientCounts
    examples: int
    """Points in each client's shard."""

    def __post_init__(self) -> None:
        for name in ("shots", "queries"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"data.{name} must be 1 or more, got {value!r}")
        if self.shots + self.queries > self.examples:
            raise DataError(
                f"data.examples: client 0 holds {self.examples} examples, an episode needs "
                f"{self.shots} (shots) + {self.queries} (queries) = {self.shots + self.queries}"
            )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One number."""
        return (1,)

    @property
    def outputs(self) -> int:
        """One number."""
        return 1

    @property
    def objective(self) -> Kind:
        """Regression."""
        return "mean_squared_error"

    def open(self, seed: int, device: torch.device, dtype: torch.dtype) -> "SinusoidFederation":
        """The federation; nothing is stored, every shard is computed when it is asked for."""
        return SinusoidFederation(self, seed, device, dtype)


@dataclass(frozen=True)
class SinusoidFederation:
    """Sines whose amplitude, phase and points are functions of (seed, client)."""

    dataset: Sinusoid
    seed: int
    device: torch.device
    dtype: torch.dtype

    def clients(self, split: Split) -> range:
        """The ids of a split's clients."""
        return consecutive(self.dataset.clients)[split]

    def examples(self, clients: Clients) -> Clients:
        """Every shard has ``data.examples`` points."""
        return np.full(len(clients), self.dataset.examples)

    def wave(self, clients: Clients) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Amplitude and phase of each client, ``[clients]`` each."""
        amplitude = 0.1 + 4.9 * uniform(self.seed, "sinusoid amplitude", clients)
        return amplitude, np.pi * uniform(self.seed, "sinusoid phase", clients)

    def draw(self, clients: Clients, draws: int, *address: Part) -> Episode:
        """Support and query points, inputs and targets ``[clients, draws, examples, 1]``."""
        which = clients[:, None]
        shots, total = self.dataset.shots, self.dataset.shots + self.dataset.queries
        points = choose(self.dataset.examples, total, *address, which, np.arange(draws))
        x = -5 + 10 * uniform(self.seed, "sinusoid point", which[..., None], points)
        amplitude, phase = (part[:, None, None] for part in self.wave(clients))
        y = amplitude * np.sin(x - phase)
        x_t, y_t = self._tensor(x), self._tensor(y)
        return Episode(
            Batch(x_t[:, :, :shots], y_t[:, :, :shots]), Batch(x_t[:, :, shots:], y_t[:, :, shots:])
        )

    def _tensor(self, values: NDArray[np.float64]) -> Tensor:
        return torch.as_tensor(values[..., None]).to(self.device, self.dtype)
