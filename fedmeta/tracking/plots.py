"""The pictures of a run, drawn from its own files."""

from pathlib import Path
from typing import Any

from fedmeta.run_folder import read_lines
from fedmeta.tracking.recorder import Row, Run

BLUE, ORANGE, GREY = (
    "#0072b2",
    "#d55e00",
    "#6b6b6b",
)  # Okabe and Ito: told apart without colour vision


class Plots:
    """``plots/learning_curve.png`` and ``plots/adaptation_curve.png``, at the end of the run."""

    def start(self, run: Run) -> None:
        """Remember where."""
        self._run = run

    def record(self, row: Row) -> None:
        """Rows are read back from ``metrics.jsonl``."""

    def finish(self, summary: Row | None) -> None:
        """Draw."""
        if summary is None:
            return
        folder, title = self._run.folder, self._run.experiment.name
        rows = read_lines(folder / "metrics.jsonl")
        save(learning_curve(rows, title), folder / "plots/learning_curve.png")
        if "test" in summary:
            curve = summary["test"]["curve"]
            save(adaptation_curve(curve, title), folder / "plots/adaptation_curve.png")


def learning_curve(rows: list[Row], title: str) -> Any:
    """Validation score before and after adaptation against rounds, with 95 % intervals."""
    figure, axes = new_figure(title)
    val = [row for row in rows if row["split"] == "val"]
    name, scale = score_of(val[0]["after"]) if val else ("loss", 1.0)
    steps = len(val[0]["curve"]) - 1 if val else 0
    rounds = [row["round"] for row in val]
    for when, suffix, colour, style in (
        ("before", "", GREY, "--"),
        ("after", f" ({steps} steps)", BLUE, "-"),
    ):
        label = f"{when} adaptation{suffix}"
        band(axes, rounds, [row[when] for row in val], name, scale, colour, style, label)
    axes.set_xlabel("round")
    annotate(axes, name, "unseen validation clients")
    return figure


def adaptation_curve(curve: list[Row], title: str) -> Any:
    """Test score against inner steps, with 95 % intervals over clients."""
    figure, axes = new_figure(title)
    name, scale = score_of(curve[0])
    band(axes, list(range(len(curve))), curve, name, scale, ORANGE, "-", "mean over clients")
    axes.set_xlabel("inner steps on the client's support")
    annotate(axes, name, "unseen test clients")
    return figure


def band(
    axes: Any, x: list[float], points: list[Row], name: str, scale: float,
    colour: str, style: str, label: str,
) -> None:  # fmt: skip
    """A line with its 95 % interval."""
    middle = [scale * point[name] for point in points]
    half = [scale * (point[f"{name}_ci95"] or 0.0) for point in points]
    axes.plot(x, middle, style, color=colour, label=label, marker="o", markersize=2.5)
    if not any(half):
        return  # one client has no interval
    low = [m - h for m, h in zip(middle, half, strict=True)]
    high = [m + h for m, h in zip(middle, half, strict=True)]
    axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def score_of(point: Row) -> tuple[str, float]:
    """Accuracy in percent where there is one, else the loss."""
    return ("accuracy", 100.0) if "accuracy" in point else ("loss", 1.0)


def new_figure(title: str) -> tuple[Any, Any]:
    """A figure that needs no display."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.4, 4.0), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # rounds and steps are whole
    axes.grid(alpha=0.25)
    return figure, axes


def annotate(axes: Any, name: str, whose: str) -> None:
    """The unit, whose score it is, and what the band means."""
    unit = "accuracy (%)" if name == "accuracy" else "query loss"
    axes.set_ylabel(f"{unit}, {whose}")
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, 0), min(top, 100) if name == "accuracy" else top)
    if name == "loss":
        axes.set_ylim(bottom=0)
    axes.legend(frameon=False, title="band: 95 % interval" if axes.collections else None)


def save(figure: Any, path: Path) -> None:
    """Write the picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
