"""What travels between server and node, as Flower records. No pickle: .npy bytes and scalars."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedmeta.data.federation import MOST_CLIENTS, SPLITS, Split
from fedmeta.evaluation import Scores
from fedmeta.packing import pack_params, unpack_params
from fedmeta.replies import Replies

LIMIT = len(SPLITS) * MOST_CLIENTS
"""Ids of clients are below it."""


@dataclass(frozen=True)
class Work:
    """What a node is asked to do with its clients. The experiment travels along, code never does."""

    experiment: str
    """The resolved config, YAML."""
    round: int
    clients: list[int]
    weight_column: str = ""
    """Column to weight one summed reply with; empty for one delta per client."""
    run: str = ""
    """What clients keep their state under, the same when a run is resumed; empty where unseen clients
    are scored."""
    measure: bool = False
    """Whether clients say how well the params that they receive serve them."""
    temperature: float = 1.0
    """Of the loss-sigmoid weight among these."""


def pack_work(params: ArrayRecord, work: Work) -> RecordDict:
    """The params record is shared by the messages of a round, so it is packed only once."""
    return RecordDict({"params": params, "work": ConfigRecord(dict(vars(work)))})


def unpack_work(content: RecordDict) -> Work:
    """The work in a message."""
    record = content.config_records["work"]
    return Work(
        experiment=str(record["experiment"]),
        round=int(record["round"]),  # type: ignore[arg-type]
        clients=[int(client) for client in record["clients"]],  # type: ignore[union-attr]
        weight_column=str(record["weight_column"]),
        run=str(record["run"]),
        measure=bool(record["measure"]),
        temperature=float(record["temperature"]),  # type: ignore[arg-type]
    )


def pack_roster(
    version: str, hosted: Mapping[Split, Sequence[int]], own: bool = False
) -> ConfigRecord:
    """The version of fedmeta and, for each split, the ids in runs: ``[start, stop, start, stop, ...]``.

    ``own``: the clients are the node's own, so no other node hosts them.
    """
    node = ConfigRecord({"version": version, "own": own})
    for split, ids in hosted.items():
        node[split] = [edge for run in runs(ids) for edge in (run.start, run.stop)]
    return node


def unpack_runs(edges: object) -> tuple[range, ...]:
    """Ids of ``pack_roster`` as ranges. Raises ValueError."""
    if not isinstance(edges, list) or len(edges) % 2:
        raise ValueError(f"expected [start, stop, ...], got {edges!r}")
    runs = tuple(range(*pair) for pair in zip(edges[::2], edges[1::2], strict=True))
    if not all(0 <= run.start < run.stop <= LIMIT for run in runs) or edges != sorted(edges):
        raise ValueError(
            f"expected ids of 0 to {LIMIT}, ascending, as [start, stop, ...], got {edges!r}"
        )
    if (count := sum(map(len, runs))) > MOST_CLIENTS:
        raise ValueError(f"expected at most {MOST_CLIENTS} clients of a split, got {count}")
    return runs


def runs(ids: Sequence[int]) -> list[range]:
    """Ascending ids as ranges of consecutive ones."""
    if isinstance(ids, range):
        return [ids] if len(ids) else []
    breaks = [i for i, (a, b) in enumerate(pairwise(ids), start=1) if b != a + 1]
    return [
        range(ids[begin], ids[end - 1] + 1)
        for begin, end in pairwise([0, *breaks, len(ids)])
        if end > begin
    ]


def size(content: RecordDict) -> int:
    """Bytes of a message's content, its framing aside."""
    return sum(
        sum(len(array.data) for array in record.values())
        if isinstance(record, ArrayRecord)
        else sum(map(_size, record.values()))
        for record in content.values()
    )


def _size(value: object) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    return sum(map(_size, value)) if isinstance(value, list) else 8


def pack_replies(replies: Replies) -> RecordDict:
    """Deltas, a column per metric, and the failures."""
    columns = {name: [float(v) for v in values] for name, values in replies.columns.items()}
    return RecordDict(
        {
            "deltas": pack_params(replies.deltas),
            "columns": MetricRecord({"client": replies.clients, **columns}),
            "failures": _pack_failures(replies.failures),
            "mode": ConfigRecord({"summed": replies.summed}),
        }
    )


def unpack_replies(content: RecordDict) -> Replies:
    """The inverse of ``pack_replies``."""
    columns = dict(content.metric_records["columns"])
    return Replies(
        clients=list(columns.pop("client")),  # type: ignore[arg-type]
        deltas=unpack_params(content.array_records["deltas"]),
        columns={
            name: torch.tensor(values, dtype=torch.float64) for name, values in columns.items()
        },
        failures=_unpack_failures(content.config_records["failures"]),
        summed=bool(content.config_records["mode"]["summed"]),
    )


def pack_scores(scores: Scores) -> RecordDict:
    """Curves, each ``[clients, steps + 1]``, and the failures."""
    return RecordDict(
        {
            "curves": pack_params(scores.curves),
            "columns": MetricRecord({"client": scores.clients}),
            "failures": _pack_failures(scores.failures),
        }
    )


def unpack_scores(content: RecordDict) -> Scores:
    """The inverse of ``pack_scores``."""
    return Scores(
        clients=list(content.metric_records["columns"]["client"]),  # type: ignore[arg-type]
        curves=unpack_params(content.array_records["curves"]),
        failures=_unpack_failures(content.config_records["failures"]),
    )


def _pack_failures(failures: dict[int, str]) -> ConfigRecord:
    return ConfigRecord({"clients": list(failures), "reasons": list(failures.values())})


def _unpack_failures(record: ConfigRecord) -> dict[int, str]:
    clients, reasons = record["clients"], record["reasons"]
    return dict(zip(clients, map(short, reasons), strict=True))  # type: ignore[arg-type]


def short(reason: object) -> str:
    """One printable line of at most 300 characters: what comes from outside may be anything.

    What Flower makes of an exception, ``<class 'a.B'>:<'text'>``, becomes ``B: text``.
    """
    line = " ".join(str(reason)[:1000].split())
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
    found = re.fullmatch(r"<class '(?:\w+\.)*(\w+)'>:<'(.*)'>", line)
    return (f"{found[1]}: {found[2]}" if found else line)[:300]
