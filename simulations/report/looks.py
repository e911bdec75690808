"""How contenders are told apart: colour, dashes and marker each have a period of their own.

The colours are Okabe and Ito's (https://jfly.uni-koeln.de/color/), which differ for every kind of
colour vision; of their eight, these have a contrast of 3 to 1 or more to the paper (WCAG 1.4.11).
"""

from dataclasses import dataclass
from typing import Any

BLUE, SKY, VERMILLION, GREEN, PURPLE = "#0072b2", "#56b4e9", "#d55e00", "#009e73", "#cc79a7"
PAPER, DARK_PAPER, INK, DARK_INK = "#ffffff", "#15181c", "#1b1f24", "#e8eaed"
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, INK)
DARK_COLOURS = (SKY, VERMILLION, GREEN, PURPLE, DARK_INK)
DASHES: tuple[tuple[float, ...], ...] = ((), (7, 3), (2, 2.5), (9, 3, 2, 3))
"""Lengths of line and gap, in pixels."""
SHAPES = {
    "o": "m-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0z",
    "s": "m-2.9-2.9h5.8v5.8h-5.8z",
    "^": "m0-3.8l3.7 6.6h-7.4z",
}
"""Markers by their name in matplotlib, drawn around a point."""


@dataclass(frozen=True)
class Look:
    """Of the contender at a position."""

    position: int

    @property
    def classes(self) -> str:
        """Of CSS: colour and dashes."""
        return f"c{self.position % len(COLOURS)} d{self.position % len(DASHES)}"

    @property
    def colour(self) -> str:
        """On light paper."""
        return COLOURS[self.position % len(COLOURS)]

    @property
    def marker(self) -> str:
        """Its name in matplotlib."""
        return list(SHAPES)[self.position % len(SHAPES)]

    @property
    def shape(self) -> str:
        """The marker as the end of an SVG path."""
        return SHAPES[self.marker]

    def in_matplotlib(self) -> dict[str, Any]:
        """Arguments of ``plot``."""
        dashes = DASHES[self.position % len(DASHES)]
        style = (0, tuple(length / 2 for length in dashes)) if dashes else "-"
        return {"color": self.colour, "linestyle": style, "marker": self.marker, "markersize": 4}


def style_sheet() -> str:
    """The colours and dashes as CSS, for light and dark paper."""
    light = f"--paper:{PAPER};--ink:{INK}"
    dark = f"--paper:{DARK_PAPER};--ink:{DARK_INK}"
    lines = [f":root{{{light}}}", *(f".c{i}{{--own:{c}}}" for i, c in enumerate(COLOURS))]
    darker = [f":root{{{dark}}}", *(f".c{i}{{--own:{c}}}" for i, c in enumerate(DARK_COLOURS))]
    lines.append(f"@media (prefers-color-scheme:dark){{{''.join(darker)}}}")
    lines += [
        f".d{i}{{stroke-dasharray:{' '.join(map(str, dashes)) or 'none'}}}"
        for i, dashes in enumerate(DASHES)
    ]
    return "\n".join(lines)
