"""Matrices of a block of clients that are kept as two thin factors."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef


def thin(rank: int, rows: int, columns: int) -> bool:
    """Whether factors of a rank hold fewer numbers than their product."""
    return rank * (rows + columns) < rows * columns


def through(rows: Tensor, matrix: Tensor) -> Tensor:
    """``rows [clients, n, m] @ matrix [m, k]``: one product for the rows of all clients."""
    return torch.mm(rows.reshape(-1, rows.shape[2]), matrix).view(*rows.shape[:2], -1)


def _one(a: Tensor, b: Tensor) -> bool:
    """Whether two are the same numbers in the same place, into which no recorded program writes."""
    alike = (a.dtype, a.shape, a.stride(), a.storage_offset()) == (
        b.dtype,
        b.shape,
        b.stride(),
        b.storage_offset(),
    )
    places = [StorageWeakRef(t.untyped_storage()) for t in (a, b)]  # type: ignore[no-untyped-call]
    return alike and places[0] == places[1]


@dataclass(frozen=True, eq=False)
class LowRank:
    """``factor * shared + left @ right`` for every client, ``[clients, rows, columns]``."""

    left: Tensor
    """``[clients, rows, rank]``."""
    right: Tensor
    """``[clients, rank, columns]``."""
    shared: Tensor | None = None
    """``[rows, columns]``, the same for all clients; or, ``flipped``, its transpose."""
    factor: float = 0.0
    flipped: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Clients, rows, columns."""
        return len(self.left), self.left.shape[1], self.right.shape[2]

    @property
    def mT(self) -> "LowRank":  # noqa: N802 (torch's name)
        """Its transpose."""
        return replace(self, left=self.right.mT, right=self.left.mT, flipped=not self.flipped)

    @cached_property
    def common(self) -> Tensor:
        """The part that all clients have, ``[rows, columns]``."""
        assert self.shared is not None
        common = self.shared.t() if self.flipped else self.shared
        return common if self.factor == 1 else self.factor * common

    @cached_property
    def dense(self) -> Tensor:
        """Formed after all."""
        product = torch.bmm(self.left, self.right)
        return product if self.shared is None else self.common + product

    def times(self, number: float) -> "LowRank":
        """A multiple of it."""
        if number == 1:
            return self
        return replace(self, left=number * self.left, factor=number * self.factor)

    def left_times(self, rows: Tensor) -> Tensor:
        """``rows @ self`` for ``rows [clients, n, rows]``: one product for all, and two thin ones."""
        product = torch.bmm(torch.bmm(rows, self.left), self.right)
        return product if self.shared is None else through(rows, self.common) + product

    def plus(self, other: "LowRank") -> "LowRank | None":
        """The sum, where the shared parts are one and the same, or one has none, and it stays thin."""
        shared = self._with_shared(other)
        if shared is None:
            return None
        if _one(self.right, other.right):  # the same examples in another step
            return replace(shared, left=self.left + other.left)
        if not thin(self.left.shape[2] + other.left.shape[2], *self.shape[1:]):
            return None
        left = torch.cat([self.left, other.left], 2)
        return replace(shared, left=left, right=torch.cat([self.right, other.right], 1))

    def plus_shared(self, matrix: Tensor, factor: float) -> "LowRank | None":
        """The sum with ``factor`` times a matrix that all clients have."""
        return self._with_shared(LowRank(self.left, self.right, matrix, factor))

    def _with_shared(self, other: "LowRank") -> "LowRank | None":
        if other.shared is None:
            return self
        if self.shared is None:
            return replace(self, shared=other.shared, factor=other.factor, flipped=other.flipped)
        if self.shared is not other.shared or self.flipped != other.flipped:
            return None
        factor = self.factor + other.factor
        return replace(self, factor=factor) if factor else LowRank(self.left, self.right)


@dataclass(frozen=True, eq=False)
class Entrywise:
    """The product of two, entry by entry: nearly always on its way into a sum."""

    a: LowRank
    b: LowRank

    @cached_property
    def dense(self) -> Tensor:
        """Formed after all."""
        return self.a.dense * self.b.dense

    @property
    def sum(self) -> Tensor:
        """Of all entries, ``[clients]``: ``<L R, B> = <L, B R^T>``, and so for the shared parts."""
        a, b = self.a, self.b
        if b.shared is None:
            a, b = b, a
        total = (a.left.mT * b.mT.left_times(a.right)).sum(dim=(1, 2))
        if a.shared is None:
            return total
        across = (b.left.mT * through(b.right, a.common.t())).sum(dim=(1, 2))
        return total + across + (a.common * b.common).sum()


Value = Tensor | LowRank | Entrywise
