"""Every reply is checked before it counts: a bad client is dropped and named, and harms nobody."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flwr.app import Message

from fedmeta.errors import FedmetaError
from fedmeta.replies import Replies, drop_unusable
from fedmeta.types import Params
from fedmeta.wire import unpack_replies


@dataclass(frozen=True)
class Checked:
    """The good replies of a round, and who was dropped why."""

    replies: list[Replies]
    dropped: dict[int, str]

    @property
    def clients(self) -> int:
        """How many good replies there are."""
        return sum(len(reply.clients) for reply in self.replies)


def check(
    messages: Iterable[Message],
    asked: Mapping[int, list[int]],
    params: Params,
    round: int,
    summed: bool,
) -> Checked:
    """Sort the replies of a round. Raises FedmetaError where several clients all failed alike."""
    replies: list[Replies] = []
    dropped: dict[int, str] = {}
    silent = dict(asked)
    for message in messages:
        clients = silent.pop(message.metadata.src_node_id, [])
        read = _read(message)
        if isinstance(read, str):
            dropped |= dict.fromkeys(clients, read)
            continue
        if reason := _broken(read, clients, params, summed):
            dropped |= dict.fromkeys(clients, reason)
            continue
        reply = drop_unusable(read)
        dropped |= reply.failures
        if reply.clients:
            replies.append(reply)
    for clients in silent.values():
        dropped |= dict.fromkeys(clients, "no reply in time")
    _stop_if_all_failed_alike(dropped, sum(map(len, asked.values())), round)
    return Checked(sorted(replies, key=lambda reply: reply.clients[0]), dropped)


def _read(message: Message) -> Replies | str:
    """The reply, or why there is none."""
    if message.has_error():
        return message.error.reason or "the node failed and gave no reason"
    try:
        return unpack_replies(message.content)
    except Exception as e:  # bytes from outside can fail to decode in any way
        return f"the reply cannot be read ({type(e).__name__}: {e})"


def _broken(reply: Replies, asked: list[int], params: Params, summed: bool) -> str | None:
    """What makes a whole reply unusable, or nothing."""
    answered = [*reply.clients, *reply.failures]
    if not all(type(client) is int for client in answered) or sorted(answered) != sorted(asked):
        return "the reply is not for the clients that were asked"
    if reply.summed != summed:
        return "the reply has one sum" if reply.summed else "the reply has one delta a client"
    if not reply.clients:
        return None
    if any(values.shape != (len(reply.clients),) for values in reply.columns.values()):
        return "the reply's columns have a different number of clients"
    if "examples" not in reply.columns:
        return "the reply does not say how many examples its clients have"
    leading = () if reply.summed else (len(reply.clients),)
    return _misfit(reply.deltas, params, leading)


def _misfit(deltas: Params, params: Params, leading: tuple[int, ...]) -> str | None:
    if deltas.keys() != params.keys():
        missing = sorted(params.keys() - deltas.keys())
        extra = sorted(deltas.keys() - params.keys())
        return f"the delta's keys are wrong: missing {missing}, unknown {extra}"
    for name, param in params.items():
        expected, got = (*leading, *param.shape), tuple(deltas[name].shape)
        if got != expected:
            return f"the delta of {name} has shape {got}, expected {expected}"
        if deltas[name].dtype != param.dtype:
            return f"the delta of {name} is {deltas[name].dtype}, expected {param.dtype}"
    return None


def _stop_if_all_failed_alike(dropped: Mapping[int, str], asked: int, round: int) -> None:
    """One bad client is bad luck; all of them with one reason is a bug, or training diverged."""
    kinds = {re.sub(r"\d+", "#", reason) for reason in dropped.values()}
    if len(dropped) == asked > 1 and len(kinds) == 1:
        reason = next(iter(dropped.values()))
        raise FedmetaError(f"round {round}: all {asked} clients failed alike: {reason}")
