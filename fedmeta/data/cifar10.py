"""CIFAR-10 with few images of each class, dealt to clients that hold some of the classes."""

from dataclasses import dataclass
from typing import Literal

import torch

from fedmeta.data.cifar10_federation import shards
from fedmeta.data.cifar10_files import CLASSES, SHAPE, read_cifar10
from fedmeta.data.classes import ClassEpisodes, HeldClasses
from fedmeta.data.federation import ClientCounts
from fedmeta.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Cifar10(ClassEpisodes):
    """Colour photographs of 10 classes (Krizhevsky 2009), few of each and dealt to clients, 32x32.

    Training clients share the first ``images`` of every class of the training set, validation
    clients those that follow, test clients the first of the test set. In each split a client has as
    many on average. All clients have classes of the same 10: for new classes take another dataset.

    A class of which a client has too few images for an episode is no part of its shard, and a client
    with fewer such classes than ``ways`` takes no part.
    """

    partition: Literal["classes", "dirichlet"]
    """``classes``: a client has images of ``classes`` of the classes, as many of each where the
    clients of its split are a multiple of 10. ``dirichlet``: of every class, the clients have
    Dirichlet(alpha) parts (Yurochkin et al. 2019)."""
    clients: ClientCounts
    images: int = 50
    """Of each class, that all training clients have together."""
    classes: int = 5
    """Of a client, for ``classes``."""
    alpha: float = 0.5
    """For ``dirichlet``; the smaller, the fewer classes a client has much of."""
    root: str | None = None
    """Folder of a local copy; else FEDMETA_DATA, else it is downloaded."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images < 1:
            raise ConfigError(f"data.images must be 1 or more, got {self.images!r}")
        if not 0 < self.alpha < float("inf"):
            raise ConfigError(f"data.alpha must be a number above 0, got {self.alpha!r}")
        most = self.classes if self.partition == "classes" else len(CLASSES)
        if not 1 <= self.classes <= len(CLASSES):
            raise ConfigError(f"data.classes must be 1 to {len(CLASSES)}, got {self.classes!r}")
        if self.ways > most:
            raise ConfigError(
                f"data.ways must be at most the {most} classes of a client, got {self.ways}"
            )
        if self.labels == "client" and (self.partition, self.classes) != ("classes", self.ways):
            raise ConfigError(
                "data.labels: client needs the partition classes with as many classes as ways, got "
                f"{self.partition} with {self.classes} and {self.ways}"
            )

    @property
    def shared(self) -> tuple[str, ...]:
        """The 10 classes."""
        return CLASSES

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Colour images, [channels, height, width]."""
        return SHAPE

    def open(self, seed: int, device: torch.device, dtype: torch.dtype) -> HeldClasses:
        """The federation, with its images resident on the device as bytes."""
        return self.hold(shards(self, read_cifar10(self.root), seed), device, dtype)
