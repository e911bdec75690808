"""The clients of an Omniglot federation: their shards, and episodes drawn from them."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fedmeta.data.federation import PURPOSES, ClientCounts, Clients, Purpose, Split, consecutive
from fedmeta.data.omniglot_files import DRAWINGS, Characters
from fedmeta.data.omniglot_splits import alphabet_characters, pooled_characters
from fedmeta.errors import DataError
from fedmeta.seeding import Part, choose
from fedmeta.types import Batch, Episode

if TYPE_CHECKING:
    from fedmeta.data.omniglot import Omniglot

ROTATIONS = 4


class OmniglotFederation:
    """Shards of character classes; class ``4 i + r`` is character ``i`` turned by ``r`` right angles."""

    def __init__(
        self,
        dataset: "Omniglot",
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
        return images.unsqueeze(-3).to(self._dtype).div_(255)

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
