"""``fedmeta shards``: private shards as files, of the clients of a dataset or of data of one's own."""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.table import Table

from fedmeta.config import Experiment
from fedmeta.data.federation import SPLITS
from fedmeta.data.shard import Shard, write_shard
from fedmeta.errors import ConfigError

MOST_CLASSES = 3
"""Class names that the table has room for."""


def take_shards(experiment: Experiment, clients: Sequence[int]) -> list[Shard]:
    """What clients of the experiment's federation hold. Raises ConfigError for one that is not there."""
    federation = experiment.data.open(experiment.seed, torch.device("cpu"), torch.float64)
    ids = {split: federation.clients(split) for split in SPLITS}
    for client in clients:
        if not any(client in each for each in ids.values()):
            there = ", ".join(f"{split} {_ends(each)}" for split, each in ids.items())
            raise ConfigError(f"--clients: {client} is not in the federation; there are {there}")
    return [federation.take(client, experiment.sections["data"]["name"]) for client in clients]


def write_shards(shards: Sequence[Shard], folder: Path) -> list[Path]:
    """One file for each, ``client-<id>.safetensors``. Raises ConfigError where one is there already."""
    paths = [folder / f"client-{shard.client}.safetensors" for shard in shards]
    for path in paths:
        if path.exists():
            raise ConfigError(f"--out: {path} exists already; choose another folder, or delete it")
    for shard, path in zip(shards, paths, strict=True):
        write_shard(shard, path)
    return paths


def table_of(shards: Sequence[Shard], paths: Sequence[Path]) -> Table:
    """What was written."""
    table = Table("file", "client", "split", "examples", "classes")
    for shard, path in zip(shards, paths, strict=True):
        few = ", ".join(shard.classes[:MOST_CLASSES])
        more = len(shard.classes) - MOST_CLASSES
        classes = f"{len(shard.classes)}: {few}" + (f" and {more} more" if more > 0 else "")
        table.add_row(
            path.name,
            str(shard.client),
            shard.split,
            str(len(shard.y)),
            classes if shard.classes else f"{shard.y.shape[1]} values",
        )
    return table


def _ends(ids: Sequence[int]) -> str:
    return f"{ids[0]} to {ids[-1]}" if len(ids) else "none"
