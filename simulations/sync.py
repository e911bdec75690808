"""``fedmeta sync``: what run folders hold, sent to W&B. The files are the truth; W&B may come later."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from fedmeta.config import Experiment
from fedmeta.errors import FedmetaError, RunFolderError
from fedmeta.run_folder import read_lines, write_json
from fedmeta.settings import WandbSettings
from fedmeta.tracking.place import Place
from fedmeta.tracking.plots import Plots
from fedmeta.tracking.recorder import Row, Run
from fedmeta.tracking.wandb import Table, Wandb, send_comparison
from simulations.cells import Cell
from simulations.report import pairwise
from simulations.report.contenders import problems
from simulations.report.ranking import ranking
from simulations.rows import read_rows
from simulations.run import special_pictures
from strategies.opening import open_run
from strategies.state import CONFIG

Mode = Literal["offline", "online"]
SENT = "synced.json"
"""Where a run was sent that had its results, in its folder."""


def sync(folders: Sequence[Path], mode: Mode | None, project: str | None) -> Iterator[str]:
    """Send runs and comparisons; a line for each. Raises FedmetaError where W&B cannot be had."""
    for folder, runs in [(folder, _runs(folder)) for folder in folders]:
        for run in runs:
            settings = _chosen(open_run(run), mode, project)
            _or_say(run, lambda: send_run(run, settings))  # noqa: B023 (called at once)
            yield f"{run}: {settings.mode}, project {settings.project}"
        if (folder / "rows").is_dir():
            place = Place.read(runs[0])
            name = place.group if place else folder.name
            _or_say(folder, lambda: send_table(folder, read_rows([folder]), settings, name))  # noqa: B023
            yield f"{folder}: the comparison"


def send_run(folder: Path, settings: WandbSettings) -> None:
    """All rows, results, pictures and tables of a run folder; the run on W&B is the same every time.

    One that is not finished is sent as far as it is, and counts as not sent. Raises RunFolderError
    where there is no run, and whatever W&B raises.
    """
    experiment, summary = open_run(folder), _summary(folder)
    tracking = replace(experiment.tracking, wandb=settings)
    run = Run(replace(experiment, tracking=tracking), folder, 0)
    if summary is not None and not any((folder / "plots").glob("*.png")):
        for picture in (Plots(), *special_pictures(experiment)):  # which cells leave out
            picture.start(run)
            picture.finish(summary)
    recorder = Wandb()
    recorder.start(run)
    for row in read_lines(folder / "metrics.jsonl"):
        recorder.record(row)
    recorder.finish(summary)
    if summary is not None:
        write_json(folder / SENT, {"mode": settings.mode, "project": settings.project})


def send_table(out: Path, rows: Sequence[Row], settings: WandbSettings, name: str) -> None:
    """A comparison as a whole: who is best and how surely, for each problem, and the curves."""
    ranks: list[list[str]] = []
    words: list[list[str]] = []
    columns: Sequence[str] = ()
    for problem in problems(rows):
        if problem.contenders:
            table = ranking(problem)
            columns = table.columns
            ranks += [[problem.name, *(cell.text for cell in row)] for row in table.rows]
            pairs, why = pairwise.comparisons(problem)
            about, others = pairwise.statements(pairs, problem.contenders[0].name)
            words += [[problem.name, line] for line in (*about, *others, *filter(None, [why]))]
    tables = {
        "ranking": Table(["problem", *columns], ranks),
        "statements": Table(["problem", "statement"], words),
    }
    send_comparison(out, settings, name, tables, {"statements": [line for _, line in words]})


class Sender:
    """What a comparison tells W&B of its cells: after the first trouble nothing more, and how to go on."""

    def __init__(self, mode: Mode | None, say: Callable[[str], None]) -> None:
        self._mode, self._say, self._works = mode, say, True

    def wanted(self, cells: Sequence[Cell]) -> bool:
        """Whether any cell is for W&B."""
        return any(self._settings(cell).mode != "disabled" for cell in cells)

    def cell(self, cell: Cell) -> None:
        """Send a finished cell, unless it was sent before or its run folder is gone."""
        settings = self._settings(cell)
        if (
            settings.mode != "disabled"
            and cell.folder.exists()
            and not _sent(cell.folder, settings)
        ):
            self._try(lambda: send_run(cell.folder, settings), cell.out)

    def table(self, cells: Sequence[Cell], rows: Sequence[Row]) -> None:
        """Send the comparison as a whole, to where its first cell goes."""
        settings, out, name = self._settings(cells[0]), cells[0].out, cells[0].place.group
        if settings.mode != "disabled":
            self._try(lambda: send_table(out, rows, settings, name), out)

    def _settings(self, cell: Cell) -> WandbSettings:
        settings = cell.experiment.tracking.wandb
        return replace(settings, mode=self._mode or settings.mode)

    def _try(self, send: Callable[[], None], out: Path) -> None:
        if not self._works:
            return
        try:
            send()
        except Exception as e:  # watching must not end the work
            self._works = False
            self._say(f"W&B: {type(e).__name__}: {e}; send it later with: fedmeta sync {out}")


def _chosen(experiment: Experiment, mode: Mode | None, project: str | None) -> WandbSettings:
    """As the config says, unless told otherwise; who syncs a run without W&B wants it online."""
    settings = experiment.tracking.wandb
    own: Mode = "online" if settings.mode == "disabled" else settings.mode
    return replace(settings, mode=mode or own, project=project or settings.project)


def _or_say(what: Path, send: Callable[[], None]) -> None:
    try:
        send()
    except FedmetaError:
        raise
    except Exception as e:  # W&B has errors of every kind
        raise FedmetaError(f"{what}: W&B: {type(e).__name__}: {e}") from e


def _sent(folder: Path, settings: WandbSettings) -> bool:
    """Whether a run folder was sent there before; to the disk (offline) counts less than online."""
    try:
        found = json.loads((folder / SENT).read_text())
        return found["project"] == settings.project and found["mode"] in ("online", settings.mode)
    except (OSError, ValueError, KeyError):
        return False


def _runs(folder: Path) -> list[Path]:
    """A run folder, or those of a comparison or a sweep. Raises RunFolderError where these have none."""
    if not ((folder / "rows").is_dir() or (folder / "runs").is_dir()):
        return [folder]
    if found := [path.parent for path in sorted((folder / "runs").glob(f"*/{CONFIG}"))]:
        return found
    raise RunFolderError(f"{folder}: has no run folder to send, such as runs/NAME with {CONFIG}")


def _summary(folder: Path) -> Row | None:
    path = folder / "summary.json"
    try:
        found: Row = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise RunFolderError(f"{path}: cannot be read ({e})") from e
    return found
