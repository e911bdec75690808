"""Sinusoid regression: every client is a sine of its own, and holds a few points of it."""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmeta.data.federation import (
    PURPOSES,
    Changes,
    ClientCounts,
    Clients,
    Purpose,
    Split,
    consecutive,
)
from fedmeta.errors import ConfigError, DataError
from fedmeta.objective import Kind
from fedmeta.seeding import Part, choose, uniform
from fedmeta.types import Batch, Episode


@dataclass(frozen=True)
class Sinusoid:
    """Regression of sines of unknown amplitude and phase (Finn et al. 2017, section 5.1).

    ``y = A sin(f x - p)`` with A in [0.1, 5], p in [0, pi], x in [-5, 5], all uniform, and f = 1.

    Before adaptation no model can have a mean squared error below 3.0 on new clients: the best
    function that does not know the client is ``-(5.1/pi) cos x``.
    """

    shots: int
    """Support examples per episode."""
    queries: int | None
    """Query examples per episode; null: the rest of the shard."""
    clients: ClientCounts
    examples: int
    """Points in each client's shard; with ``least_examples`` the most."""
    least_examples: int | None = None
    """Where given, shards are of unequal size, uniform from this to ``examples``."""
    frequencies: list[float] = field(default_factory=lambda: [1.0, 1.0])
    """Range of the angular frequency; Li et al. 2017 draw it too."""
    held_out: int = 0
    """Points of each training client that no training episode has; they are the queries when clients
    that took part are scored (``evaluation.seen``)."""
    evaluation: Changes = field(default_factory=Changes)
    """Where episodes of evaluation have other numbers of examples."""

    def __post_init__(self) -> None:
        if len(self.frequencies) != 2 or not 0 < self.frequencies[0] <= self.frequencies[1] < 1e9:
            raise ConfigError(
                f"data.frequencies must be [lowest, highest] above 0, got {self.frequencies!r}"
            )
        least = self.examples if self.least_examples is None else self.least_examples
        if least > self.examples:
            raise ConfigError(
                f"data.least_examples must be at most the {self.examples} examples, got {least!r}"
            )
        for where, purpose in PURPOSES:
            shots, queries = self.split(purpose)
            for name, value in (("shots", shots), ("queries", queries)):
                if value is not None and value < 1:
                    raise ConfigError(f"{where}.{name} must be 1 or more, got {value!r}")
            pool = least - self.held_out if purpose == "train" else least
            if shots + (queries or 1) > pool:
                raise DataError(
                    f"data.examples: client 0 holds {pool} examples, an episode needs "
                    f"{shots} (shots) + {queries or 1} (queries) = {shots + (queries or 1)}"
                )
        if self.held_out < 0:
            raise ConfigError(f"data.held_out must be 0 or more, got {self.held_out!r}")
        if self.held_out and not (queries and queries <= self.held_out <= least - shots):
            raise DataError(
                f"data.held_out must be 0 or, of {least} examples, leave {shots} (shots) and have "
                f"{queries} (queries) of an evaluation, got {self.held_out}"
            )

    def split(self, purpose: Purpose) -> tuple[int, int | None]:
        """Support and query examples of an episode; None: the rest of the shard."""
        changes = self.evaluation if purpose == "evaluate" else Changes()
        return (
            self.shots if changes.shots is None else changes.shots,
            self.queries if changes.queries is None else changes.queries,
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

    @property
    def lasting(self) -> bool:
        """A client's sine stays."""
        return True

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
        """Points in each shard."""
        most, least = self.dataset.examples, self.dataset.least_examples
        if least is None:
            return np.full(len(clients), most)
        spread = uniform(self.seed, "sinusoid examples", clients)
        return least + np.floor(spread * (most - least + 1)).astype(np.int64)

    def lengths(self, clients: Clients, purpose: Purpose) -> Clients:
        """Examples of an episode: all of the shard where the query takes the rest of it."""
        shots, queries = self.dataset.split(purpose)
        if queries is not None:
            return np.full(len(clients), shots + queries)
        return self.examples(clients) - (self.dataset.held_out if purpose == "train" else 0)

    def wave(
        self, clients: Clients
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Amplitude, phase and frequency of each client, ``[clients]`` each."""
        amplitude = 0.1 + 4.9 * uniform(self.seed, "sinusoid amplitude", clients)
        low, high = self.dataset.frequencies
        frequency = low + (high - low) * uniform(self.seed, "sinusoid frequency", clients)
        return amplitude, np.pi * uniform(self.seed, "sinusoid phase", clients), frequency

    def draw(
        self, clients: Clients, draws: int, seed: int, purpose: Purpose, *address: Part
    ) -> Episode:
        """Support and query points, inputs and targets ``[clients, draws, examples, 1]``."""
        which = clients[:, None]
        shots, _ = self.dataset.split(purpose)
        (total,) = set(self.lengths(clients, purpose).tolist())
        points = self._points(clients, draws, total, seed, purpose, *address)
        x = -5 + 10 * uniform(self.seed, "sinusoid point", which[..., None], points)
        amplitude, phase, frequency = (part[:, None, None] for part in self.wave(clients))
        y = amplitude * np.sin(frequency * x - phase)
        x_t, y_t = self._tensor(x), self._tensor(y)
        return Episode(
            Batch(x_t[:, :, :shots], y_t[:, :, :shots]), Batch(x_t[:, :, shots:], y_t[:, :, shots:])
        )

    def _points(
        self, clients: Clients, draws: int, total: int, seed: int, purpose: Purpose, *address: Part
    ) -> Clients:
        """Which of its points each client draws, ``[clients, draws, total]``."""
        held, where = self.dataset.held_out, (seed, purpose, *address)
        known = self.examples(clients) - held
        if purpose == "train":
            return self._choose(known, total, clients, draws, *where)
        free = self._choose(known + held, total, clients, draws, *where)
        if not held:
            return free
        shots, _ = self.dataset.split(purpose)
        support = self._choose(known, shots, clients, draws, *where)
        query = choose(held, total - shots, *where, clients[:, None], np.arange(draws))
        kept = np.concatenate([support, known[:, None, None] + query], axis=-1)
        return np.where(np.isin(clients, self.clients("train"))[:, None, None], kept, free)

    @staticmethod
    def _choose(
        sizes: Clients, count: int, clients: Clients, draws: int, *address: Part
    ) -> Clients:
        where = np.arange(draws)
        if len(set(sizes.tolist())) == 1:
            return choose(int(sizes[0]), count, *address, clients[:, None], where)
        each = zip(clients, sizes, strict=True)
        return np.stack(
            [choose(int(size), count, *address, client, where) for client, size in each]
        )

    def _tensor(self, values: NDArray[np.float64]) -> Tensor:
        return torch.as_tensor(values[..., None]).to(self.device, self.dtype)
