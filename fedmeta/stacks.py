"""Clients that are computed together: what each has, stacked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from fedmeta.client_function import Own, Score, Train
from fedmeta.data.federation import Clients, Federation, Purpose
from fedmeta.engines.blocks import join, some
from fedmeta.engines.loop import Loop
from fedmeta.engines.work import Work, difference
from fedmeta.padding import Padded, pad
from fedmeta.params import select
from fedmeta.types import Params

ALIKE = 1.25
"""How often as long as the shortest episode of a padded stack the longest may be."""
EXACT = 1e-9
"""Greatest error of a padded client in float64, relative to the greatest number."""
Function = TypeVar("Function", Train, Score)


class Stack(NamedTuple):
    """Clients side by side."""

    positions: Clients
    """Of the clients, in the order in which they were named."""
    own: Own
    padded: bool = False
    """Whether some episodes are longer than they were drawn, by examples without a target."""

    def judged(self, function: Function) -> Function:
        """The function with a loss that leaves padding out, where there is any."""
        if not self.padded:
            return function
        judge = function.objective
        return replace(function, objective=Padded(judge.module, judge.kind))


@dataclass(frozen=True)
class Drawing:
    """What clients draw from their shards, and how it is stacked."""

    federation: Federation
    seed: int
    device: torch.device
    dtype: torch.dtype
    tried: dict[tuple[str, int, int], bool] = field(default_factory=dict, compare=False, repr=False)
    """Whether padding was harmless: for what, from which length, to which."""

    def stacks(
        self,
        clients: Sequence[int],
        kept: Params,
        draws: int,
        harmless: Callable[[Own, Own], bool],
        purpose: Purpose,
        *address: int,
    ) -> list[Stack]:
        """All clients, those together whose episodes are equally long, or can be padded to be so.

        ``harmless`` says whether a client is the same alone and padded.
        """
        ids = np.asarray(clients)
        lengths = self.federation.lengths(ids, purpose)
        found = list[Stack]()
        for positions in alike(lengths):
            different = np.unique(lengths[positions])
            equal = [positions[lengths[positions] == n] for n in different]
            drawn = [
                Stack(part, self._own(ids[part], part, kept, draws, purpose, *address))
                for part in equal
            ]
            found += self._padded(drawn, harmless, purpose, different.tolist())
        return found

    def _padded(
        self,
        drawn: list[Stack],
        harmless: Callable[[Own, Own], bool],
        purpose: Purpose,
        lengths: list[int],
    ) -> list[Stack]:
        """One stack, if padding does no harm to the first client of each length; tried once.

        Of each: which minibatches a learner takes depends on the length, and some may miss the padding.
        """
        if len(drawn) == 1:
            return drawn
        episodes = pad([stack.own.episodes for stack in drawn])
        rest = join([(stack.own.state, stack.own.examples) for stack in drawn])
        padded = Stack(np.concatenate([s.positions for s in drawn]), Own(episodes, *rest), True)
        first = 0
        for stack, length in zip(drawn[:-1], lengths, strict=False):
            key = purpose, length, lengths[-1]
            if key not in self.tried:
                alone, stretched = some(stack.own, 0, 1), some(padded.own, first, first + 1)
                self.tried[key] = harmless(alone, stretched)
            if not self.tried[key]:
                return drawn
            first += len(stack.positions)
        return [padded]

    def _own(
        self,
        ids: Clients,
        positions: Clients,
        kept: Params,
        draws: int,
        purpose: Purpose,
        *address: int,
    ) -> Own:
        """What clients of one length have."""
        return Own(
            self.federation.draw(ids, draws, self.seed, purpose, *address),
            select(kept, torch.as_tensor(positions)),
            torch.as_tensor(self.federation.examples(ids)).to(self.device, self.dtype),
        )


def alike(lengths: Clients) -> list[Clients]:
    """Positions of clients in groups of similar length, in its order; as they are where all are equal."""
    order = np.argsort(lengths, kind="stable")
    groups, begun = list[Clients](), 0
    for end in range(1, len(order) + 1):
        if end == len(order) or lengths[order[end]] > ALIKE * lengths[order[begun]]:
            groups.append(order[begun:end])
            begun = end
    return groups


def harmless(function: Function, params: Params, alone: Own, padded: Own) -> bool:
    """Whether a function gives a stack of one client the same alone and padded, in float64."""
    judged = Stack(np.zeros(1, dtype=np.int64), padded, True).judged
    tries = ((function, alone), (judged(function), padded))
    try:
        truth, found = (Work("map", f, params, own).exact().run(Loop()) for f, own in tries)
    except Exception:  # whatever a learner does with an example that has no target
        return False
    return difference(found, truth) <= EXACT
