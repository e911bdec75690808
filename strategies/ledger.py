"""The ledger of a run: a line for every client of every round, ``ledger.jsonl``.

One tidy table, which pandas reads with ``read_json(path, lines=True)``. A resumed run takes back what
lies after its checkpoint.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedmeta.run_folder import line, read_lines, write_lines
from fedmeta.types import Metrics
from strategies.rules import Outcome

LEDGER = "ledger.jsonl"
Entry = dict[str, Any]


def entries(
    round: int, outcome: Outcome | None, dropped: Mapping[int, str], shared: dict[str, float]
) -> list[Entry]:
    """Who counted in a step and by how much, then who was dropped and why.

    ``shared`` holds for every client of the round that replied, such as the bytes of a reply.
    """
    found = list[Entry]()
    if outcome is not None:
        rows = _rows(outcome.columns, len(outcome.clients))
        weights = [None] * len(rows) if outcome.weights is None else outcome.weights.tolist()
        found = [
            {"round": round, "client": client, "weight": weight} | row | shared
            for client, weight, row in zip(outcome.clients, weights, rows, strict=True)
        ]
    return found + [{"round": round, "client": c, "dropped": why} for c, why in dropped.items()]


def _rows(columns: Metrics, count: int) -> list[Entry]:
    names, values = list(columns), [column.tolist() for column in columns.values()]
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)] or [
        {} for _ in range(count)
    ]


class Ledger:
    """The file."""

    def __init__(self, folder: Path, resumed_at: int) -> None:
        self._path = folder / LEDGER
        if self._path.exists():
            write_lines(self._path, (r for r in read_lines(self._path) if r["round"] <= resumed_at))

    def write(self, found: Sequence[Entry] | Iterable[Entry]) -> None:
        """Append the lines of a round."""
        with self._path.open("a") as file:
            file.write("".join(map(line, found)))
