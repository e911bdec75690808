"""What fewer bytes on the wire cost in accuracy: Omniglot 5-way 1-shot, second-order MAML.

    python -m benchmarks.wire [--out FOLDER] [--seeds 0,1,2]

Prints a table; writes docs/wire.json and docs/images/wire.png. A finished run is not run again.
What clients left out takes 3 GB of the folder.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import yaml
from rich.console import Console

from benchmarks.results import machine
from benchmarks.wire_picture import draw
from fedmeta.run_folder import write_json
from simulations.cells import Cell
from simulations.compare import run_all
from simulations.grid_file import Grid
from simulations.plan import cells_of
from simulations.rows import read_row
from simulations.terminal import numbers
from strategies.evaluation import interval

CONFIG = Path(__file__).parents[1] / "configs" / "omniglot_maml.yaml"
RESULTS, PICTURE = Path("docs/wire.json"), Path("docs/images/wire.png")
SEEDS, ROUNDS, CLIENTS, TEST = "0,1,2", 100, 16, 500
SMALLER = (
    f"rounds={ROUNDS}",
    "model.filters=32",
    f"cohort.clients={CLIENTS}",
    "cohort.replies=each",
    "data.clients.val=20",  # they decide nothing
    "evaluation.clients=20",
    f"data.clients.test={TEST}",
    f"evaluation.every={ROUNDS}",
    "evaluation.select=last",  # one choice less that differs between runs
    "engine.name=recorded",  # auto may choose another engine in each run, with other last bits
    f"engine.chunk={CLIENTS}",
    "tracking.wandb.mode=disabled",
    "tracking.tensorboard=false",
)
"""What is not the config's, besides strategy and training clients."""
ADAM = {"name": "fedadam", "weighting": "uniform", "lr": 0.003, "tau": 1e-8, "beta2": 0.999}
SGD = {"name": "fedavg", "weighting": "uniform", "lr": 0.3}
"""Rates of exact runs, by 300 validation clients and a seed that is none of those here: Adam's of 0.001,
0.003 and 0.01, that of SGD of 0.3 and 1."""

WITHOUT = ", no feedback"
HALVES_DOWN = {f"params {form}": f"{{params: {form}}}" for form in ("bfloat16", "float16")}
HALVES_UP = {f"deltas {form}": f"{{deltas: {form}}}" for form in ("bfloat16", "float16")}
INT8, TENTH, HUNDREDTH = (
    {title: f"{{{wire}}}", title + WITHOUT: f"{{{wire}, feedback: false}}"}
    for title, wire in (
        ("int8", "deltas: int8"),
        ("topk 0.1", "deltas: topk, fraction: 0.1"),
        ("topk 0.01", "deltas: topk, fraction: 0.01"),
    )
)
BOTH = {
    "params bfloat16, int8": "{params: bfloat16, deltas: int8}",
    "params bfloat16, topk 0.01": "{params: bfloat16, deltas: topk, fraction: 0.01}",
}
EXACT = {"exact": "{}"}


@dataclass(frozen=True)
class Group:
    """Runs that differ in the form of the numbers alone."""

    name: str
    title: str
    strategy: dict[str, Any]
    train: int
    """Registered clients: with fewer of them each comes back more often, with what it left out."""
    forms: dict[str, str]
    """The settings of ``wire`` by title; the first is exact."""

    def cell(self, form: str, seed: int, out: Path) -> Cell:
        """One run."""
        config = out / f"{self.name}.yaml"
        slug = "-".join([self.name, *form.replace(",", "").split()])
        settings = (f"name={slug}", f"data.clients.train={self.train}", f"wire={self.forms[form]}")
        (cell,) = cells_of([Grid.read(config)], [*SMALLER, *settings], [seed], False, out)
        return cell

    def write_config(self, out: Path) -> None:
        """The config with the strategy of this group: overrides merge, and would keep Adam's keys."""
        sections = yaml.safe_load(CONFIG.read_text()) | {"strategy": self.strategy}
        (out / f"{self.name}.yaml").write_text(yaml.safe_dump(sections, sort_keys=False))


GROUPS = (
    Group(
        "adam",
        "server Adam, 1,000 clients",
        ADAM,
        1000,
        EXACT | HALVES_DOWN | HALVES_UP | INT8 | TENTH | HUNDREDTH | BOTH,
    ),
    Group("adam32", "server Adam, 32 clients", ADAM, 32, EXACT | HUNDREDTH),
    Group("sgd32", "server SGD, 32 clients", SGD, 32, EXACT | HUNDREDTH),
)
COLUMNS = (
    "kB down", "kB up", "of exact", "accuracy", "difference to exact", "distinguishable",
)  # fmt: skip


