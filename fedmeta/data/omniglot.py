"""Omniglot: 1623 handwritten characters of 50 alphabets, 20 drawings of each (Lake et al. 2015)."""

from dataclasses import dataclass, field
from typing import Literal

import torch

from fedmeta.data.classes import ClassChanges, ClassEpisodes
from fedmeta.data.federation import PURPOSES, ClientCounts, Purpose
from fedmeta.data.omniglot_federation import OmniglotFederation
from fedmeta.data.omniglot_files import SIZE, read_characters
from fedmeta.errors import ConfigError


@dataclass(frozen=True)
class CharacterChanges(ClassChanges):
    """What episodes of evaluation have in other numbers than those of training."""

    characters: int | None = None
    """Characters in the shards of validation and test clients."""


@dataclass(frozen=True, kw_only=True)
class Omniglot(ClassEpisodes):
    """Handwritten characters of 50 alphabets (Lake et al. 2015), N-way K-shot, 28x28.

    ``pooled``: a client's shard is a few random characters of its split, each as it is or turned by
    90, 180 or 270 degrees, which makes another class. This is the protocol of the few-shot papers.
    ``alphabet``: the 50 alphabets are the clients, of 14 to 55 characters; 25 of the background
    set train, 5 validate, and the 20 of the evaluation set are unseen (Lake et al. 2015).
    """

    federation: Literal["pooled", "alphabet"]
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
    evaluation: CharacterChanges = field(default_factory=CharacterChanges)
    """Where episodes of evaluation have other numbers of classes or drawings."""
    root: str | None = None
    """Folder of local copies of the two zip files; else FEDMETA_DATA, else they are downloaded."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for where, purpose in PURPOSES:
            if (held := self.shard_size(purpose)) < 1:
                raise ConfigError(f"{where}.characters must be 1 or more, got {held!r}")
        if self.labels == "client" and (self.federation, self.characters) != ("pooled", self.ways):
            raise ConfigError(
                "data.labels: client needs the pooled federation with as many characters as ways, "
                f"got {self.federation} with {self.characters} and {self.ways}"
            )
        if self.federation == "alphabet" and self.evaluation.characters is not None:
            raise ConfigError(
                "data.evaluation.characters must not be set for the alphabet federation"
            )
        if self.federation == "pooled" and self.clients is None:
            raise ConfigError("data.clients must be set for the pooled federation, got nothing")
        if self.federation == "alphabet" and self.clients is not None:
            raise ConfigError("data.clients must not be set for the alphabet federation: it has 50")

    def shard_size(self, purpose: Purpose) -> int:
        """Characters of a ``pooled`` client that trains, or of one that is evaluated."""
        changed = self.evaluation.characters if purpose == "evaluate" else None
        return self.characters if changed is None else changed

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Grey images, [channels, height, width]."""
        return (1, SIZE, SIZE)

    def open(self, seed: int, device: torch.device, dtype: torch.dtype) -> OmniglotFederation:
        """The federation, with all images resident on the device as bytes."""
        return OmniglotFederation(self, read_characters(self.root), seed, device, dtype)
