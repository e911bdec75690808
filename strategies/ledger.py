"""The ledger of a run: a line for every client of every round, ``ledger.jsonl``.

One tidy table, which pandas reads with ``read_json(path, lines=True)``. A resumed run takes back what
lies after its checkpoint.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedmeta.run_folder import line
from fedmeta.types import Metrics
from strategies.rules import Outcome

LEDGER = "ledger.jsonl"
Entry = dict[str, Any]


def entries(
    round: int, outcome: Outcome | None, dropped: Mapping[int, str], shared: dict[str, float]
) -> list[Entry]:
    """Who counted in a step and by how much, then who was dropped and why.

    ``shared`` holds for every client of the round that replied, such as the bytes of a reply. Clients
    choose the names of their columns, so what the server says wins.
    """
    found = list[Entry]()
    if outcome is not None:
        rows = _rows(outcome.columns)
        weights = [None] * len(rows) if outcome.weights is None else outcome.weights.tolist()
        own = [
            {"round": round, "client": client, "weight": weight}
            for client, weight in zip(outcome.clients, weights, strict=True)
        ]
        found = [mine | row | shared | mine for mine, row in zip(own, rows, strict=True)]
    return found + [{"round": round, "client": c, "dropped": why} for c, why in dropped.items()]


def _rows(columns: Metrics) -> list[Entry]:
    """Without ``dropped``, which only the server says, of others."""
    names = [name for name in columns if name != "dropped"]
    values = [columns[name].tolist() for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


class Ledger:
    """The file."""

    def __init__(self, folder: Path, resumed_at: int) -> None:
        self._path = folder / LEDGER
        if self._path.exists():
            _cut(self._path, resumed_at)

    def write(self, found: Sequence[Entry]) -> None:
        """Append the lines of a round."""
        if found:
            with self._path.open("a") as file:
                file.write("".join(map(line, found)))


def _cut(path: Path, round: int) -> None:
    """Cut off what comes after a round, a line at a time: a long run's ledger is large."""
    with path.open("rb+") as file:
        kept = 0
        for text in file:
            if not text.endswith(b"\n") or json.loads(text)["round"] > round:
                break
            kept += len(text)
        file.truncate(kept)
