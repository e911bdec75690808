"""Tables for the terminal: what there is, and how a run went."""

import inspect
from collections.abc import Iterator, Mapping

from rich.table import Table

from fedmeta.data import DATASETS
from fedmeta.engines import ENGINES
from fedmeta.learners import LEARNERS
from fedmeta.models import MODELS
from fedmeta.plugins import load_plugins
from fedmeta.tracking.recorder import Row
from strategies.stock import STRATEGIES

KINDS: dict[str, Mapping[str, type]] = {
    "learner": LEARNERS,
    "model": MODELS,
    "dataset": DATASETS,
    "strategy": STRATEGIES,
    "engine": ENGINES,
}


def tables() -> Iterator[Table]:
    """One table of names and first docstring lines; the docstrings carry the papers."""
    load_plugins()
    for kind, members in KINDS.items():
        table = Table(kind, "what it is", title_justify="left", expand=False)
        for name, member in sorted(members.items()):
            table.add_row(name, _first_paragraph(member))
        yield table


def _first_paragraph(member: type) -> str:
    text = (inspect.getdoc(member) or "").split("\n\n")[0]
    return text.replace("\n", " ").replace("``", "")


def result_tables(summary: Row) -> Iterator[Table]:
    """Unseen test clients before and after adaptation; and clients that took part, where asked for."""
    title = f"{summary['name']}: params of round {summary['selected_round']}"
    table = _scores(summary["test"], "unseen clients", title)
    notes = []
    if missing := summary["test"]["missing"]:
        notes.append(f"{missing} clients could not be scored, see log.txt")
    if summary.get("dropped_replies"):
        notes.append(f"{summary['dropped_replies']} replies dropped, see summary.json")
    table.caption = "; ".join(notes) or None
    yield table
    if "seen" in summary:
        yield _scores(summary["seen"], "clients that took part", "last round, held-out examples")


def _scores(report: Row, whose: str, title: str) -> Table:
    steps = len(report["curve"]) - 1
    table = Table(f"{report['clients']} {whose}", "before", f"after {steps} steps", title=title)
    before, after = report["before"], report["after"]
    table.add_row("loss", *(_with_interval(row, "loss", 1, "") for row in (before, after)))
    if "accuracy" in after:
        table.add_row(
            "accuracy", *(_with_interval(row, "accuracy", 100, " %") for row in (before, after))
        )
        worst = [f"{100 * row['accuracy_worst_decile']:.2f} %" for row in (before, after)]
        table.add_row("worst decile", *worst)
    return table


def _with_interval(row: Row, name: str, scale: float, unit: str) -> str:
    half = row[f"{name}_ci95"]
    around = "" if half is None else f" ± {scale * half:.2f}"
    return f"{scale * row[name]:.2f}{around}{unit}"
