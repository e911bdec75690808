"""Omniglot: 1623 handwritten characters of 50 alphabets, 20 drawings of each (Lake et al. 2015)."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedmeta.data.federation import (
    PURPOSES,
    ClassChanges,
    ClientCounts,
    Clients,
    Purpose,
    Split,
    consecutive,
)
from fedmeta.data.omniglot_files import DRAWINGS, SIZE, Characters, read_characters
from fedmeta.errors import ConfigError, DataError
from fedmeta.objective import Kind
from fedmeta.seeding import Part, choose
from fedmeta.types import Batch, Episode

VINYALS_VAL = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
VINYALS_TEST = (
    "Kannada", "Keble", "Malayalam", "Manipuri", "Mongolian", "Old_Church_Slavonic_(Cyrillic)",
    "Oriya", "Sylheti", "Syriac_(Serto)", "Tengwar", "Tibetan", "ULOG",
)  # fmt: skip
ROTATIONS = 4


@dataclass(frozen=True)
class Omniglot:
    """Handwritten characters of 50 alphabets (Lake et al. 2015), N-way K-shot, 28x28.

    ``pooled``: a client's shard is a few random characters of its split, each as it is or turned by
    90, 180 or 270 degrees, which makes another class. This is the protocol of the few-shot papers.
    ``alphabet``: the 50 alphabets are the clients, of 14 to 55 characters; 25 of the background
    set train, 5 validate, and the 20 of the evaluation set are unseen (Lake et al. 2015).
    """

    federation: Literal["pooled", "alphabet"]
    ways: int
    """Classes per episode (N)."""
    shots: int
    """Support drawings per class (K)."""
    queries: int
    """Query drawings per class."""
    split: Literal["vinyals", "maml"] = "vinyals"
    """Characters of ``pooled`` for train/val/test: 1028/172/423 of Vinyals et al. 2016 by alphabet,
    or 1100/100/423 shuffled, as Finn et al. 2017 (their own shuffle is not reproducible; this is a
    fixed one over the sorted names)."""
    rotations: bool = True
    """Whether turned characters of ``pooled`` are further classes; alphabets are not turned."""
    characters: int = 5
    """Characters in a shard of ``pooled``."""
    clients: ClientCounts | None = None
    """Registered clients of ``pooled``; ``alphabet`` has its 25, 5 and 20."""
    labels: Literal["episode", "client"] = "episode"
    """``episode``: classes are numbered anew in every draw. ``client``: a client's class keeps its
    number, as private heads need it; a shard then has exactly ``ways`` characters."""
    held_out: int = 0
    """Drawings of each character of training clients that no training episode has; they are the
    queries when clients that took part are scored (``evaluation.seen``)."""
    evaluation: ClassChanges = field(default_factory=ClassChanges)
    """Where episodes of evaluation have other numbers of classes or drawings."""
    root: str | None = None
    """Folder of local copies of the two zip files; else FEDMETA_DATA, else they are downloaded."""

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
        for where, purpose in PURPOSES:
            if (held := self.shard_size(purpose)) < 1:
                raise ConfigError(f"{where}.characters must be 1 or more, got {held!r}")
        if self.held_out < 0:
            raise ConfigError(f"data.held_out must be 0 or more, got {self.held_out!r}")
        if self.labels == "client" and (self.federation, self.characters) != ("pooled", self.ways):
            raise ConfigError(
                "data.labels: client needs the pooled federation with as many characters as ways, "
                f"got {self.federation} with {self.characters} and {self.ways}"
            )
        if self.labels == "client" and self.shape("evaluate")[0] != self.ways:
            raise ConfigError(
                f"data.evaluation.ways must be data.ways {self.ways} where classes keep their "
                f"numbers, got {self.shape('evaluate')[0]}"
            )
        if self.federation == "alphabet" and self.evaluation.characters is not None:
            raise ConfigError(
                "data.evaluation.characters must not be set for the alphabet federation"
            )
        if self.federation == "pooled" and self.clients is None:
            raise ConfigError("data.clients must be set for the pooled federation, got nothing")
        if self.federation == "alphabet" and self.clients is not None:
            raise ConfigError("data.clients must not be set for the alphabet federation: it has 50")

    def shape(self, purpose: Purpose) -> tuple[int, int, int]:
        """Ways, shots and queries of an episode."""
        changes = self.evaluation if purpose == "evaluate" else ClassChanges()
        return (
            self.ways if changes.ways is None else changes.ways,
            self.shots if changes.shots is None else changes.shots,
            self.queries if changes.queries is None else changes.queries,
        )

    def shard_size(self, purpose: Purpose) -> int:
        """Characters of a ``pooled`` client that trains, or of one that is evaluated."""
        changed = self.evaluation.characters if purpose == "evaluate" else None
        return self.characters if changed is None else changed

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Grey images, [channels, height, width]."""
        return (1, SIZE, SIZE)

    @property
    def outputs(self) -> int:
        """One logit per class of the episode."""
        return self.ways

    @property
    def objective(self) -> Kind:
        """Classification."""
        return "cross_entropy"

    @property
    def lasting(self) -> bool:
        """Whether classes keep their numbers."""
        return self.labels == "client"

    def open(self, seed: int, device: torch.device, dtype: torch.dtype) -> "OmniglotFederation":
        """The federation, with all images resident on the device as bytes."""
        return OmniglotFederation(self, read_characters(self.root), seed, device, dtype)


