"""``fedmeta sync``: W&B hears from the files what it would have heard live, and more than once if asked."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from fedmeta.run_folder import read_lines
from fedmeta.tracking.place import Place
from fedmeta.tracking.recorder import Row, Run
from simulations.cells import Cell, prepare, run_task
from simulations.cli import app
from simulations.run import run
from simulations.sync import Sender, sync
from tests.simulations.conftest import small
from tests.wandb_offline import history, kind, plain, read, series


def fedmeta(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    run(small("name=later"), folder, pictures=False)
    return folder


@pytest.fixture(scope="module")
def synced(folder: Path) -> Result:
    return fedmeta("sync", folder, "--mode", "offline", "--project", "elsewhere")


def test_all_that_the_files_have_is_sent(folder: Path, synced: Result) -> None:
    assert (synced.exit_code, synced.stdout) == (0, f"{folder}: offline, project elsewhere\n")
    records = read(folder)
    (sent,) = (r.run for r in records if kind(r) == "run")
    assert (sent.project, sent.display_name) == ("elsewhere", "later/run")
    rows = read_lines(folder / "metrics.jsonl")
    losses = {r["round"]: r["loss"] for r in rows if r["split"] == "train"}
    assert series(records, "train/loss") == losses
    after = {r["round"]: r["after"]["loss"] for r in rows if r["split"] == "val"}
    assert series(records, "val/after/loss") == after
    logged = {key for row in history(records) for key in row}
    assert {"clients", "result", "plots/learning_curve", "plots/adaptation_on_clients"} <= logged
    summary = plain(item for r in records if kind(r) == "summary" for item in r.summary.update)
    assert summary["test"] == json.loads((folder / "summary.json").read_text())["test"]


def test_a_run_is_the_same_run_live_and_synced(
    folder: Path, synced: Result, tmp_path: Path
) -> None:
    """The id is that of the folder, so what was sent before a network went down is continued."""
    live = tmp_path / "run"
    run(small("name=later", "tracking.wandb={mode: offline, project: elsewhere}"), live)
    first = read(live)
    shutil.rmtree(live / "wandb")
    assert fedmeta("sync", live).stdout == f"{live}: offline, project elsewhere\n"
    again = read(live)
    ids = {r.run.run_id for records in (first, again) for r in records if kind(r) == "run"}
    assert len(ids) == 1
    for name in ("train/loss", "val/after/loss", "progress/bytes", "val_by_bytes/loss"):
        assert series(first, name) == series(again, name) != {}


def test_a_run_that_has_not_ended_is_sent_as_far_as_it_is(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "cut", ignore=shutil.ignore_patterns("wandb"))
    (tmp_path / "cut" / "summary.json").unlink()
    assert fedmeta("sync", tmp_path / "cut", "--mode", "offline").exit_code == 0
    records = read(tmp_path / "cut")
    assert list(series(records, "train/loss")) == [1, 2, 3, 4]
    assert not any("clients" in row for row in history(records))


@pytest.fixture
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


@pytest.mark.usefixtures("no_account")
def test_without_an_account_it_says_so_in_a_line(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("wandb"))
    found = fedmeta("sync", tmp_path / "run", "--mode", "online")
    assert found.exit_code == 1
    assert found.stderr.startswith(f"error: {tmp_path}/run: W&B: UsageError: No API key configured")
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.usefixtures("no_account")
def test_a_comparison_that_cannot_reach_wandb_says_so_once_and_goes_on(
    folder: Path, tmp_path: Path
) -> None:
    cell = Cell(small("name=later"), Place("later", group="g"), tmp_path)
    shutil.copytree(folder, cell.folder, ignore=shutil.ignore_patterns("wandb", "synced.json"))
    said: list[str] = []
    sender = Sender("online", said.append)
    assert sender.wanted([cell])
    for _ in range(3):
        sender.cell(cell)
    (line,) = said
    assert line.endswith(f"send it later with: fedmeta sync {tmp_path}")
    sender = Sender("offline", said.append)
    sender.cell(cell)
    first = read(cell.folder)
    sender.cell(cell)  # not twice: there is still one run on the disk
    assert len(read(cell.folder)) == len(first)
    assert len(said) == 1


def test_a_comparison_sends_nothing_where_nobody_asked(folder: Path, tmp_path: Path) -> None:
    cell = Cell(small("name=later"), Place("later", group="g"), tmp_path)
    shutil.copytree(folder, cell.folder, ignore=shutil.ignore_patterns("wandb", "synced.json"))
    sender = Sender(None, print)
    assert not sender.wanted([cell])
    sender.cell(cell)
    sender.table([cell], [])
    assert not list(tmp_path.rglob("wandb"))


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    found = fedmeta("sync", tmp_path)
    assert found.exit_code == 2
    assert "is not a run folder, it has no config.yaml" in found.stderr


@pytest.mark.parametrize("inside", ["rows", "runs"])
def test_a_folder_without_a_run_is_refused_before_any_is_sent(
    folder: Path, tmp_path: Path, inside: str
) -> None:
    (tmp_path / "empty" / inside).mkdir(parents=True)
    shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("wandb"))
    found = fedmeta("sync", tmp_path / "run", tmp_path / "empty", "--mode", "offline")
    assert (found.exit_code, found.stdout) == (2, "")
    assert found.stderr.startswith(f"error: {tmp_path / 'empty'}: has no run folder to send")
    assert len(found.stderr.splitlines()) == 1
    assert not (tmp_path / "run" / "wandb").exists()


class Stops:
    """A recorder during whose third round Ctrl-C comes."""

    def start(self, run: Run) -> None: ...

    def record(self, row: Row) -> None:
        if row["round"] == 3:
            raise KeyboardInterrupt

    def finish(self, summary: Row | None) -> None: ...


def test_a_cell_that_was_sent_before_its_end_is_sent_again_with_its_results(tmp_path: Path) -> None:
    cell = Cell(small("name=later", "tracking.wandb.mode=offline"), Place("later"), tmp_path)
    experiment, begun = prepare(cell.task)
    with pytest.raises(KeyboardInterrupt):
        run(experiment, cell.folder, [Stops()], resume=begun, pictures=False)
    list(sync([tmp_path], None, None))
    assert "test" not in sent_summary(cell.folder)
    shutil.rmtree(cell.folder / "wandb")
    run_task(cell.task)
    sender = Sender(None, print)
    sender.cell(cell)
    results = json.loads((cell.folder / "summary.json").read_text())
    assert sent_summary(cell.folder)["test"] == results["test"]
    assert list(series(read(cell.folder), "train/loss")) == [1, 2, 3, 4]
    sender.cell(cell)  # not twice
    assert len(list((cell.folder / "wandb").glob("offline-run-*"))) == 1


def sent_summary(folder: Path) -> dict[str, Any]:
    return plain(i for r in read(folder) if kind(r) == "summary" for i in r.summary.update)
