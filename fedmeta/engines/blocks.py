"""What engines share: clients in chunks, and results put together again."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import torch
from torch.utils._pytree import tree_leaves, tree_map

from fedmeta.types import Params

Each = TypeVar("Each")
Result = TypeVar("Result")
Each_ = TypeVar("Each_", contravariant=True)
Result_ = TypeVar("Result_", covariant=True)


class ClientFunction(Protocol[Each_, Result_]):
    """From the shared params and what one client has to what it gives: pure, any nest of tensors.

    A value: two that are equal compute the same.
    """

    @property
    def calls(self) -> int:
        """How often this same function will be computed: what it may cost to make it fast."""

    @property
    def purpose(self) -> str:
        """A word for the log."""

    def __call__(self, params: Params, own: Each_, /) -> Result_:
        """For one client."""


def clients_in(each: Any) -> int:
    """How many clients a nest of ``[clients, ...]`` holds."""
    return len(tree_leaves(each)[0])


def client(each: Each, index: int) -> Each:
    """What one client has."""
    one: Each = tree_map(lambda leaf: leaf[index], each)
    return one


def some(each: Each, first: int, end: int) -> Each:
    """What the clients at the positions ``first`` to ``end - 1`` have."""
    part: Each = tree_map(lambda leaf: leaf[first:end], each)
    return part


def chunks(each: Each, most: int) -> Iterator[Each]:
    """The clients in as few chunks of at most ``most`` as hold them, all about equally large."""
    clients = clients_in(each)
    parts = -(-clients // most)
    if parts == 1:
        yield each
        return
    for first, end in pairwise(clients * part // parts for part in range(parts + 1)):
        yield some(each, first, end)


def stack(results: Sequence[Result]) -> Result:
    """Single clients beside each other."""
    stacked: Result = tree_map(lambda *leaves: torch.stack(leaves), *results)
    return stacked


def join(blocks: Sequence[Result]) -> Result:
    """Blocks ``[clients, ...]`` one after the other."""
    if len(blocks) == 1:
        return blocks[0]
    joined: Result = tree_map(lambda *leaves: torch.cat(leaves), *blocks)
    return joined


def add(sums: Sequence[Params]) -> Params:
    """The sum of params of the same names, in their order."""
    return {name: sum((part[name] for part in sums[1:]), start=sums[0][name]) for name in sums[0]}