def row(exact: Sequence[Cell], these: Sequence[Cell]) -> dict[str, Any]:
    """The seeds of a form, beside those of exact."""
    scores = [100 * _accuracy(cell) for cell in these]
    return {
        "down": _bytes(these, "down"),
        "up": _bytes(these, "up"),
        "ratio": _total(these) / _total(exact),
        "accuracies": scores,
        "accuracy": fmean(scores),
        **compare(these, exact),
    }


def compare(these: Sequence[Cell], others: Sequence[Cell]) -> dict[str, Any]:
    """Percentage points between runs of the same seeds, with a 95 % t interval over the seeds."""
    pairs = zip(these, others, strict=True)
    points = [100 * (_accuracy(a) - _accuracy(b)) for a, b in pairs]
    mean, half = fmean(points), interval(torch.tensor(points, dtype=torch.float64))
    assert half is not None
    return {"difference": mean, "half": half, "distinguishable": abs(mean) > half}


def _accuracy(cell: Cell) -> float:
    return float(read_row(cell.row_file)["test"]["after"]["accuracy"])


def _bytes(these: Sequence[Cell], way: str) -> float:
    """Of one client in one round, with names, headers and the config."""
    found = (json.loads((cell.folder / "summary.json").read_text()) for cell in these)
    return fmean(summary["bytes"][way] for summary in found) / (ROUNDS * CLIENTS)


def _total(these: Sequence[Cell]) -> float:
    return _bytes(these, "down") + _bytes(these, "up")


def table(groups: dict[str, Any]) -> Iterator[str]:
    """Markdown, line by line."""
    for found in groups.values():
        yield f"| {' | '.join([found['title'], *COLUMNS])} |"
        yield f"| --- |{' --: |' * (len(COLUMNS) - 1)} --- |"
        for form, each in found["rows"].items():
            cells = (
                form,
                f"{each['down'] / 1000:.1f}",
                f"{each['up'] / 1000:.1f}",
                f"{100 * each['ratio']:.0f} %",
                f"{each['accuracy']:.1f} %",
                *(_verdict(each) if form != "exact" else ("", "")),
            )
            yield f"| {' | '.join(cells)} |"
        yield ""
    yield "| what feedback adds | points | distinguishable |"
    yield "| --- | --: | --- |"
    for found in groups.values():
        for form, each in found["feedback"].items():
            yield f"| {form}, {found['title']} | {' | '.join(_verdict(each))} |"


def _verdict(each: dict[str, Any]) -> tuple[str, str]:
    said = f"{each['difference']:+.1f} ± {each['half']:.1f}"
    return said, "yes" if each["distinguishable"] else "no"


def main() -> None:
    """Run what is missing, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/wire"))
    parser.add_argument("--seeds", default=SEEDS, help="two or more")
    args = parser.parse_args()
    out, seeds = args.out, numbers(args.seeds, "--seeds")
    if len(seeds) < 2:
        parser.error("--seeds must be two or more: the interval is over them")
    out.mkdir(parents=True, exist_ok=True)
    for group in GROUPS:
        group.write_config(out)
    wanted = {
        (group.name, form, seed): group.cell(form, seed, out)
        for seed in seeds
        for group in GROUPS
        for form in group.forms
    }
    if failed := run_all(list(wanted.values()), 1, Console()):
        raise SystemExit(f"{len(failed)} of {len(wanted)} runs failed: {failed}")
    groups: dict[str, Any] = {}
    for group in GROUPS:
        runs = {form: [wanted[group.name, form, seed] for seed in seeds] for form in group.forms}
        rows = {form: row(runs["exact"], these) for form, these in runs.items()}
        feedback = {
            form: compare(these, runs[form + WITHOUT])
            for form, these in runs.items()
            if form + WITHOUT in runs
        }
        groups[group.name] = {"title": group.title, "rows": rows, "feedback": feedback}
    settings = {"rounds": ROUNDS, "clients": CLIENTS, "seeds": seeds, "test_clients": TEST}
    write_json(RESULTS, settings | {"groups": groups, "machine": machine()})
    draw(groups, PICTURE)
    print("\n".join(table(groups)))


if __name__ == "__main__":
    main()
