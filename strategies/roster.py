"""Who hosts which clients, and who is connected: every node is asked once, when it first appears."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType
from flwr.serverapp import Grid

from fedmeta import __version__
from fedmeta.data.federation import SPLITS, Clients, Split
from fedmeta.errors import FedmetaError
from fedmeta.wire import Work, pack_work, short, unpack_runs

ASKED, POLLED = 300.0, 1.0
"""Seconds that a node may take to say what it hosts; seconds between two looks at who is connected."""
NAMED = 20
"""Nodes that come, go or refuse which the log names, each time."""
_log = logging.getLogger(__name__)
Spans = tuple[tuple[range, ...], ...]
"""Hosted ids of train, val and test, in runs."""


@dataclass(frozen=True)
class Roster:
    """The nodes of a federation and their clients."""

    hosts: Mapping[int, Spans]
    """Node id to the ids that it hosts; simulation workers host all."""

    def clients(self, split: Split) -> Clients:
        """All hosted clients of a split in ascending order."""
        return self._clients[SPLITS.index(split)]

    @cached_property
    def _clients(self) -> list[Clients]:
        each = [
            {run for host in self.hosts.values() for run in host[i]} for i in range(len(SPLITS))
        ]
        none = np.empty(0, dtype=np.int64)
        return [
            np.unique(np.concatenate([none, *(np.arange(r.start, r.stop) for r in runs)]))
            for runs in each
        ]

    def assign(self, clients: Clients) -> dict[int, list[int]]:
        """Clients by node: those of several hosts are shared out in equal consecutive blocks.

        A client that nobody hosts is left out.
        """
        twins: dict[Spans, list[int]] = defaultdict(list)
        for node, spans in sorted(self.hosts.items()):
            twins[spans].append(node)
        assigned: dict[int, list[int]] = {}
        left = set(clients.tolist())
        for spans, nodes in twins.items():
            hosted = [c for c in left if any(c in run for runs in spans for run in runs)]
            left -= set(hosted)  # a client of two different hosts works for the first
            blocks = np.array_split(np.array(sorted(hosted), dtype=np.int64), len(nodes))
            assigned |= {node: b.tolist() for node, b in zip(nodes, blocks, strict=True) if len(b)}
        return assigned


def senders(sent: Iterable[Message]) -> dict[str, int]:
    """Node by the id of what it was sent, once that is on its way.

    When a node is gone, it is the SuperLink that answers for it, under its own number.
    """
    return {message.metadata.message_id: message.metadata.dst_node_id for message in sent}


def sender(reply: Message, nodes: Mapping[str, int]) -> int:
    """Whose reply it is, given ``senders``."""
    return nodes.get(reply.metadata.reply_to_message_id, reply.metadata.src_node_id)


class Attendance:
    """Who is there. A node that went away and came back is asked again: it may host other clients."""

    def __init__(self, grid: Grid, experiment: str, timeout: float) -> None:
        self._grid, self._experiment, self._timeout = grid, experiment, min(timeout, ASKED)
        self._known: dict[int, Spans] = {}
        self._current = Roster({})
        self.everyone = Roster({})
        """All that ever took part, connected or not."""
        self.sizes: dict[int, int] = {}
        """Examples of train clients, where the experiment samples by them."""
        self.refused: dict[int, str] = {}
        """Why nodes take no part."""

    def now(self) -> Roster:
        """Those that are connected and take part."""
        present = set(self._grid.get_node_ids())
        gone = (self._known.keys() | self.refused.keys()) - present
        for node in sorted(gone)[:NAMED]:
            _log.warning("node %d is not connected any more", node)
        for node in gone:
            self._known.pop(node, None)
            self.refused.pop(node, None)
        if new := sorted(present - self._known.keys() - self.refused.keys()):
            self._ask(new)
        if self._known != self._current.hosts:
            self._current = Roster(dict(self._known))
            self.everyone = Roster({**self.everyone.hosts, **self._known})
        return self._current

    def wait(self, lacking: Callable[[Roster], str], seconds: float) -> Roster:
        """Those that are connected, as soon as nothing is ``lacking`` or the time is up."""
        deadline, told = time.monotonic() + seconds, ""
        while (reason := lacking(roster := self.now())) and time.monotonic() < deadline:
            if reason != told:
                _log.warning("waiting up to %g s for more clients: %s", seconds, reason)
                told = reason
            time.sleep(POLLED)
        return roster

    def _ask(self, nodes: Sequence[int]) -> None:
        content = pack_work(ArrayRecord(), Work(self._experiment, 0, []))
        query = MessageType.QUERY
        messages = [Message(content, node, query, ttl=self._timeout) for node in nodes]
        silent = set(nodes)
        replies = self._grid.send_and_receive(messages, timeout=self._timeout)
        sent = senders(messages)
        for reply in replies:
            silent.discard(node := sender(reply, sent))
            try:
                spans = _spans(reply)
                self.sizes |= _sizes(reply, spans)
                self._known[node] = spans
                _log.info("node %d takes part: %s", node, _described(reply, self._known[node]))
            except FedmetaError as e:
                self.refused[node] = short(e)
        self.refused |= dict.fromkeys(silent, f"no answer within {self._timeout:g} s")
        for node in sorted(self.refused.keys() & set(nodes))[:NAMED]:
            _log.warning("node %d takes no part: %s", node, self.refused[node])


def check_somebody(attendance: Attendance) -> None:
    """Refuse a federation that nobody takes part in. Raises FedmetaError."""
    if attendance.everyone.hosts:
        return
    for node, reason in attendance.refused.items():
        raise FedmetaError(f"node {node} cannot take part: {reason}")
    raise FedmetaError("no node is connected")


def _spans(reply: Message) -> Spans:
    if reply.has_error():
        raise FedmetaError(reply.error.reason or "it failed and gave no reason")
    try:
        record = reply.content.config_records["node"]
        spans = tuple(unpack_runs(record[split]) for split in SPLITS)
    except (KeyError, TypeError, ValueError) as e:
        raise FedmetaError(f"it gave no roster ({type(e).__name__}: {e})") from e
    if record["version"] != __version__:
        raise FedmetaError(
            f"it runs fedmeta {record['version']!s}, the server {__version__}: install the same version"
        )
    if not any(spans):
        raise FedmetaError("it hosts no client")
    return spans


def _sizes(reply: Message, spans: Spans) -> dict[int, int]:
    """Shard sizes by train client; of those that a node does not give, none."""
    sizes = reply.content.config_records.get("sizes", ConfigRecord()).get("train", [])
    clients = [client for run in spans[SPLITS.index("train")] for client in run]
    if not isinstance(sizes, list) or len(sizes) not in (0, len(clients)):
        raise FedmetaError(f"it gave no size for each of its {len(clients)} train clients")
    whole = [size for size in sizes if isinstance(size, int) and size > 0]
    if len(whole) != len(sizes):
        raise FedmetaError("it gave a shard size that is not a whole number above 0")
    return dict(zip(clients, whole, strict=bool(whole)))


def _described(reply: Message, spans: Spans) -> str:
    """How many clients a node hosts, and what its owner allows."""
    counts = [(split, sum(map(len, runs))) for split, runs in zip(SPLITS, spans, strict=True)]
    limits = reply.content.config_records.get("limits") or ConfigRecord()
    said = [f"{count} {split} clients" for split, count in counts if count]
    return ", ".join([*said, *(f"{key} {short(value)}" for key, value in limits.items())])
