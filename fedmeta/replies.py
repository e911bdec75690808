"""What a block of clients sends back for a round, and what of it can be used."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedmeta.params import concatenate, finite, select, weighted_sum
from fedmeta.types import Metrics, Params

UNUSABLE = "the delta, its metrics or the number of examples is not a usable number"
"""The reason of who is dropped for it."""


@dataclass(frozen=True)
class Replies:
    """What a block of clients sends back.

    ``columns`` has a row for every client that succeeded: its id, the size of its shard, its metrics.
    ``failures`` names the others with the reason.
    """

    clients: list[int]
    deltas: Params
    """``[clients, ...]``; or, where ``summed``, the one sum of weight times delta."""
    columns: Metrics
    failures: dict[int, str] = field(default_factory=dict)
    summed: bool = False


def usable(replies: Replies) -> Tensor:
    """Which clients can be averaged, bool ``[clients]``: delta, metrics and shard size are numbers.

    Of a sum only the whole can be judged: all of its clients are usable, or none.
    """
    good = finite(replies.columns) & (replies.columns["examples"] > 0)
    if replies.summed:
        totals = [torch.isfinite(total).all() for total in replies.deltas.values()]
        return (good & torch.stack(totals).all()).all().expand(len(good))
    return good & finite(replies.deltas)


def drop_unusable(replies: Replies) -> Replies:
    """Move clients that cannot be averaged to the failures."""
    if not replies.clients or bool((good := usable(replies)).all()):
        return replies
    said = zip(replies.clients, good.tolist(), strict=True)
    bad = {client: UNUSABLE for client, kept in said if not kept}
    return Replies(
        [client for client in replies.clients if client not in bad],
        replies.deltas if replies.summed else select(replies.deltas, good),
        select(replies.columns, good),
        replies.failures | bad,
        replies.summed,
    )


def summed(replies: Replies, weight_column: str) -> Replies:
    """One sum of the usable deltas, each times its ``weight_column`` (``one``: times 1)."""
    replies = drop_unusable(replies)
    deltas = weighted_sum(replies.deltas, column(replies, weight_column)) if replies.clients else {}
    return Replies(replies.clients, deltas, replies.columns, replies.failures, summed=True)


def column(replies: Replies, name: str) -> Tensor:
    """A column as weights ``[clients]``; ``one`` is 1 for every client."""
    return said(replies.columns, name, len(replies.clients))


def said(columns: Metrics, name: str, clients: int) -> Tensor:
    """The same of so many clients' columns, float64."""
    if name == "one":
        return torch.ones(clients, dtype=torch.float64)
    return columns[name].to(torch.float64)


def join(a: Replies, b: Replies) -> Replies:
    """The clients of both, one after the other."""
    return Replies(
        a.clients + b.clients,
        stacked(a.deltas, b.deltas),
        stacked(a.columns, b.columns),
        a.failures | b.failures,
    )


def stacked(a: Params, b: Params) -> Params:
    """One stack after the other; a client that failed has none."""
    return concatenate([a, b]) if a and b else a or b
