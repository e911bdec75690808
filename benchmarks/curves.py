"""Accuracy against rounds and minutes of several runs: the picture and the table of docs/results.md.

python -m benchmarks.curves docs/images/omniglot.png RUN [RUN ...]
"""

import json
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any

from fedmeta.run_folder import read_lines
from fedmeta.tracking.plots import band

COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"]  # Okabe and Ito


def validation(folder: Path) -> tuple[list[int], list[float], list[dict[str, Any]]]:
    """Rounds, minutes of training behind, and scores after adaptation."""
    rows = read_lines(folder / "metrics.jsonl")
    train = [row for row in rows if row["split"] == "train"]
    seconds = accumulate((row["seconds"] for row in train), initial=0.0)
    minutes = {row["round"]: s / 60 for row, s in zip([{"round": 0}, *train], seconds, strict=True)}
    val = [row for row in rows if row["split"] == "val"]
    rounds = [row["round"] for row in val]
    return rounds, [minutes[r] for r in rounds], [row["after"] for row in val]


def draw(folders: list[Path], out: Path) -> None:
    """Two panels with 95 % intervals over clients."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 4.0), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for folder, colour in zip(folders, COLOURS, strict=False):
        rounds, minutes, after = validation(folder)
        name = json.loads((folder / "summary.json").read_text())["name"]
        for axes, x in ((left, rounds), (right, minutes)):
            band(axes, list(x), after, "accuracy", 100, colour, "-", name)
    left.set_xlabel("round")
    right.set_xlabel("minutes of training")
    left.set_ylabel("accuracy (%), unseen validation clients")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.set_ylim(40, 100)
    right.legend(frameon=False, title="band: 95 % interval over clients", loc="lower right")
    figure.savefig(out)


def table(folders: list[Path]) -> str:
    """A Markdown row per run: what unseen test clients saw."""
    lines = [
        "| run | rounds | minutes | test clients | before | after | worst decile |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for folder in folders:
        summary = json.loads((folder / "summary.json").read_text())
        test = summary["test"]
        before, after = test["before"], test["after"]
        lines.append(
            f"| {summary['name']} | {summary['rounds']:,} | {summary['seconds'] / 60:.0f} "
            f"| {test['clients']} | {100 * before['accuracy']:.1f} % "
            f"| {100 * after['accuracy']:.2f} ± {100 * after['accuracy_ci95']:.2f} % "
            f"| {100 * after['accuracy_worst_decile']:.1f} % |"
        )
    return "\n".join(lines)


def main() -> None:
    """Draw and print."""
    out, *folders = map(Path, sys.argv[1:])
    draw(folders, out)
    print(table(folders))


if __name__ == "__main__":
    main()
