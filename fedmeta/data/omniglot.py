"""Omniglot: 1623 handwritten characters of 50 alphabets, 20 drawings of each (Lake et al. 2015)."""

from dataclasses import dataclass, field
from typing import Literal

import torch

from fedmeta.data.federation import PURPOSES, ClassChanges, ClientCounts, Purpose
from fedmeta.data.omniglot_federation import OmniglotFederation
from fedmeta.data.omniglot_files import SIZE, read_characters
from fedmeta.errors import ConfigError
from fedmeta.objective import Kind


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
