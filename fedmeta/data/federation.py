"""A federation: who the clients are, and how an episode is drawn from each one's private shard."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fedmeta.errors import ConfigError
from fedmeta.objective import Kind
from fedmeta.seeding import Part
from fedmeta.types import Episode

if TYPE_CHECKING:
    from fedmeta.data.shard import Shard

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
Purpose = Literal["train", "evaluate"]
PURPOSES: tuple[tuple[str, Purpose], ...] = (("data", "train"), ("data.evaluation", "evaluate"))
"""What episodes are drawn for, each with the section of a config that says how large they are."""
Clients = NDArray[np.int64]
MOST_CLIENTS = 100_000_000
"""Registered clients of a split. The server keeps an id of each, 8 bytes."""


@dataclass(frozen=True)
class ClientCounts:
    """How many clients are registered in each split. Val and test clients are never trained on."""

    train: int
    val: int
    test: int

    def __post_init__(self) -> None:
        for split in SPLITS:
            if not 1 <= (count := getattr(self, split)) <= MOST_CLIENTS:
                raise ConfigError(
                    f"data.clients.{split} must be 1 to {MOST_CLIENTS:,}, got {count!r}"
                )


@dataclass(frozen=True)
class Changes:
    """What episodes of evaluation have in other numbers than those of training."""

    shots: int | None = None
    queries: int | None = None


class Federation(Protocol):
    """Lazy: a registered client costs nothing until it is sampled. Client ids are stable integers."""

    def clients(self, split: Split) -> Sequence[int]:
        """The ids of a split's clients in ascending order. The splits are disjoint."""

    def examples(self, clients: Clients) -> Clients:
        """The size of each client's shard, ``[clients]``."""

    def lengths(self, clients: Clients, purpose: Purpose) -> Clients:
        """How many examples an episode of each client has, ``[clients]``.

        Only clients of one length can be drawn together.
        """

    def draw(
        self, clients: Clients, draws: int, seed: int, purpose: Purpose, *address: Part
    ) -> Episode:
        """``draws`` episodes of each client, ``[clients, draws, examples, ...]``.

        A pure function of seed, purpose, the rest of the address (such as the round) and the client:
        what a client draws does not depend on who else is drawn. Raises DataError where a shard is too
        small.
        """

    def take(self, client: int, dataset: str) -> "Shard":
        """All that a client holds, for a file."""


class Dataset(Protocol):
    """A frozen dataclass of settings that opens a federation."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""

    @property
    def outputs(self) -> int:
        """Classes per episode, or values per target."""

    @property
    def objective(self) -> Kind:
        """The loss, and whether there is an accuracy."""

    @property
    def lasting(self) -> bool:
        """Whether an example of a client has the same target in every episode."""

    def contents(self) -> str:
        """A hash of the data where the settings do not say which they are; else empty.

        Raises DataError where they are not here.
        """

    def open(self, seed: int, device: torch.device, dtype: torch.dtype) -> Federation:
        """The federation, with its data resident on the device."""

    def hold(
        self, shards: "Sequence[Shard]", device: torch.device, dtype: torch.dtype
    ) -> Federation:
        """The federation of the clients whose shards are here. Raises DataError where they do not fit.

        Their episodes are those that the whole federation would draw.
        """


def consecutive(counts: ClientCounts) -> dict[Split, range]:
    """Ids for the three splits, one after the other from 0."""
    val, test = counts.train, counts.train + counts.val
    return {
        "train": range(0, val),
        "val": range(val, test),
        "test": range(test, test + counts.test),
    }
