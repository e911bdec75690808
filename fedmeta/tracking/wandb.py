"""Weights & Biases. The only module that imports wandb; it runs in the server's process alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from fedmeta.run_folder import read_lines
from fedmeta.settings import WandbSettings
from fedmeta.tracking.place import Place
from fedmeta.tracking.progress import behind
from fedmeta.tracking.recorder import Row, Run
from fedmeta.tracking.scalars import scalars

COSTS = ("bytes", "seconds", "simulated_seconds", "client_updates")
"""What validation scores are drawn against, besides rounds."""
AFTER = "val/after/"
TAG = 64
"""Characters that a tag of W&B may have."""


@dataclass(frozen=True)
class Table:
    """Columns and rows of a table."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Wandb:
    """Config, per-round metrics against all costs, summary, plots, and tables of results."""

    def start(self, run: Run) -> None:
        """Open the W&B run; a resumed run continues under the same id."""
        self._folder, self._experiment = run.folder, run.experiment
        self._place = Place.read(run.folder) or Place(run.experiment.name)
        settings = run.experiment.tracking.wandb
        place, name = self._place, run.experiment.name
        self._run = open_run(
            replace(settings, group=place.group or settings.group, tags=_tags(settings, place)),
            "cell" if place.group else "run",
            run.folder.name if place.group else f"{name}/{run.folder.name}",
            name,
            run.folder,
            run.experiment.sections | _flat(place),
        )
        self._progress = behind(run)
        _define(self._run)

    def record(self, row: Row) -> None:
        """Scalars of the row at the round's step, and what the rounds so far have cost."""
        self._progress = self._progress.after(row)
        costs, found = self._progress.scalars(), scalars(row)
        after = {k.removeprefix(AFTER): v for k, v in found.items() if k.startswith(AFTER)}
        known = [cost for cost in COSTS if f"progress/{cost}" in costs]
        found |= {f"val_by_{cost}/{key}": value for cost in known for key, value in after.items()}
        self._run.log(found | costs, step=row["round"])

    def finish(self, summary: Row | None) -> None:
        """Send summary, pictures and tables, and close."""
        if summary is not None:
            self._run.summary.update(summary)
            log_pictures(self._run, self._folder / "plots")
            log_tables(self._run, {"clients": self._clients(), "result": self._result(summary)})
        self._run.finish()

    def _clients(self) -> Table:
        """A row per test client."""
        rows = read_lines(self._folder / "clients.jsonl")
        names = [name for name in rows[0] if name not in ("client", "split")] if rows else []
        columns = ["client", *(f"{name} {when}" for name in names for when in ("before", "after"))]
        data = [[r["client"], *(r[name][i] for name in names for i in (0, -1))] for r in rows]
        return Table(columns, data)

    def _result(self, summary: Row) -> Table:
        """One row, so that tables of several runs can be joined."""
        labels = {"contender": self._place.name} | self._place.labels
        scores = {
            f"{name} {when}": value
            for when in ("before", "after")
            for name, value in summary.get("test", {}).get(when, {}).items()
        }
        costs = {key.removeprefix("progress/"): v for key, v in self._progress.scalars().items()}
        found = labels | {"seed": self._experiment.seed} | scores | costs
        return Table(list(found), [list(found.values())])


def send_comparison(
    folder: Path,
    settings: WandbSettings,
    name: str,
    tables: Mapping[str, Table],
    summary: Mapping[str, Any],
) -> None:
    """A run for a comparison as a whole, in the group of its cells; the same whenever it is sent again."""
    run = open_run(replace(settings, group=name), "comparison", name, name, folder, {})
    run.summary.update(dict(summary))
    log_pictures(run, folder)
    log_tables(run, tables)
    run.finish()


def open_run(
    settings: WandbSettings,
    kind: Literal["run", "cell", "comparison"],
    title: str,
    name: str,
    folder: Path,
    config: Mapping[str, Any],
) -> Any:
    """A run whose id is the same for every resume of a folder, and for no other folder."""
    import wandb

    place = blake2b(str(folder.resolve()).encode(), digest_size=6).hexdigest()
    return wandb.init(
        project=settings.project,
        entity=settings.entity,
        group=settings.group,
        tags=settings.tags,
        job_type=kind,
        mode=settings.mode,
        name=title,
        id=f"{name[:40]}-{place}".replace(".", "-"),
        resume="allow" if settings.mode == "online" else None,
        config=dict(config),
        dir=str(folder),
        settings=wandb.Settings(silent=True, console="off"),
    )


def log_pictures(run: Any, folder: Path) -> None:
    """All pictures of a folder."""
    import wandb

    found = {f"plots/{p.stem}": wandb.Image(str(p)) for p in sorted(folder.glob("*.png"))}
    if found:
        run.log(found)


def log_tables(run: Any, tables: Mapping[str, Table]) -> None:
    """W&B keeps each as an artifact."""
    import wandb

    for name, table in tables.items():
        rows = [list(row) for row in table.rows]
        run.log({name: wandb.Table(columns=list(table.columns), data=rows)})


def create_sweep(told: Mapping[str, Any], settings: WandbSettings) -> str:
    """Make a sweep on W&B; its path, as ``wandb agent`` takes it."""
    import wandb

    id = wandb.sweep(dict(told), entity=settings.entity, project=settings.project)
    return "/".join(filter(None, [settings.entity, settings.project, id]))


def _define(run: Any) -> None:
    """Which metric is drawn against which."""
    run.define_metric("progress/round", hidden=True)
    for split in ("train", "val", "test", "seen"):
        run.define_metric(f"{split}/*", step_metric="progress/round")
    for cost in COSTS:
        run.define_metric(f"val_by_{cost}/*", step_metric=f"progress/{cost}")


def _tags(settings: WandbSettings, place: Place) -> list[str]:
    return list(dict.fromkeys(tag[:TAG] for tag in (*settings.tags, *place.labels.values())))


def _flat(place: Place) -> dict[str, str]:
    """Labels as keys of their own: W&B takes dots for nests."""
    flat = {f"label_{axis.replace('.', '_')}": label for axis, label in place.labels.items()}
    return {"contender": place.name} | flat
