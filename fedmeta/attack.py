"""Train clients that mean harm, in simulation: who they are, and the data of those whose labels lie.

What the others send in place of their deltas is in ``simulations/attacks.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fedmeta.data.federation import Clients, Dataset, Federation, Purpose, Split
from fedmeta.data.shard import Shard
from fedmeta.errors import ConfigError
from fedmeta.seeding import Part, choose
from fedmeta.settings import AttackSettings
from fedmeta.types import Batch, Episode


def attackers(train: Sequence[int] | Clients, settings: AttackSettings, seed: int) -> Clients:
    """The ids of the attackers in ascending order: ``round(fraction * clients)`` of all train clients.

    The same in every round and process; those of a smaller fraction are among those of a larger. How
    many a round has is left to the sampling of its cohort, as in the literature. Raises ConfigError
    where the fraction is above 0 and comes to nobody.
    """
    count = round(settings.fraction * len(train))
    if settings.fraction > 0 and not count:
        raise ConfigError(
            f"attack.fraction: {settings.fraction:g} of the {len(train)} train clients is nobody"
        )
    chosen: Clients = np.sort(np.asarray(train)[choose(len(train), count, seed, "attacker")])
    return chosen


def with_attackers(
    federation: Federation, dataset: Dataset, settings: AttackSettings, seed: int
) -> Federation:
    """The federation, with attackers among its train clients where labels are what is attacked."""
    if settings.name != "label_flip":
        return federation
    liars = attackers(federation.clients("train"), settings, seed)
    classes = dataset.outputs if dataset.objective == "cross_entropy" else 0
    return Flipped(federation, liars, classes)


@dataclass(frozen=True)
class Flipped:
    """A federation whose attackers train with wrong targets in the support: a label flip.

    A class y becomes ``classes - 1 - y`` (Fang et al., USENIX Security 2020; Karimireddy, He and Jaggi,
    ICLR 2022), a value y becomes ``-y``. The query stays true: classes that are numbered otherwise in
    both, or a function that is mirrored in both, are another task of the same kind, and no attack on a
    learner that learns to adapt. Of a learner that trains on support and query together a part of the
    examples is flipped. Nothing changes where clients are scored.
    """

    federation: Federation
    liars: Clients
    classes: int
    """0: the targets are values."""

    def clients(self, split: Split) -> Sequence[int]:
        """The same."""
        return self.federation.clients(split)

    def examples(self, clients: Clients) -> Clients:
        """The same."""
        return self.federation.examples(clients)

    def lengths(self, clients: Clients, purpose: Purpose) -> Clients:
        """The same."""
        return self.federation.lengths(clients, purpose)

    def draw(
        self, clients: Clients, draws: int, seed: int, purpose: Purpose, *address: Part
    ) -> Episode:
        """The same episodes; of attackers in training, with the support flipped."""
        episodes = self.federation.draw(clients, draws, seed, purpose, *address)
        if purpose != "train":
            return episodes
        x, y = episodes.support
        lies = torch.as_tensor(np.isin(clients, self.liars), device=y.device)
        flipped = self.classes - 1 - y if self.classes else -y
        y = torch.where(lies.reshape(-1, *[1] * (y.dim() - 1)), flipped, y)
        return Episode(Batch(x, y), episodes.query)

    def take(self, client: int, dataset: str) -> Shard:
        """The same: the lie is no part of a shard."""
        return self.federation.take(client, dataset)
