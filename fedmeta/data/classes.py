"""Few-shot classification: N-way K-shot episodes of clients that hold classes of examples."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedmeta.data.federation import PURPOSES, Changes, Clients, Purpose, Split
from fedmeta.data.shard import Shard, as_inputs, by_split
from fedmeta.errors import ConfigError, DataError
from fedmeta.objective import Kind
from fedmeta.seeding import Part, choose, choose_each
from fedmeta.types import Batch, Episode


@dataclass(frozen=True)
class ClassChanges(Changes):
    """What episodes of evaluation have in other numbers than those of training."""

    ways: int | None = None


@dataclass(frozen=True, kw_only=True)
class ClassEpisodes:
    """How large the episodes of a classification are."""

    ways: int
    """Classes per episode (N)."""
    shots: int
    """Support examples per class (K)."""
    queries: int
    """Query examples per class."""
    labels: Literal["episode", "client", "class"] = "episode"
    """``episode``: classes are numbered anew in every draw. ``client``: a client's class keeps its
    number, as private heads need it; a shard then has exactly ``ways`` classes. ``class``: a class has
    one number on all clients, and the model an output for each class that there is; for datasets
    whose clients share their classes (``cifar10``)."""
    held_out: int = 0
    """Examples of each class of training clients that no training episode has; they are the queries
    when clients that took part are scored (``evaluation.seen``)."""
    evaluation: ClassChanges = field(default_factory=ClassChanges)
    """Where episodes of evaluation have other numbers of classes or examples."""

    def __post_init__(self) -> None:
        for where, purpose in PURPOSES:
            ways, shots, queries = self.shape(purpose)
            if ways < 2:
                raise ConfigError(f"{where}.ways must be 2 or more, got {ways!r}")
            if ways > self.ways:
                raise ConfigError(
                    f"{where}.ways must be at most data.ways {self.ways}, got {ways!r}"
                )
            for name, value in (("shots", shots), ("queries", queries)):
                if value < 1:
                    raise ConfigError(f"{where}.{name} must be 1 or more, got {value!r}")
        if self.held_out < 0:
            raise ConfigError(f"data.held_out must be 0 or more, got {self.held_out!r}")
        if self.labels == "class" and not self.shared:
            raise ConfigError(
                "data.labels: class needs a dataset whose clients share their classes, as cifar10; "
                "here it must be episode or client"
            )
        if self.labels == "client" and self.shape("evaluate")[0] != self.ways:
            raise ConfigError(
                f"data.evaluation.ways must be data.ways {self.ways} where classes keep their "
                f"numbers, got {self.shape('evaluate')[0]}"
            )

    def shape(self, purpose: Purpose) -> tuple[int, int, int]:
        """Ways, shots and queries of an episode."""
        changes = self.evaluation if purpose == "evaluate" else ClassChanges()
        return (
            self.ways if changes.ways is None else changes.ways,
            self.shots if changes.shots is None else changes.shots,
            self.queries if changes.queries is None else changes.queries,
        )

    @property
    def shared(self) -> tuple[str, ...]:
        """Names of the classes by number, where all clients have them out of the same few."""
        return ()

    @property
    def outputs(self) -> int:
        """One logit per class of the episode, or of the dataset where its numbers are the labels."""
        return len(self.shared) if self.labels == "class" else self.ways

    @property
    def objective(self) -> Kind:
        """Classification."""
        return "cross_entropy"

    @property
    def lasting(self) -> bool:
        """Whether classes keep their numbers."""
        return self.labels != "episode"

    def contents(self) -> str:
        """Nothing: the settings say which data they are."""
        return ""

    def hold(
        self, shards: Sequence[Shard], device: torch.device, dtype: torch.dtype
    ) -> "HeldClasses":
        """The federation of the clients whose shards are here."""
        return HeldClasses(self, shards, device, dtype)


class ClassFederation(ABC):
    """Draws episodes, whoever stores the examples."""

    def __init__(
        self, episodes: ClassEpisodes, ids: Mapping[Split, Sequence[int]], dtype: torch.dtype
    ) -> None:
        self.episodes, self._ids, self._dtype = episodes, ids, dtype

    @abstractmethod
    def shard(self, client: int) -> Clients:
        """The classes of a client."""

    @abstractmethod
    def sizes(self, classes: Clients) -> Clients:
        """How many examples each class has."""

    @abstractmethod
    def gather(self, classes: Clients, members: Clients) -> Tensor:
        """Examples of classes by number, ``[..., *input_shape]``, as they are stored."""

    @abstractmethod
    def names(self, classes: Clients) -> list[str]:
        """What a person calls the classes."""

    def clients(self, split: Split) -> Sequence[int]:
        """The ids of a split's clients."""
        return self._ids[split]

    def examples(self, clients: Clients) -> Clients:
        """Examples in each shard."""
        return np.array([self.sizes(self.shard(int(client))).sum() for client in clients])

    def lengths(self, clients: Clients, purpose: Purpose) -> Clients:
        """Examples in an episode."""
        ways, shots, queries = self.episodes.shape(purpose)
        return np.full(len(clients), ways * (shots + queries))

    def take(self, client: int, dataset: str) -> Shard:
        """All that a client holds."""
        split = next(split for split, ids in self._ids.items() if client in ids)
        classes = self.shard(client)
        counts = self.sizes(classes)
        members = np.concatenate([np.arange(count) for count in counts])
        x = self.gather(classes.repeat(counts), members)
        y = torch.as_tensor(np.arange(len(classes)).repeat(counts))
        return Shard(dataset, client, split, x, y, tuple(self.names(classes)))

    def draw(
        self, clients: Clients, draws: int, seed: int, purpose: Purpose, *address: Part
    ) -> Episode:
        """Inputs ``[clients, draws, examples, ...]``, labels ``[clients, draws, examples]``.

        Examples come class by class in turn, so that every run of N has each class once.
        """
        ways, shots, queries = self.episodes.shape(purpose)
        where = (seed, purpose, *address)
        classes = np.stack([self._draw_classes(int(c), draws, ways, *where) for c in clients])
        members = self._draw_members(clients, classes, shots, queries, purpose, *where)
        inputs = self.gather(classes[..., None, :], np.moveaxis(members, -1, -2))
        x = as_inputs(inputs, self._dtype)
        labels = torch.as_tensor(self._labels(classes), device=x.device)
        labels = labels[:, :, None].expand(-1, -1, shots + queries, -1)
        return Episode(
            *(
                Batch(x[:, :, part].flatten(2, 3), labels[:, :, part].flatten(2, 3))
                for part in (slice(None, shots), slice(shots, None))
            )
        )

    def _draw_classes(self, client: int, draws: int, ways: int, *address: Part) -> Clients:
        shard = self.shard(client)
        if self.episodes.labels == "client":
            return np.broadcast_to(shard, (draws, ways))
        picks = choose(len(shard), ways, *address, "classes", client, np.arange(draws))
        return shard[picks]

    def _labels(self, classes: Clients) -> Clients:
        """The labels of the classes of episodes, ``[clients, draws, ways]``."""
        if self.episodes.labels != "class":
            return np.broadcast_to(np.arange(classes.shape[-1]), classes.shape).copy()
        numbers = [self.episodes.shared.index(name) for name in self.names(classes.ravel())]
        return np.array(numbers).reshape(classes.shape)

    def _draw_members(
        self,
        clients: Clients,
        classes: Clients,
        shots: int,
        queries: int,
        purpose: Purpose,
        *address: Part,
    ) -> Clients:
        """Which examples of each class are drawn, ``[clients, draws, ways, shots + queries]``."""
        held, sizes = self.episodes.held_out, self.sizes(classes)
        _, draws, ways = classes.shape
        slots = (clients[:, None, None], np.arange(draws)[:, None], np.arange(ways))
        where = (*address, "drawings", *slots)
        if purpose == "train":
            return choose_each(sizes - held, shots + queries, *where)
        free = choose_each(sizes, shots + queries, *where)
        trained = np.isin(clients, self._ids["train"])[:, None, None]
        if not held or not trained.any():
            return free
        known = np.where(trained, sizes - held, sizes)
        support = choose_each(known, shots, *where)
        query = known[..., None] + choose(held, queries, *where)
        kept = np.concatenate([support, query], axis=-1)
        return np.where(trained[..., None], kept, free)

    def check(self, clients: Sequence[int]) -> None:
        """Refuse shards too small for the episodes that are asked of them. Raises DataError."""
        for client in clients:
            trains = client in self._ids["train"]
            self._check(client, *PURPOSES[0 if trains else 1])
            if trains and self.episodes.held_out:
                self._check_held_out(client)

    def _check(self, client: int, where: str, purpose: Purpose) -> None:
        ways, shots, queries = self.episodes.shape(purpose)
        shard = self.shard(client)
        if len(shard) < ways:
            raise DataError(
                f"{where}.ways: client {client} holds {len(shard)} classes, "
                f"a {ways}-way episode is missing {ways - len(shard)}"
            )
        if self.episodes.labels == "client" and len(shard) != ways:
            raise DataError(
                f"data.labels: client {client} holds {len(shard)} classes; where they keep their "
                f"numbers, it must be data.ways {ways}"
            )
        shared = self.episodes.shared if self.episodes.labels == "class" else ()
        if shared and (odd := sorted({*self.names(shard)} - {*shared})):
            raise DataError(
                f"data.labels: client {client} holds a class {odd[0]!r}; where classes have one number "
                f"on all clients, they are {', '.join(shared)}"
            )
        held = self.episodes.held_out if purpose == "train" else 0
        if shots + queries > (pool := int(self.sizes(shard).min()) - held):
            raise DataError(
                f"{where}: client {client} holds {pool} examples of a class, an episode needs "
                f"{shots} (shots) + {queries} (queries) = {shots + queries}"
            )

    def _check_held_out(self, client: int) -> None:
        held, size = self.episodes.held_out, int(self.sizes(self.shard(client)).min())
        _, shots, queries = self.episodes.shape("evaluate")
        if queries > held or shots > size - held:
            raise DataError(
                f"data.held_out must be 0 or, of {size} examples, leave {shots} (shots) and have "
                f"{queries} (queries) of an evaluation, got {held}"
            )


