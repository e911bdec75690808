"""Who hosts which clients: every node is asked once, before the first round."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, Message, MessageType
from flwr.serverapp import Grid

from fedmeta import __version__
from fedmeta.data.federation import MOST_CLIENTS, SPLITS, Clients, Split
from fedmeta.errors import FedmetaError
from fedmeta.wire import Work, pack_work

LIMIT = len(SPLITS) * MOST_CLIENTS
_log = logging.getLogger(__name__)
Spans = tuple[range, ...]
"""Hosted ids of train, val and test."""


@dataclass(frozen=True)
class Roster:
    """The nodes of a federation and their clients."""

    hosts: Mapping[int, Spans]
    """Node id to the ids that it hosts; simulation workers host all."""

    def clients(self, split: Split) -> Clients:
        """All hosted clients of a split in ascending order."""
        index = SPLITS.index(split)
        spans = {host[index] for host in self.hosts.values()}
        return np.unique(np.concatenate([np.arange(span.start, span.stop) for span in spans]))

    def assign(self, clients: Clients) -> dict[int, list[int]]:
        """Clients by node: those of several hosts are shared out in equal consecutive blocks."""
        twins: dict[Spans, list[int]] = defaultdict(list)
        for node, spans in sorted(self.hosts.items()):
            twins[spans].append(node)
        assigned: dict[int, list[int]] = {}
        left = set(clients.tolist())
        for spans, nodes in twins.items():
            hosted = [c for c in left if any(c in span for span in spans)]
            left -= set(hosted)  # a client of two different hosts works for the first
            blocks = np.array_split(np.array(sorted(hosted), dtype=np.int64), len(nodes))
            assigned |= {node: b.tolist() for node, b in zip(nodes, blocks, strict=True) if len(b)}
        return assigned


def take_roster(grid: Grid, experiment: str, timeout: float) -> Roster:
    """Ask every node what it hosts; a node of another fedmeta version stops the run."""
    content = pack_work(ArrayRecord(), Work(experiment, 0, []))
    messages = [Message(content, node, MessageType.QUERY) for node in grid.get_node_ids()]
    if not messages:
        raise FedmetaError("no node is connected")
    replies = list(grid.send_and_receive(messages, timeout=timeout))
    hosts = {reply.metadata.src_node_id: _spans(reply) for reply in replies}
    if not hosts:
        raise FedmetaError(f"no node answered within {timeout:g} s, of {len(messages)} asked")
    for message in messages:
        if (node := message.metadata.dst_node_id) not in hosts:
            _log.warning("node %d did not answer and takes no part", node)
    return Roster(hosts)


def _spans(reply: Message) -> Spans:
    node = reply.metadata.src_node_id
    if reply.has_error():
        raise FedmetaError(f"node {node} cannot take part: {reply.error.reason}")
    try:
        record = reply.content.config_records["node"]
        spans = tuple(range(*_pair(record[split])) for split in SPLITS)
    except (KeyError, TypeError, ValueError) as e:
        raise FedmetaError(f"node {node} gave no roster ({type(e).__name__}: {e})") from e
    if record["version"] != __version__:
        raise FedmetaError(
            f"node {node} runs fedmeta {record['version']!s}, the server {__version__}: "
            "install the same version"
        )
    return spans


def _pair(value: object) -> Sequence[int]:
    if not isinstance(value, list) or len(value) != 2 or not 0 <= value[0] <= value[1] <= LIMIT:
        raise ValueError(f"expected [start, stop], got {value!r}")
    return value
