"""The rows of a comparison as a table and a picture."""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
from rich.markup import escape
from rich.table import Table

from fedmeta.checkpoint import write_atomically
from fedmeta.tracking.plots import band, score_of
from fedmeta.tracking.recorder import Row
from strategies.evaluation import interval

TICKS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
"""Accuracies that the picture names."""
COLOURS, STYLES = [f"C{position}" for position in range(10)], ("-", "--", ":")
"""Of the lines: the style changes when the colours are used up."""
BANDS = 6
"""With more lines than these the picture leaves out their intervals."""


@dataclass(frozen=True)
class Result:
    """The seeds of one experiment together."""

    rows: Sequence[Row]

    @property
    def name(self) -> str:
        """The experiment."""
        return str(self.rows[0]["name"])

    @property
    def measure(self) -> str:
        """``accuracy``, else ``loss``."""
        return score_of(self.rows[0]["test"]["after"])[0]

    @property
    def mean(self) -> float:
        """Over the seeds, after adaptation."""
        return fmean(row["test"]["after"][self.measure] for row in self.rows)

    @property
    def half(self) -> float:
        """95 % t interval: over seeds where there are several, else over test clients."""
        scores = [row["test"]["after"][self.measure] for row in self.rows]
        half = interval(torch.tensor(scores, dtype=torch.float64))
        if len(scores) == 1:
            half = self.rows[0]["test"]["after"][f"{self.measure}_ci95"]
        return math.nan if half is None else float(half)

    def _seen(self, scale: float, unit: str) -> list[str]:
        """Clients that took part, with what they kept, before any further step."""
        scores = [row["seen"]["before"][self.measure] for row in self.rows if row.get("seen")]
        return [f"{scale * fmean(scores):.1f}{unit}" if scores else ""]

    def cells(self) -> list[str]:
        """The row of the table."""
        first = self.rows[0]
        scale, unit = (100, " %") if self.measure == "accuracy" else (1, "")
        before = fmean(row["test"]["before"][self.measure] for row in self.rows)
        published = first["published"]
        around = f" ± {published['ci95']:g}" if "ci95" in published else ""
        paper = f"{published['accuracy']:g}{around} %" if "accuracy" in published else ""
        return [
            self.name,
            str(len(self.rows)),
            f"{first['rounds']:,} x {first['clients']}",
            f"{fmean(row['minutes'] for row in self.rows):,.1f}",
            f"{scale * before:.{2 if scale == 1 else 1}f}{unit}",
            f"{scale * self.mean:.2f} ± {scale * self.half:.2f}{unit}",
            *self._seen(scale, unit),
            str(len(first["test"]["curve"]) - 1),
            paper,
            f"{published['rounds']:,}" if "rounds" in published else "",
        ]


NARROW = (0, 1, 5, 8)
"""The columns that fit a terminal."""
HEADINGS: tuple[str, ...] = (
    "experiment", "seeds", "rounds x clients", "minutes", "before", "after", "took part",
    "steps", "paper", "its rounds",
)  # fmt: skip


def by_problem(rows: Sequence[Row]) -> dict[str, list[Result]]:
    """Results by problem in words, since scores of different problems say nothing of each other.

    Configs side by side are one table all the same: who put them together saw what they are.
    """
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        known = (
            (row.get("problem_name", ""), row.get("problem") or "")
            if row.get("labels")
            else ("", "")
        )
        groups[known].append(row)
    names = [name for name, _ in groups]
    found = {
        f"{name} ({key})" if names.count(name) > 1 else name: results(group)
        for (name, key), group in sorted(groups.items())
    }
    return {name: each for name, each in found.items() if each}


