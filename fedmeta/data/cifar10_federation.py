"""Who holds which images of CIFAR-10."""

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch

from fedmeta.data.cifar10_files import CLASSES, Images, Parts
from fedmeta.data.federation import SPLITS, Clients, Purpose, Split, consecutive
from fedmeta.data.partitions import by_classes, by_dirichlet
from fedmeta.data.shard import Shard
from fedmeta.errors import DataError
from fedmeta.seeding import bits

if TYPE_CHECKING:
    from fedmeta.data.cifar10 import Cifar10

_log = logging.getLogger(__name__)


def shards(dataset: "Cifar10", parts: Parts, seed: int) -> list[Shard]:
    """The shards of all clients that can give an episode. Raises DataError where a split has none."""
    return [shard for split in SPLITS for shard in _of_split(dataset, parts, split, seed)]


def _of_split(dataset: "Cifar10", parts: Parts, split: Split, seed: int) -> list[Shard]:
    images = parts.test if split == "test" else parts.train
    pool, (ways, needed) = _pool(dataset, images, split), _asked(dataset, split)
    numbers = consecutive(dataset.clients)[split]
    made = []
    for client, rows in zip(numbers, _dealt(dataset, images.y[pool], split, seed), strict=True):
        usable = _usable(images.y, pool[rows], needed)
        if len(np.unique(images.y[usable])) >= ways:
            made.append(_shard(images, usable, client, split))
    if not made:
        raise DataError(
            f"data: none of the {len(numbers)} {split} clients has {ways} classes with {needed} "
            "images each, as an episode needs; ask for fewer ways, shots, queries or training clients, "
            f"for more images, or for {_better(dataset)}"
        )
    left, used = len(numbers) - len(made), sum(len(shard.y) for shard in made)
    if left or used < len(pool):
        _log.warning(
            "cifar10: %d of %d %s clients are left out, without %d classes of %d images; %d of %d "
            "images take part", left, len(numbers), split, ways, needed, used, len(pool),
        )  # fmt: skip
    return made


def _better(dataset: "Cifar10") -> str:
    """What makes clients more alike."""
    multiple = f"clients in multiples of {len(CLASSES)}"
    return multiple if dataset.partition == "classes" else "a greater alpha"


def _pool(dataset: "Cifar10", images: Images, split: Split) -> Clients:
    """Where the images of a split's clients are, class by class."""
    begin = dataset.images if split == "val" else 0
    clients, have = getattr(dataset.clients, split), images.per_class - begin
    count = max(1, round(dataset.images * clients / dataset.clients.train))
    if count > have and split == "train":
        raise DataError(
            f"data.images must be at most the {have} of a class that the training set at hand has, "
            f"got {count}"
        )
    if count > have:
        raise DataError(
            f"data.clients.{split} must be at most {have * dataset.clients.train // dataset.images}, "
            f"got {clients}: the {'test' if split == 'test' else 'training'} set at hand has {have} "
            f"images of a class for them, {count} are needed"
        )
    return np.concatenate([images.of_class(c)[begin : begin + count] for c in range(len(CLASSES))])


def _dealt(dataset: "Cifar10", labels: Clients, split: Split, seed: int) -> list[Clients]:
    """Places in the pool of each client's images, ascending."""
    clients, own = getattr(dataset.clients, split), int(bits(seed, "cifar10", split))
    try:
        if dataset.partition == "dirichlet":
            return by_dirichlet(labels, clients, dataset.alpha, own)
        return by_classes(labels, clients, dataset.classes, own)
    except ValueError as e:
        raise DataError(
            f"data.clients.{split}: {clients} clients are too many for {len(labels)} images"
        ) from e


def _asked(dataset: "Cifar10", split: Split) -> tuple[int, int]:
    """Classes of an episode, and images of each without which a client cannot draw it."""
    purpose: Purpose = "train" if split == "train" else "evaluate"
    ways, shots, queries = dataset.shape(purpose)
    if purpose == "evaluate" or not dataset.held_out:
        return ways, shots + queries
    return ways, dataset.held_out + max(shots + queries, dataset.shape("evaluate")[1])


def _usable(labels: Clients, held: Clients, needed: int) -> Clients:
    """The images of classes of which there are enough."""
    counts = np.bincount(labels[held], minlength=len(CLASSES))
    return held[counts[labels[held]] >= needed]


def _shard(images: Images, held: Clients, client: int, split: Split) -> Shard:
    kinds, numbers = np.unique(images.y[held], return_inverse=True)
    x, names = torch.from_numpy(images.x[held]), tuple(CLASSES[kind] for kind in kinds)
    return Shard("cifar10", client, split, x, torch.from_numpy(numbers), names)