class OmniglotFederation:
    """Shards of character classes; class ``4 i + r`` is character ``i`` turned by ``r`` right angles."""

    def __init__(
        self,
        dataset: Omniglot,
        characters: Characters,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.dataset, self._seed, self._dtype = dataset, seed, dtype
        self._turns = ROTATIONS if dataset.rotations else 1
        self._images = torch.as_tensor(characters.images, device=device)
        if dataset.federation == "pooled":
            assert dataset.clients is not None
            self._ids = consecutive(dataset.clients)
            self._pools = pooled_characters(characters, dataset.split)
        else:
            self._ids = consecutive(ClientCounts(train=25, val=5, test=20))
            self._alphabets = alphabet_characters(characters)
        self._check_sizes()

    def clients(self, split: Split) -> range:
        """The ids of a split's clients."""
        return self._ids[split]

    def examples(self, clients: Clients) -> Clients:
        """Drawings in each shard."""
        return DRAWINGS * np.array([len(self.shard(int(client))) for client in clients])

    def shard(self, client: int) -> Clients:
        """The classes of a client."""
        if self.dataset.federation == "alphabet":
            return self._alphabets[client] * ROTATIONS
        pool = next(self._pools[split] for split, ids in self._ids.items() if client in ids)
        classes = len(pool) * self._turns
        size = self.dataset.shard_size("train" if client in self._ids["train"] else "evaluate")
        picks = choose(classes, size, self._seed, "shard", client)
        return pool[picks // self._turns] * ROTATIONS + picks % self._turns

    def lengths(self, clients: Clients, purpose: Purpose) -> Clients:
        """Drawings in an episode."""
        ways, shots, queries = self.dataset.shape(purpose)
        return np.full(len(clients), ways * (shots + queries))

    def draw(
        self, clients: Clients, draws: int, seed: int, purpose: Purpose, *address: Part
    ) -> Episode:
        """Images ``[clients, draws, examples, 1, 28, 28]``, labels ``[clients, draws, examples]``.

        Examples come class by class in turn, so that every run of N has each class once.
        """
        ways, shots, queries = self.dataset.shape(purpose)
        total, where = shots + queries, (seed, purpose, *address)
        classes = np.stack([self._draw_classes(int(c), draws, ways, *where) for c in clients])
        slots = (clients[:, None, None], np.arange(draws)[:, None], np.arange(ways))
        drawings = choose(self._pool(purpose), total, *where, "drawings", *slots)
        if purpose == "evaluate" and self.dataset.held_out:
            kept = self._kept(shots, queries, *where, "drawings", *slots)
            trained = np.isin(clients, self._ids["train"])[:, None, None, None]
            drawings = np.where(trained, kept, drawings)
        images = self._gather(classes[..., None, :], np.moveaxis(drawings, -1, -2))
        labels = torch.arange(ways, device=images.device)
        labels = labels.expand(len(clients), draws, total, -1)
        return Episode(
            *(
                Batch(images[:, :, part].flatten(2, 3), labels[:, :, part].flatten(2, 3))
                for part in (slice(None, shots), slice(shots, None))
            )
        )

    def _pool(self, purpose: Purpose) -> int:
        """Drawings of a character that an episode of a client is drawn from."""
        return DRAWINGS - (self.dataset.held_out if purpose == "train" else 0)

    def _kept(self, shots: int, queries: int, *address: Part) -> Clients:
        """Support from what training draws from, query from what is kept from it."""
        known, held = self._pool("train"), self.dataset.held_out
        support = choose(known, shots, *address)
        return np.concatenate([support, known + choose(held, queries, *address)], axis=-1)

    def _draw_classes(self, client: int, draws: int, ways: int, *address: Part) -> Clients:
        shard = self.shard(client)
        if self.dataset.labels == "client":
            return np.broadcast_to(shard, (draws, ways))
        picks = choose(len(shard), ways, *address, "classes", client, np.arange(draws))
        return shard[picks]

    def _gather(self, classes: Clients, drawings: Clients) -> Tensor:
        classes, drawings = np.broadcast_arrays(classes, drawings)
        turns = torch.as_tensor(classes % ROTATIONS, device=self._images.device)
        images = self._images[classes // ROTATIONS, drawings]
        for turn in range(1, ROTATIONS):
            chosen = turns == turn
            images[chosen] = torch.rot90(images[chosen], turn, dims=(-2, -1))
        return images.unsqueeze(-3).to(self._dtype) / 255

    def _check_sizes(self) -> None:
        for where, purpose in PURPOSES:
            _, shots, queries = self.dataset.shape(purpose)
            if shots + queries > (pool := self._pool(purpose)):
                raise DataError(
                    f"{where}: client 0 holds {pool} drawings of each character, an episode "
                    f"needs {shots} (shots) + {queries} (queries) = {shots + queries}"
                )
        held = self.dataset.held_out
        if held and (queries > held or shots > DRAWINGS - held):
            raise DataError(
                f"data.held_out must be 0 or, of {DRAWINGS} drawings, leave {shots} (shots) and have "
                f"{queries} (queries) of an evaluation, got {held}"
            )
        for split, ids in self._ids.items():
            where, purpose = PURPOSES[0 if split == "train" else 1]
            if self.dataset.federation == "pooled":
                classes = len(self._pools[split]) * self._turns
                if (size := self.dataset.shard_size(purpose)) > classes:
                    raise DataError(
                        f"{where}.characters must be at most the {classes} classes of the {split} "
                        f"split, got {size}"
                    )
                ids = ids[:1]  # all are of one size
            need = self.dataset.shape(purpose)[0]
            for client in ids:
                if (held := len(self.shard(client))) < need:
                    raise DataError(
                        f"{where}.ways: client {client} holds {held} characters, "
                        f"a {need}-way episode is missing {need - held}"
                    )


def pooled_characters(characters: Characters, split: str) -> dict[Split, Clients]:
    """Character indices of train, val and test."""
    if split == "maml":
        order = choose(len(characters.alphabets), len(characters.alphabets), "omniglot maml split")
        return {"train": order[:1100], "val": order[1100:1200], "test": order[1200:]}
    part = np.full(len(characters.alphabets), "train")
    part[np.isin(characters.alphabets, VINYALS_VAL)] = "val"
    part[np.isin(characters.alphabets, VINYALS_TEST)] = "test"
    part[(characters.alphabets == "Gurmukhi") & (characters.numbers >= 42)] = "test"
    return {name: np.flatnonzero(part == name) for name in ("train", "val", "test")}


def alphabet_characters(characters: Characters) -> list[Clients]:
    """Character indices of the alphabets: 25 that train, 5 that validate, 20 unseen."""
    background = sorted(set(characters.alphabets[characters.background]))
    evaluation = sorted(set(characters.alphabets[~characters.background]))
    order = choose(len(background), len(background), "omniglot alphabet split")
    names = [background[i] for i in order] + evaluation
    return [np.flatnonzero(characters.alphabets == name) for name in names]
