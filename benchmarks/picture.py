"""Clients per second of every package at every work, as a picture."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PACKAGES = {
    "fedmeta": ("fedmeta auto", "#0072B2"),
    "loop": ("loop in torch (best of three)", "#999999"),
    "jax": ("JAX (best of four)", "#E69F00"),
    "fedjax": ("FedJAX", "#D55E00"),
    "pfl": ("pfl", "#CC79A7"),
}
"""Title and a colour that the colour-blind tell apart."""


def draw(works: dict[str, Any], path: Path) -> None:
    """Bars on a scale of powers of ten, with the slowest and fastest repetition."""
    figure, axes = plt.subplots(figsize=(8, 0.95 * len(works) + 1.2), layout="constrained")
    height = 0.8 / len(PACKAGES)
    for slot, (package, (title, colour)) in enumerate(PACKAGES.items()):
        bars = [(y, found, _best(found, package)) for y, found in enumerate(works.values())]
        shown = [(y, found["clients"], row) for y, found, row in bars if row]
        axes.barh(
            [y + (slot - 2) * height for y, _, _ in shown],
            [clients / row["median"] for _, clients, row in shown],
            height,
            xerr=[
                [clients / row["median"] - clients / row["most"] for _, clients, row in shown],
                [clients / row["least"] - clients / row["median"] for _, clients, row in shown],
            ],
            error_kw={"elinewidth": 0.8},
            color=colour,
            label=title,
        )
    axes.set_xscale("log")
    axes.set_yticks(range(len(works)), [found["title"] for found in works.values()])
    axes.invert_yaxis()
    axes.set_xlabel("clients per second, one core (bars: median; lines: slowest to fastest)")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _best(found: dict[str, Any], package: str) -> dict[str, Any] | None:
    """The fastest variant of a peer; of fedmeta what ``auto`` chose."""
    wanted = "fedmeta auto" if package == "fedmeta" else f"{package} "
    rows = [r for n, r in found["rows"].items() if n.startswith(wanted) and "median" in r]
    return min(rows, key=lambda row: float(row["median"]), default=None)