class HeldClasses(ClassFederation):
    """Clients whose shards are at hand."""

    def __init__(
        self,
        episodes: ClassEpisodes,
        shards: Sequence[Shard],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(episodes, by_split(shards), dtype)
        counts = [shard.counts for shard in shards]
        self._sizes = np.array([count for each in counts for count in each])
        self._starts = np.cumsum(self._sizes) - self._sizes
        firsts = np.cumsum([0, *map(len, counts)])
        self._classes = {
            shard.client: np.arange(first, first + len(shard.classes))
            for shard, first in zip(shards, firsts[:-1], strict=True)
        }
        self._names = [name for shard in shards for name in shard.classes]
        inputs = [shard.x for shard in shards]
        if len({x.dtype for x in inputs}) > 1:
            inputs = [as_inputs(x, dtype) for x in inputs]
        self._x = torch.cat(inputs).to(device)
        self.check([shard.client for shard in shards])

    def shard(self, client: int) -> Clients:
        """The classes of a client."""
        return self._classes[client]

    def sizes(self, classes: Clients) -> Clients:
        """How many examples each class has."""
        return self._sizes[classes]

    def gather(self, classes: Clients, members: Clients) -> Tensor:
        """Examples as they are stored."""
        return self._x[torch.as_tensor(self._starts[classes] + members, device=self._x.device)]

    def names(self, classes: Clients) -> list[str]:
        """As the owner named them."""
        return [self._names[number] for number in classes]
