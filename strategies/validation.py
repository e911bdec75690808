"""Every reply is checked before it counts: a bad client is dropped and named, and harms nobody."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median_low

import torch
from flwr.app import Message
from torch import Tensor

from fedmeta.compression import expand
from fedmeta.params import lengths, select
from fedmeta.replies import UNUSABLE, Replies, column, drop_unusable
from fedmeta.settings import WireSettings
from fedmeta.types import Params
from fedmeta.wire import short, size, unpack_replies
from strategies.roster import sender

BOUNDS = {
    "examples": (1.0, 1e9),
    "alpha": (0.5, 1.0),
    "loss_after": (0.0, torch.finfo(torch.float32).max),
}
"""What a client can truly say where its delta is weighed by it."""
LONG = "times as long as others"
"""In the reason of who is dropped for the length of its delta."""
MAJORITY = 3
"""Deltas of a round of which one can be unlike the others."""


@dataclass(frozen=True)
class Expected:
    """What a reply is held against."""

    params: Params
    """Names, shapes and dtypes of a delta."""
    weight_column: str = ""
    """Column that a node's one sum is weighted with; empty where there is one delta a client."""
    wire: WireSettings = field(default_factory=WireSettings)
    outlier: float = 0.0
    """How many times as long as others a delta may be; 0: as long as it likes."""
    longest: float = 0.0
    """The longest delta that was averaged in earlier rounds."""
    columns: frozenset[str] = frozenset()
    """What clients must say of themselves, besides the size of their shards."""
    nodes: Mapping[str, int] = field(default_factory=dict)
    """Node by the id of the message that it was sent."""


@dataclass(frozen=True)
class Checked:
    """The good replies of a round, and who was dropped why."""

    replies: list[Replies]
    dropped: dict[int, str]
    longest: float = 0.0
    """The longest delta that was averaged, in this round or before."""
    still: tuple[int, ...] = ()
    """Clients whose delta is zero: it counts, but it may be that something is broken there."""
    bytes_up: float = 0.0
    """Of the replies, as if every client were a node of its own: the mean."""

    @property
    def clients(self) -> int:
        """How many good replies there are."""
        return sum(len(reply.clients) for reply in self.replies)


def check(
    messages: Iterable[Message], asked: Mapping[int, list[int]], expected: Expected
) -> Checked:
    """Sort the replies of a round."""
    replies: list[Replies] = []
    dropped: dict[int, str] = {}
    sizes: list[float] = []
    silent = dict(asked)
    for message in messages:
        clients = silent.pop(sender(message, expected.nodes), [])
        read = _read(message, clients, expected)
        if isinstance(read, str):
            dropped |= dict.fromkeys(clients, short(read))
            continue
        sizes += [size(message.content) / (1 if read.summed else max(1, len(read.clients)))]
        reply = _truthful(drop_unusable(read), expected)
        dropped |= reply.failures
        if reply.clients:
            replies.append(reply)
    for clients in silent.values():
        dropped |= dict.fromkeys(clients, "no reply in time")
    replies.sort(key=lambda reply: reply.clients[0])
    checked = _without_outliers(replies, dropped, expected)
    return replace(checked, bytes_up=sum(sizes) / max(1, len(sizes)))


def failed_alike(checked: Checked, asked: Mapping[int, list[int]]) -> str | None:
    """The one reason for which all of several clients failed, if it is one."""
    dropped = checked.dropped
    kinds = {re.sub(r"\d+", "#", reason) for reason in dropped.values()}
    alike = len(dropped) == sum(map(len, asked.values())) > 1 and len(kinds) == 1
    return next(iter(dropped.values())) if alike else None


def diverging(reason: str) -> bool:
    """Whether it is one that all clients have where training diverges."""
    return LONG in reason or reason == UNUSABLE


def _read(message: Message, asked: list[int], expected: Expected) -> Replies | str:
    """The reply, or why there is none."""
    if message.has_error():
        return message.error.reason or "the node failed and gave no reason"
    try:
        packed = unpack_replies(message.content)
        if not _is_from(asked, packed):
            return "the reply is not for the clients that were asked"
        reply = expand(packed, expected.wire, expected.params)
    except Exception as e:  # bytes from outside can fail to decode in any way
        return f"the reply cannot be read ({type(e).__name__}: {e})"
    return _broken(reply, expected) or reply


