"""Data of one's own: every client is a shard file that its owner made from a folder or a table."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from fedmeta.data.classes import ClassEpisodes, HeldClasses
from fedmeta.data.download import local_root
from fedmeta.data.federation import Dataset
from fedmeta.data.shard import Shard, contents, fit, read_shards
from fedmeta.data.values import HeldValues, ValueEpisodes
from fedmeta.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class OwnClasses(ClassEpisodes):
    """Classification of data of one's own: photographs by folder, or the rows of a table by label.

    On a device the client is the shard file in the node's config; in simulation, all shard files of
    a folder.
    """

    shape_of_inputs: list[int] = field(default_factory=list)
    """Images are [channels, height, width], rows of a table [columns]."""
    root: str | None = None
    """For a simulation: the folder of shard files; else FEDMETA_DATA."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_shape(self.shape_of_inputs)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """As the config says: a server has no data to look at."""
        return tuple(self.shape_of_inputs)

    def contents(self) -> str:
        """Of what the folder holds, wherever it lies."""
        return contents(_folder(self.root))

    def open(self, seed: int, device: torch.device, dtype: torch.dtype) -> HeldClasses:
        """The federation of all shards in the folder."""
        return self.hold(_shards(self, "own_classes", self.root), device, dtype)


@dataclass(frozen=True, kw_only=True)
class OwnValues(ValueEpisodes):
    """Regression of data of one's own: the rows of a table.

    On a device the client is the shard file in the node's config; in simulation, all shard files of
    a folder.
    """

    shape_of_inputs: list[int] = field(default_factory=list)
    """Rows of a table are [columns]."""
    outputs: int = 1
    """Values to predict."""
    root: str | None = None
    """For a simulation: the folder of shard files; else FEDMETA_DATA."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_shape(self.shape_of_inputs)
        if self.outputs < 1:
            raise ConfigError(f"data.outputs must be 1 or more, got {self.outputs!r}")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """As the config says: a server has no data to look at."""
        return tuple(self.shape_of_inputs)

    def contents(self) -> str:
        """Of what the folder holds, wherever it lies."""
        return contents(_folder(self.root))

    def open(self, seed: int, device: torch.device, dtype: torch.dtype) -> HeldValues:
        """The federation of all shards in the folder."""
        return self.hold(_shards(self, "own_values", self.root), device, dtype)


def _check_shape(shape: list[int]) -> None:
    if not shape or min(shape) < 1:
        raise ConfigError(f"data.shape_of_inputs must list sizes of 1 or more, got {shape!r}")


def _shards(dataset: Dataset, name: str, root: str | None) -> list[Shard]:
    shards = read_shards(_folder(root))
    fit(shards, dataset, name)
    return shards


def _folder(root: str | None) -> Path:
    folder = local_root(root)
    if folder is None:
        raise DataError("data.root must name a folder of shard files, got nothing")
    return folder
