"""Few-shot regression: episodes of clients that hold rows of inputs and values."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmeta.data.federation import PURPOSES, SPLITS, Changes, Clients, Purpose, Split
from fedmeta.data.shard import Shard, by_split
from fedmeta.errors import ConfigError, DataError
from fedmeta.objective import Kind
from fedmeta.seeding import Part, choose, choose_each
from fedmeta.types import Batch, Episode


@dataclass(frozen=True, kw_only=True)
class ValueEpisodes:
    """How large the episodes of a regression are."""

    shots: int
    """Support examples per episode."""
    queries: int | None
    """Query examples per episode; null: the rest of the shard."""
    held_out: int = 0
    """Examples of each training client that no training episode has; they are the queries when
    clients that took part are scored (``evaluation.seen``)."""
    evaluation: Changes = field(default_factory=Changes)
    """Where episodes of evaluation have other numbers of examples."""

    def __post_init__(self) -> None:
        for where, purpose in PURPOSES:
            for name, value in zip(("shots", "queries"), self.split(purpose), strict=True):
                if value is not None and value < 1:
                    raise ConfigError(f"{where}.{name} must be 1 or more, got {value!r}")
        if self.held_out < 0:
            raise ConfigError(f"data.held_out must be 0 or more, got {self.held_out!r}")

    def split(self, purpose: Purpose) -> tuple[int, int | None]:
        """Support and query examples of an episode; None: the rest of the shard."""
        changes = self.evaluation if purpose == "evaluate" else Changes()
        return (
            self.shots if changes.shots is None else changes.shots,
            self.queries if changes.queries is None else changes.queries,
        )

    def check(self, client: int, size: int, trains: bool = True) -> None:
        """Refuse a shard too small for the episodes that are asked of it. Raises DataError."""
        for _, purpose in PURPOSES if trains else PURPOSES[1:]:
            shots, queries = self.split(purpose)
            pool = size - self.held_out if purpose == "train" else size
            if shots + (queries or 1) > pool:
                raise DataError(
                    f"data.examples: client {client} holds {pool} examples, an episode needs "
                    f"{shots} (shots) + {queries or 1} (queries) = {shots + (queries or 1)}"
                )
            if (
                trains
                and purpose == "evaluate"
                and self.held_out
                and not (queries and queries <= self.held_out <= size - shots)
            ):
                raise DataError(
                    f"data.held_out must be 0 or, of {size} examples, leave {shots} (shots) and have "
                    f"{queries} (queries) of an evaluation, got {self.held_out}"
                )

    @property
    def objective(self) -> Kind:
        """Regression."""
        return "mean_squared_error"

    @property
    def lasting(self) -> bool:
        """What a client's values are of stays."""
        return True

    def contents(self) -> str:
        """Nothing: the settings say which data they are."""
        return ""

    def hold(
        self, shards: Sequence[Shard], device: torch.device, dtype: torch.dtype
    ) -> "HeldValues":
        """The federation of the clients whose shards are here."""
        return HeldValues(self, shards, device, dtype)


class ValueFederation(ABC):
    """Draws episodes, whoever stores the examples."""

    def __init__(self, episodes: ValueEpisodes, device: torch.device, dtype: torch.dtype) -> None:
        self.episodes, self.device, self.dtype = episodes, device, dtype

    @abstractmethod
    def clients(self, split: Split) -> Sequence[int]:
        """The ids of a split's clients."""

    @abstractmethod
    def examples(self, clients: Clients) -> Clients:
        """Examples in each shard."""

    @abstractmethod
    def rows(
        self, clients: Clients, members: Clients
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Examples of clients by number: ``[..., inputs]`` and ``[..., outputs]``.

        Clients ``[clients]``, members ``[clients, ...]``.
        """

    def lengths(self, clients: Clients, purpose: Purpose) -> Clients:
        """Examples of an episode: all of the shard where the query takes the rest of it."""
        shots, queries = self.episodes.split(purpose)
        if queries is not None:
            return np.full(len(clients), shots + queries)
        return self.examples(clients) - (self.episodes.held_out if purpose == "train" else 0)

    def take(self, client: int, dataset: str) -> Shard:
        """All that a client holds."""
        split = next(s for s in SPLITS if client in self.clients(s))
        ids = np.array([client])
        x, y = self.rows(ids, np.arange(self.examples(ids)[0])[None])
        return Shard(dataset, client, split, torch.as_tensor(x[0]), torch.as_tensor(y[0]))

    def draw(
        self, clients: Clients, draws: int, seed: int, purpose: Purpose, *address: Part
    ) -> Episode:
        """Inputs and values, ``[clients, draws, examples, ...]``."""
        shots, _ = self.episodes.split(purpose)
        (total,) = set(self.lengths(clients, purpose).tolist())
        members = self._members(clients, draws, total, seed, purpose, *address)
        x, y = map(self._tensor, self.rows(clients, members))
        return Episode(
            Batch(x[:, :, :shots], y[:, :, :shots]), Batch(x[:, :, shots:], y[:, :, shots:])
        )

    def _members(
        self, clients: Clients, draws: int, total: int, seed: int, purpose: Purpose, *address: Part
    ) -> Clients:
        """Which of its examples each client draws, ``[clients, draws, total]``."""
        held, slots = self.episodes.held_out, (clients[:, None], np.arange(draws))
        where = (seed, purpose, *address)
        sizes = self.examples(clients)[:, None]
        if purpose == "train":
            return choose_each(sizes - held, total, *where, *slots)
        free = choose_each(sizes, total, *where, *slots)
        trained = np.isin(clients, self.clients("train"))[:, None]
        if not held or not trained.any():
            return free
        known = np.where(trained, sizes - held, sizes)
        shots, _ = self.episodes.split(purpose)
        support = choose_each(known, shots, *where, *slots)
        query = choose(held, total - shots, *where, *slots)
        kept = np.concatenate([support, known[..., None] + query], axis=-1)
        return np.where(trained[..., None], kept, free)

    def _tensor(self, values: NDArray[np.float64]) -> Tensor:
        return torch.as_tensor(values).to(self.device, self.dtype)


class HeldValues(ValueFederation):
    """Clients whose shards are at hand."""

    def __init__(
        self,
        episodes: ValueEpisodes,
        shards: Sequence[Shard],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(episodes, device, dtype)
        self._ids = by_split(shards)
        self._shards = {s.client: (s.x.double().numpy(), s.y.double().numpy()) for s in shards}
        for shard in shards:
            episodes.check(shard.client, len(shard.y), trains=shard.split == "train")

    def clients(self, split: Split) -> Sequence[int]:
        """The ids of a split's clients."""
        return self._ids[split]

    def examples(self, clients: Clients) -> Clients:
        """Examples in each shard."""
        return np.array([len(self._shards[client][1]) for client in clients.tolist()])

    def rows(
        self, clients: Clients, members: Clients
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Examples of clients by number."""
        held = [self._shards[client] for client in clients.tolist()]
        x, y = (
            np.stack([shard[part][m] for shard, m in zip(held, members, strict=True)])
            for part in (0, 1)
        )
        return x, y
