"""A table as a value: a page, Markdown and tests read the same."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, isnan

from markupsafe import Markup

from simulations.report.looks import Look

ABSENT = "—"


@dataclass(frozen=True)
class Cell:
    """What stands in a place, and what it is sorted by."""

    text: str
    order: float | None = None
    """None: by its text."""
    look: Look | None = None
    """Of the contender that it names."""
    graphic: Markup | None = None
    """Shown beside the text on a page."""
    verdict: str = ""
    """``better``, ``worse`` or ``untold``, shown by colour besides the text."""

    @property
    def key(self) -> str:
        """``order`` as JavaScript reads it: infinity is ``Infinity``."""
        return json.dumps(self.order)

    @property
    def is_words(self) -> bool:
        """And no number."""
        return self.order is None or self.look is not None


@dataclass(frozen=True)
class Table:
    """Rows that start with what they are about."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    sortable: bool = True


def number(value: float | None, digits: str = ",.10g") -> Cell:
    """A number; none and NaN as a dash, which sorts last."""
    if value is None or isnan(value):
        return Cell(ABSENT, float("inf"))
    return Cell(f"{value:{digits}}", value)


def score(value: float, measure: str, half: float | None = None) -> Cell:
    """An accuracy in percent or a loss, with the half-width of its interval."""
    return Cell(score_text(value, measure, half), value)


def score_text(value: float, measure: str, half: float | None = None) -> str:
    """``81.23 ± 0.98 %`` for accuracies, ``0.2346 ± 0.0123`` for losses."""
    scale, digits, unit = (100.0, 2, " %") if measure == "accuracy" else (1.0, 4, "")
    around = "" if half is None or not isfinite(half) else f" ± {scale * half:.{digits}f}"
    return f"{scale * value:.{digits}f}{around}{unit}"


def markdown(table: Table) -> str:
    """With a heading, the note below."""
    lines = [
        table.columns,
        ["---", *["--:"] * (len(table.columns) - 1)],
        *([cell.text for cell in row] for row in table.rows),
    ]
    body = "".join(f"| {' | '.join(map(plain, line))} |\n" for line in lines)
    return f"### {plain(table.title)}\n\n{body}\n{plain(table.note)}\n"


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    for sign in "\\`*_|<>[]#":
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.split())