def _is_from(asked: list[int], reply: Replies) -> bool:
    answered = [*reply.clients, *reply.failures]
    return all(type(client) is int for client in answered) and sorted(answered) == sorted(asked)


def _broken(reply: Replies, expected: Expected) -> str | None:
    """What makes a whole reply unusable, or nothing."""
    if reply.summed != bool(expected.weight_column):
        return "the reply has one sum" if reply.summed else "the reply has one delta a client"
    if not reply.clients:
        return None
    if any(values.shape != (len(reply.clients),) for values in reply.columns.values()):
        return "the reply's columns have a different number of clients"
    for name in sorted({"examples", expected.weight_column, *expected.columns} - {"", "one"}):
        if name not in reply.columns:
            return f"the reply does not say {name} of its clients"
    leading = () if reply.summed else (len(reply.clients),)
    return _misfit(reply.deltas, expected.params, leading)


def _truthful(reply: Replies, expected: Expected) -> Replies:
    """Without the clients that say what cannot be; of a sum, without any."""
    lies: dict[int, str] = {}
    for name in sorted(BOUNDS.keys() & {"examples", *expected.columns}) if reply.clients else []:
        least, most = BOUNDS[name]
        true = (reply.columns[name] >= least) & (reply.columns[name] <= most)
        said = zip(reply.clients, true.tolist(), strict=True)
        lies |= {client: f"its {name} cannot be true" for client, ok in said if not ok}
    if lies and reply.summed:
        lies = dict.fromkeys(reply.clients, next(iter(lies.values())))
    good = torch.tensor([client not in lies for client in reply.clients])
    return replace(some(reply, good), failures=reply.failures | lies) if lies else reply


def _misfit(deltas: Params, params: Params, leading: tuple[int, ...]) -> str | None:
    if deltas.keys() != params.keys():
        missing = sorted(params.keys() - deltas.keys())
        extra = sorted(deltas.keys() - params.keys())
        return f"the delta's keys are wrong: missing {missing}, unknown {extra}"
    for name, param in params.items():
        wanted, got = (*leading, *param.shape), tuple(deltas[name].shape)
        if got != wanted:
            return f"the delta of {name} has shape {got}, expected {wanted}"
        if deltas[name].dtype != param.dtype:
            return f"the delta of {name} is {deltas[name].dtype}, expected {param.dtype}"
    return None


def _without_outliers(
    replies: list[Replies], dropped: dict[int, str], expected: Expected
) -> Checked:
    """Drop deltas of absurd length. This finds what is broken, not who means harm.

    Lengths differ by what data clients have and how far training is, so nothing is compared with a
    number that somebody would have to choose: only with others, now and before.
    """
    long = [_lengths(reply, expected.weight_column) for reply in replies]
    moving = sorted(length for each in long for length in each.tolist() if length > 0)
    usual = median_low(moving) if len(moving) >= MAJORITY else 0.0
    bound = expected.outlier * max(usual, expected.longest) or float("inf")
    kept: list[Replies] = []
    still: list[int] = []
    for reply, each in zip(replies, long, strict=True):
        good = (each <= bound).expand(len(reply.clients))
        often = float(each.max()) / bound * expected.outlier
        reason = f"its delta is {often:.2g} {LONG}, at most {expected.outlier:g}"
        pairs = list(zip(reply.clients, good.tolist(), strict=True))
        dropped = dropped | {client: reason for client, ok in pairs if not ok}
        if good.any():
            kept.append(reply if good.all() else some(reply, good))
        if len(each) == len(reply.clients):
            still += [
                c for c, length in zip(reply.clients, each.tolist(), strict=True) if not length
            ]
    longest = max([expected.longest, *(length for length in moving if length <= bound)])
    return Checked(kept, dropped, longest, tuple(still))


def _lengths(reply: Replies, weight_column: str) -> Tensor:
    """Euclidean length of every delta, ``[clients]``; of a sum, that of its mean, ``[1]``."""
    if not reply.summed:
        return lengths(reply.deltas)
    whole = lengths({name: value[None] for name, value in reply.deltas.items()})
    return whole / column(reply, weight_column).sum()


def some(reply: Replies, good: Tensor) -> Replies:
    """The clients of a reply that are ``good``, bool ``[clients]``."""
    clients = [client for client, ok in zip(reply.clients, good.tolist(), strict=True) if ok]
    return replace(
        reply,
        clients=clients,
        deltas=reply.deltas if reply.summed else select(reply.deltas, good),
        columns=select(reply.columns, good),
    )
