"""Who hosts which clients, and who is connected: every node is asked when it first appears."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from operator import attrgetter

import numpy as np
from flwr.app import ArrayRecord, Message, MessageType
from flwr.serverapp import Grid

from fedmeta.data.federation import SPLITS, Clients, Split
from fedmeta.errors import FedmetaError
from fedmeta.wire import Work, pack_work, short
from strategies.hosted import Hosted, Spans

ASKED, POLLED = 300.0, 1.0
"""Seconds that a node may take to say what it hosts; seconds between two looks at who is connected."""
AGAIN, PATIENCE = 300.0, 0.1
"""Seconds after which a node that failed to say it is asked again, twice as many after each further
failure; the part of them for which the others then wait for its answer."""
NAMED = 20
"""Nodes that come, go or refuse which the log names, each time."""
_log = logging.getLogger(__name__)


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
        return [_ids(runs) for runs in each]

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


@dataclass(frozen=True)
class _Refusal:
    """Why a node takes no part, and for how long."""

    reason: str
    since: float = 0.0
    wait: float = inf
    """Seconds after which it is asked again, if it stays connected."""
    rival: int | None = None
    """Node that hosts a client of this one; once it is gone, this one is asked again."""


class Attendance:
    """Who is there. A node that went away and came back is asked again: it may host other clients."""

    def __init__(self, grid: Grid, experiment: str, timeout: float) -> None:
        self._grid, self._experiment, self._timeout = grid, experiment, min(timeout, ASKED)
        self._known: dict[int, Hosted] = {}
        self._refused: dict[int, _Refusal] = {}
        self._current = Roster({})
        self.everyone = Roster({})
        """All that ever took part, connected or not."""
        self.sizes: dict[int, int] = {}
        """Examples of train clients, where the experiment samples by them."""

    @property
    def refused(self) -> dict[int, str]:
        """Why nodes take no part."""
        return {node: refusal.reason for node, refusal in self._refused.items()}

    def now(self) -> Roster:
        """Those that are connected and take part."""
        present = set(self._grid.get_node_ids())
        gone = (self._known.keys() | self._refused.keys()) - present
        for node in sorted(gone)[:NAMED]:
            _log.warning("node %d is not connected any more", node)
        self._known = {n: hosted for n, hosted in self._known.items() if n in present}
        self._refused = {
            n: r for n, r in self._refused.items() if n in present and r.rival not in gone
        }
        self._ask(sorted(present - self._known.keys() - self._refused.keys()), self._timeout)
        self._ask_again()
        hosts = {node: hosted.spans for node, hosted in self._known.items()}
        if hosts != self._current.hosts:
            self._current = Roster(hosts)
            self.everyone = Roster({**self.everyone.hosts, **hosts})
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

    def _ask_again(self) -> None:
        now = time.monotonic()
        due = {n: r.wait for n, r in self._refused.items() if now >= r.since + r.wait}
        if due:
            self._ask(sorted(due), min(self._timeout, PATIENCE * max(due.values())))

    def _ask(self, nodes: Sequence[int], seconds: float) -> None:
        if not nodes:
            return
        content = pack_work(ArrayRecord(), Work(self._experiment, 0, []))
        messages = [Message(content, node, MessageType.QUERY, ttl=seconds) for node in nodes]
        silent = set(nodes)
        replies = self._grid.send_and_receive(messages, timeout=seconds)
        sent = senders(messages)
        for reply in replies:
            silent.discard(node := sender(reply, sent))
            self._hear(node, reply)
        for node in silent:
            self._put_off(node, f"no answer within {seconds:g} s")
        for node in sorted(self._refused.keys() & set(nodes))[:NAMED]:
            _log.warning("node %d takes no part: %s", node, self._refused[node].reason)

    def _hear(self, node: int, reply: Message) -> None:
        if reply.has_error():
            self._put_off(node, short(reply.error.reason or "it failed and gave no reason"))
            return
        try:
            hosted = Hosted.read(reply.content.config_records)
        except FedmetaError as e:
            self._refused[node] = _Refusal(short(e))
            return
        clashes = [(hosted.clash(other), rival) for rival, other in self._known.items()]
        if shared := [(client, rival) for client, rival in clashes if client is not None]:
            client, rival = min(shared)
            reason = f"it hosts client {client}, which node {rival} hosts too: clients of devices "
            self._refused[node] = _Refusal(reason + "have numbers of their own", rival=rival)
            return
        self._refused.pop(node, None)
        self._known[node] = hosted
        self.sizes |= hosted.sizes
        _log.info("node %d takes part: %s", node, hosted)

    def _put_off(self, node: int, reason: str) -> None:
        before = self._refused.get(node)
        wait = 2 * before.wait if before else AGAIN
        self._refused[node] = _Refusal(reason, time.monotonic(), wait)


def check_somebody(attendance: Attendance) -> None:
    """Refuse a federation that nobody takes part in. Raises FedmetaError."""
    if attendance.everyone.hosts:
        return
    for node, reason in attendance.refused.items():
        raise FedmetaError(f"node {node} cannot take part: {reason}")
    raise FedmetaError("no node is connected")


def _ids(runs: Iterable[range]) -> Clients:
    """Ascending ids of runs, each once."""
    found, stop = [np.empty(0, dtype=np.int64)], 0
    for run in sorted(runs, key=attrgetter("start")):
        found.append(np.arange(max(run.start, stop), run.stop))
        stop = max(stop, run.stop)
    return np.concatenate(found)
