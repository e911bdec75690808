"""The clients of an Omniglot federation, and the drawings that they hold."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fedmeta.data.classes import ClassFederation
from fedmeta.data.federation import PURPOSES, SPLITS, ClientCounts, Clients, consecutive
from fedmeta.data.omniglot_files import DRAWINGS, Characters
from fedmeta.data.omniglot_splits import alphabet_characters, pooled_characters
from fedmeta.errors import DataError
from fedmeta.seeding import choose

if TYPE_CHECKING:
    from fedmeta.data.omniglot import Omniglot

ROTATIONS = 4
ALPHABETS = ClientCounts(train=25, val=5, test=20)


class OmniglotFederation(ClassFederation):
    """Shards of character classes; class ``4 i + r`` is character ``i`` turned by ``r`` right angles."""

    def __init__(
        self,
        dataset: "Omniglot",
        characters: Characters,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.dataset, self._seed, self._characters = dataset, seed, characters
        self._turns = ROTATIONS if dataset.rotations else 1
        self._images = torch.as_tensor(characters.images, device=device)
        if dataset.federation == "pooled":
            assert dataset.clients is not None
            super().__init__(dataset, consecutive(dataset.clients), dtype)
            self._pools = pooled_characters(characters, dataset.split)
            self._check_pools()
            self.check([self.clients(split)[0] for split in SPLITS])  # all are of one size
        else:
            super().__init__(dataset, consecutive(ALPHABETS), dtype)
            self._alphabets = alphabet_characters(characters)
            self.check([client for split in SPLITS for client in self.clients(split)])

    def shard(self, client: int) -> Clients:
        """The classes of a client."""
        if self.dataset.federation == "alphabet":
            return self._alphabets[client] * ROTATIONS
        pool = next(self._pools[split] for split, ids in self._ids.items() if client in ids)
        classes = len(pool) * self._turns
        size = self.dataset.shard_size("train" if client in self._ids["train"] else "evaluate")
        picks = choose(classes, size, self._seed, "shard", client)
        return pool[picks // self._turns] * ROTATIONS + picks % self._turns

    def sizes(self, classes: Clients) -> Clients:
        """Every character was drawn by 20 people."""
        return np.full(classes.shape, DRAWINGS)

    def gather(self, classes: Clients, members: Clients) -> Tensor:
        """Drawings as bytes, ``[..., 1, 28, 28]``, ink 255."""
        classes, members = np.broadcast_arrays(classes, members)
        turns = torch.as_tensor(classes % ROTATIONS, device=self._images.device)
        images = self._images[classes // ROTATIONS, members]
        for turn in range(1, ROTATIONS):
            chosen = turns == turn
            images[chosen] = torch.rot90(images[chosen], turn, dims=(-2, -1))
        return images.unsqueeze(-3)

    def names(self, classes: Clients) -> list[str]:
        """Alphabet, number, and by how much the character is turned."""
        alphabets, numbers = self._characters.alphabets, self._characters.numbers
        return [
            f"{alphabets[c // ROTATIONS]} {numbers[c // ROTATIONS]}"
            + (f" turned {90 * (c % ROTATIONS)}" if c % ROTATIONS else "")
            for c in classes.tolist()
        ]

    def _check_pools(self) -> None:
        for split in SPLITS:
            where, purpose = PURPOSES[0 if split == "train" else 1]
            classes = len(self._pools[split]) * self._turns
            if (size := self.dataset.shard_size(purpose)) > classes:
                raise DataError(
                    f"{where}.characters must be at most the {classes} classes of the {split} "
                    f"split, got {size}"
                )
