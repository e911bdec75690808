"""Reading what W&B wrote in mode offline."""

import json
import struct
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

HEADER, BLOCK, CHUNK = 7, 32_768, struct.Struct("<IHB")
FULL, LAST = 1, 4


def payloads(data: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log: chunks of a checksum, a length and a type, in blocks."""
    position, parts = HEADER, b""
    while position + CHUNK.size <= len(data):
        left = BLOCK - position % BLOCK
        if left < CHUNK.size:  # padding at the end of a block
            position += left
            continue
        _, length, part = CHUNK.unpack_from(data, position)
        position += CHUNK.size
        parts += data[position : position + length]
        position += length
        if position > len(data):  # still being written
            return
        if part in (FULL, LAST):
            yield parts
            parts = b""


def read(folder: Path) -> list[Record]:
    """All records up to the exit, which a process of W&B's own writes a moment after finish()."""
    (file,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    assert file.read_bytes().startswith(b":W&B")
    for _ in range(200):
        records = [Record.FromString(payload) for payload in payloads(file.read_bytes())]
        if records and kind(records[-1]) == "exit":
            return records
        time.sleep(0.05)
    raise TimeoutError(f"{file} has no exit record after 10 s")


def kind(record: Record) -> str:
    return str(record.WhichOneof("record_type"))


def plain(items: Iterable[Any]) -> dict[str, Any]:
    """The mapping that W&B was given: a nested key is a path into it."""
    found: dict[str, Any] = {}
    for item in items:
        *outer, last = item.nested_key or [item.key]
        place = found
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = json.loads(item.value_json)
    return found


def history(records: list[Record]) -> list[dict[str, Any]]:
    return [plain(r.history.item) for r in records if kind(r) == "history"]


def series(records: list[Record], name: str) -> dict[int, float]:
    """A metric by step."""
    return {row["_step"]: row[name] for row in history(records) if name in row}
