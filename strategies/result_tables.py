"""Tables for the terminal: how a run went."""

from collections.abc import Iterator

from rich.table import Table

from fedmeta.tracking.recorder import Row


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