def results(rows: Sequence[Row]) -> list[Result]:
    """Finished rows by experiment, the best first."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in (row for row in rows if not row.get("failed")):
        same = (row["name"], row["setting"], row["rounds"], row["evaluation"], row["episodes"])
        groups[json.dumps(same, sort_keys=True)].append(row)
    found = [Result(group) for group in groups.values()]
    return sorted(found, key=lambda r: r.mean if r.measure == "loss" else -r.mean)


def write_results(out: Path, rows: Sequence[Row]) -> list[Table | str]:
    """``table.md`` and a picture for each problem, in a folder; what a terminal shows of them."""
    found = by_problem(rows)
    if not found:
        return []
    pages = [
        *(_titled(name if len(found) > 1 else "", each) for name, each in found.items()),
        *([failures] if (failures := markdown_failures(rows)) else []),
    ]
    write_atomically(out / "table.md", "\n".join(pages).encode())
    shown: list[Table | str] = [terminal_table(each, name) for name, each in found.items()]
    shown.append(f"table:   {out / 'table.md'}")
    for number, each in enumerate(found.values(), 1):
        picture = out / ("curves.png" if len(found) == 1 else f"curves-{number}.png")
        draw_curves(each, picture)
        shown.append(f"picture: {picture}")
    return shown


def terminal_table(found: Sequence[Result], problem: str = "") -> Table:
    """For a terminal."""
    title = f"{problem}: unseen" if problem else "unseen"
    table = Table(title=escape(f"{title} test clients, ± 95 %"), title_justify="left")
    for column in NARROW:
        justify: Literal["left", "right"] = "right" if column else "left"
        table.add_column(HEADINGS[column], justify=justify, overflow="fold")
    for result in found:
        table.add_row(*(escape(result.cells()[column]) for column in NARROW))
    return table


def _titled(problem: str, found: Sequence[Result]) -> str:
    return (f"## {problem}\n\n" if problem else "") + markdown_table(found)


def markdown_table(found: Sequence[Result]) -> str:
    """For a page."""
    cells = [[cell.replace("|", "\\|") for cell in result.cells()] for result in found]
    lines = [HEADINGS, ["---", *["--:"] * (len(HEADINGS) - 1)], *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def markdown_failures(rows: Sequence[Row]) -> str:
    """Cells without results, and why."""
    failed = [row for row in rows if row.get("failed")]
    return "".join(f"- {r['name']}, seed {r['seed']}, failed: {r['failed']}\n" for r in failed)


def draw_curves(found: Sequence[Result], out: Path) -> None:
    """Validation scores after adaptation against client updates and minutes, the first seed of each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 5.6), dpi=110, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    shown = [result for result in found if result.measure == found[0].measure]
    for position, result in enumerate(shown):
        row, (name, _) = result.rows[0], score_of(result.rows[0]["val"][0])
        colour = COLOURS[position % len(COLOURS)]
        style = STYLES[position // len(COLOURS) % len(STYLES)]
        label = result.name.replace("$", r"\$")  # begins no formula
        updates = [point["round"] * row["clients"] for point in row["val"]]
        for axes, x in zip(panels, (updates, [p["minutes"] for p in row["val"]]), strict=True):
            if len(shown) <= BANDS:
                band(axes, x, row["val"], name, 1.0, colour, style, label)
            else:
                axes.plot(x, [p[name] for p in row["val"]], style, color=colour, label=label)
    scores = [point[name] for result in shown for point in result.rows[0]["val"]]
    _label(panels, name, min(scores), max(scores))
    handles, labels = panels[0].get_legend_handles_labels()
    title = "best first" + (";\nband: 95 % over clients" if len(shown) <= BANDS else "")
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, title=title)
    figure.savefig(out)


def _label(panels: Any, name: str, lowest: float, highest: float) -> None:
    panels[0].set_xlabel("client updates (rounds x clients)")
    panels[1].set_xlabel("minutes of training")
    panels[0].set_ylabel(f"{name} after adaptation, unseen validation clients")
    for axes in panels:
        axes.grid(alpha=0.25)
        if name == "accuracy":  # equal steps are equal odds: what differs is near 100 %
            axes.set_yscale("logit", nonpositive="clip")
            axes.set_yticks(TICKS, [f"{100 * tick:.3g} %" for tick in TICKS])
            axes.set_ylim(max(lowest, 0.01) * 0.95, 1 - (1 - min(highest, 0.999)) / 2)
            axes.minorticks_off()
        else:
            axes.set_yscale("log", nonpositive="clip")
            axes.set_ylim(max(lowest, 1e-12) * 0.5)
