"""Weights & Biases. The only module that imports wandb; it runs in the server's process alone."""

from hashlib import blake2b
from typing import Any

from fedmeta.run_folder import read_lines
from fedmeta.tracking.recorder import Row, Run
from fedmeta.tracking.scalars import scalars


class Wandb:
    """Config, per-round metrics, summary, plots, and the table of test clients."""

    def start(self, run: Run) -> None:
        """Open the W&B run; a resumed run continues under the same id."""
        import wandb

        settings = run.experiment.tracking.wandb
        self._folder = run.folder
        self._run = wandb.init(
            project=settings.project,
            entity=settings.entity,
            group=settings.group,
            tags=settings.tags,
            mode=settings.mode,
            name=f"{run.experiment.name}/{run.folder.name}",
            id=_id(run),
            resume="allow" if settings.mode == "online" else None,
            config=run.experiment.sections,
            dir=str(run.folder),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def record(self, row: Row) -> None:
        """Scalars of the row at the round's step."""
        self._run.log(scalars(row), step=row["round"])

    def finish(self, summary: Row | None) -> None:
        """Send summary, pictures and the table, and close."""
        if summary is not None:
            import wandb

            self._run.summary.update(summary)
            pictures = sorted((self._folder / "plots").glob("*.png"))
            self._run.log({f"plots/{p.stem}": wandb.Image(str(p)) for p in pictures})
            self._run.log({"clients": self._table()})
        self._run.finish()

    def _table(self) -> Any:
        import wandb

        rows = read_lines(self._folder / "clients.jsonl")
        names = [name for name in rows[0] if name not in ("client", "split")] if rows else []
        columns: list[str | int] = [
            "client",
            *(f"{name} {when}" for name in names for when in ("before", "after")),
        ]
        data = [[r["client"], *(r[name][i] for name in names for i in (0, -1))] for r in rows]
        return wandb.Table(columns=columns, data=data)


def _id(run: Run) -> str:
    """The same for every resume of a folder, and for no other folder."""
    place = blake2b(str(run.folder.resolve()).encode(), digest_size=6).hexdigest()
    return f"{run.experiment.name[:40]}-{place}".replace(".", "-")
