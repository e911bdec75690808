"""``fedmeta compare``: one row per cell, nothing run twice, one failure harms no other."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from fedmeta.errors import ConfigError, RunFolderError
from fedmeta.run_folder import read_lines, write_json
from simulations.cells import Cell, Task, run_task
from simulations.cli import app
from simulations.compare import run_all
from simulations.grid_file import Grid
from simulations.plan import cells_of
from simulations.progress_view import ProgressView, last_round
from simulations.rows import failed_row, read_row
from simulations.run import run
from strategies.opening import open_config
from strategies.state import CHECKPOINT
from tests.simulations.conftest import CONFIGS, SMALL
from tests.wandb_offline import history, kind, plain, read

QUICKSTART = CONFIGS / "quickstart.yaml"


def fedmeta(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def planned(out: Path, *overrides: str, seeds: tuple[int, ...] = (0, 1)) -> list[Cell]:
    return cells_of([Grid.read(QUICKSTART)], [*SMALL, *overrides], seeds, False, out)


def silent() -> Console:
    return Console(file=StringIO(), width=200)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, two_ray_cpus: None) -> tuple[Path, Result]:
    """Two strategies with two seeds each, sent to W&B on the disk."""
    out = tmp_path_factory.mktemp("compared")
    words = ("compare", QUICKSTART, *SMALL, "tracking.tensorboard=true", "--out", out)
    more = ("--strategies", "fedadam,fedyogi", "--seeds", "2", "--jobs", "2", "--wandb", "offline")
    return out, fedmeta(*words, *more)


def test_every_cell_leaves_a_row_and_the_table_shows_them(compared: tuple[Path, Result]) -> None:
    out, said = compared
    assert (said.exit_code, said.stderr) == (0, "")
    names = [f"quickstart-{name}-{seed}" for name in ("fedadam", "fedyogi") for seed in (0, 1)]
    assert [path.stem for path in sorted((out / "rows").iterdir())] == names
    lines = (out / "table.md").read_text().splitlines()[2:]
    assert sorted(line[:24] for line in lines) == [
        "| fedadam | 2 | 4 x 6 | ",
        "| fedyogi | 2 | 4 x 6 | ",
    ]
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert all(f"{name}: done, " in said.stdout for name in names)
    assert max(map(len, said.stdout.splitlines()[1:-2])) <= 80


def test_cells_of_a_seed_are_paired(compared: tuple[Path, Result]) -> None:
    """The same clients, episodes and first params: before the first round all scores are equal."""
    out, _ = compared
    rows = {path.stem: read_row(path) for path in (out / "rows").iterdir()}
    for seed in (0, 1):
        adam, yogi = (rows[f"quickstart-{name}-{seed}"] for name in ("fedadam", "fedyogi"))
        assert adam["val"][0]["loss"] == yogi["val"][0]["loss"]
        assert adam["val"][-1]["loss"] != yogi["val"][-1]["loss"]
        assert adam["test_clients"]["client"] == yogi["test_clients"]["client"]
        assert adam["problem"] == yogi["problem"]
        assert adam["setting"] != yogi["setting"]
    zero, one = rows["quickstart-fedadam-0"], rows["quickstart-fedadam-1"]
    assert zero["val"][0]["loss"] != one["val"][0]["loss"]
    assert zero["problem"] == one["problem"]


def test_what_is_finished_is_not_run_again(compared: tuple[Path, Result]) -> None:
    out, _ = compared
    written = {path: path.stat().st_mtime_ns for path in (out / "rows").iterdir()}
    words = ("compare", QUICKSTART, *SMALL, "tracking.tensorboard=true", "--out", out)
    more = fedmeta(*words, "--strategies", "fedadam,fedyogi", "--seeds", "0,1")
    assert "4 of 4 cells are done" in more.stdout
    assert {path: path.stat().st_mtime_ns for path in (out / "rows").iterdir()} == written


def test_each_cell_is_a_run_of_the_comparisons_group_on_wandb(
    compared: tuple[Path, Result],
) -> None:
    out, _ = compared
    records = read(out / "runs" / "quickstart-fedyogi-1")
    (run,) = (r.run for r in records if kind(r) == "run")
    assert (run.run_group, run.job_type, list(run.tags)) == (out.name, "cell", ["fedyogi"])
    config = plain(run.config.update)
    assert (config["label_strategy"], config["contender"], config["seed"]) == ("fedyogi",) * 2 + (
        1,
    )
    assert config["learner"]["inner_lr"] == 0.01
    pictures = {key for row in history(records) for key in row if key.startswith("plots/")}
    assert "plots/learning_curve" in pictures  # drawn for W&B, which cells leave out


def test_the_comparison_is_a_run_of_its_group_with_ranking_and_statements(
    compared: tuple[Path, Result],
) -> None:
    out, _ = compared
    records = read(out)
    (run,) = (r.run for r in records if kind(r) == "run")
    assert (run.run_group, run.job_type, run.display_name) == (out.name, "comparison", out.name)
    logged = {key: value for row in history(records) for key, value in row.items()}
    (folder,) = (out / "wandb").glob("offline-run-*")
    table = json.loads((folder / "files" / logged["ranking"]["path"]).read_text())
    assert table["columns"][:3] == ["problem", "contender", "after adaptation"]
    assert {row[1] for row in table["data"]} == {"fedadam", "fedyogi"}
    said = json.loads((folder / "files" / logged["statements"]["path"]).read_text())["data"]
    assert len(said) == 1
    assert "on unseen clients" in said[0][1]
    assert logged["plots/curves"]["_type"] == "image-file"


def ray_actors() -> list[int]:
    """Process ids of the pool's actors, named after their class: those of this process's Ray alone."""
    return [
        pid
        for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        if _read(pid, "cmdline").startswith("ray::Actor") and os.getpid() in _ancestors(pid)
    ]


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        status = dict(
            line.split(":\t", 1) for line in _read(pid, "status").splitlines() if ":\t" in line
        )
        pid = int(status.get("PPid", 0))
        yield pid


def _read(pid: int, name: str) -> str:
    try:
        return (Path("/proc") / str(pid) / name).read_text(errors="replace")
    except OSError:
        return ""  # the process has ended meanwhile


@pytest.fixture(scope="module")
def troubled(
    tmp_path_factory: pytest.TempPathFactory, two_ray_cpus: None
) -> tuple[Path, dict[str, str], str]:
    """Five cells: two whose workers are killed in mid-run, and three that begin with something odd."""
    out = tmp_path_factory.mktemp("troubled")
    killed = planned(out, "rounds=60", "name=killed")
    cut, unbegun = planned(out, "name=odd")
    (broken,) = cells_of([Grid.read(_broken(out))], SMALL, None, False, out)
    half = open_config(QUICKSTART, [*SMALL, "name=odd", "rounds=2"])
    cut.folder.mkdir(parents=True)
    run(half, cut.folder)
    (cut.folder / "summary.json").unlink()
    config = cut.folder / "config.yaml"  # as a run of 4 leaves it that is killed after round 2
    config.write_text(config.read_text().replace("rounds: 2", "rounds: 4"))
    unbegun.folder.mkdir(parents=True)
    (unbegun.folder / "log.txt").write_text("killed before its first checkpoint")
    write_json(cut.row_file, failed_row(cut.experiment, cut.place, "no luck"))

    def kill() -> None:
        while not all(last_round(cell.folder) >= 3 for cell in killed):
            time.sleep(0.02)
        for pid in ray_actors():
            os.kill(pid, signal.SIGKILL)

    killer, console = threading.Thread(target=kill, daemon=True), silent()
    killer.start()
    failed = run_all([*killed, cut, unbegun, broken], 2, console)
    killer.join(timeout=5)
    return out, failed, console.file.getvalue()  # type: ignore[attr-defined]


def _broken(folder: Path) -> Path:
    """A config whose data cannot be found: known only when it runs."""
    text = (CONFIGS / "omniglot_maml.yaml").read_text()
    (folder / "broken.yaml").write_text(
        text.replace("ways: 5", f"ways: 5\n  root: {folder}/nowhere", 1)
    )
    return folder / "broken.yaml"


def _alone(cell: Cell, out: Path) -> dict[str, Any]:
    """The row of the same cell that nothing disturbs, without what a clock says."""
    (alone,) = planned(out, f"name={cell.experiment.name}", f"rounds={cell.experiment.rounds}",
                       seeds=(cell.experiment.seed,))  # fmt: skip
    run_task(alone.task)
    return timeless(read_row(alone.row_file))


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    val = [{key: value for key, value in point.items() if key != "minutes"} for point in row["val"]]
    cost = {key: value for key, value in row["cost"].items() if key != "minutes"}
    return row | {"minutes": 0, "val": val, "cost": cost}


def test_killed_workers_are_replaced_and_their_cells_go_on_from_their_checkpoints(
    troubled: tuple[Path, dict[str, str], str], tmp_path: Path
) -> None:
    """To the bit, and no round is recorded twice."""
    out, failed, _ = troubled
    cell, other = planned(out, "rounds=60", "name=killed")
    assert not {cell.name, other.name} & failed.keys()
    row = timeless(read_row(cell.row_file))
    alone = _alone(cell, tmp_path / out.name)
    assert row == alone
    trained = [
        r["round"] for r in read_lines(cell.folder / "metrics.jsonl") if r["split"] == "train"
    ]
    assert trained == list(range(1, 61))


def test_a_cell_that_was_cut_short_goes_on_and_one_without_checkpoint_begins_anew(
    troubled: tuple[Path, dict[str, str], str], tmp_path: Path
) -> None:
    out, failed, _ = troubled
    cut, unbegun = planned(out, "name=odd")
    assert not {cut.name, unbegun.name} & failed.keys()
    for cell in (cut, unbegun):
        assert timeless(read_row(cell.row_file)) == _alone(cell, tmp_path / out.name)
    rounds = [r["round"] for r in read_lines(cut.folder / "metrics.jsonl") if r["split"] == "train"]
    assert rounds == [1, 2, 3, 4]


def test_a_failed_cell_is_named_with_its_reason_and_the_others_stand(
    troubled: tuple[Path, dict[str, str], str],
) -> None:
    out, failed, said = troubled
    assert list(failed) == ["omniglot-maml-0"]
    assert "nowhere is not a folder" in failed["omniglot-maml-0"]
    assert f"omniglot-maml-0: failed: {failed['omniglot-maml-0']}" in said
    row = read_row(out / "rows" / "omniglot-maml-0.json")
    assert (row["failed"], row["name"], row["seed"]) == (
        failed["omniglot-maml-0"], "omniglot-maml", 0,
    )  # fmt: skip
    assert row["problem_name"] == "omniglot pooled 5-way 1-shot, 2 steps"
    (cell,) = cells_of([Grid.read(out / "broken.yaml")], SMALL, None, False, out)
    assert not cell.finished()  # so that it is tried again


@pytest.mark.usefixtures("two_ray_cpus")
def test_an_interrupt_ends_the_workers_and_leaves_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, other = planned(tmp_path, "rounds=5000")

    def look(view: ProgressView, running: list[Task]) -> None:
        if any(last_round(task.folder) >= 2 for task in running):
            signal.raise_signal(signal.SIGINT)  # as Ctrl-C does

    monkeypatch.setattr(ProgressView, "look", look)
    with pytest.raises(KeyboardInterrupt):
        run_all([cell, other], 1, silent())
    assert (cell.folder / CHECKPOINT).exists()
    assert not cell.finished()
    assert not other.folder.exists()
    deadline = time.monotonic() + 20
    while ray_actors() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray_actors() == []


def test_a_row_is_of_its_config_alone(tmp_path: Path) -> None:
    cell, _ = planned(tmp_path)
    run_task(cell.task)
    assert cell.finished()
    for change in ("learner.inner_lr=0.02", "rounds=5", "evaluation.steps=1"):
        with pytest.raises(RunFolderError, match=r"quickstart-0\.json: is of another config"):
            planned(tmp_path, change)[0].finished()
    cell.row_file.unlink()
    with pytest.raises(RunFolderError, match=r"runs/quickstart-0: is of another config"):
        planned(tmp_path, "rounds=5")[0].finished()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rounds=3"], "give a grid or a config, or more"),
        ([str(QUICKSTART), "--seeds", "0,x"], "--seeds must be numbers such as 0,1,2, got '0,x'"),
        ([str(QUICKSTART), "--seeds", "1,²"], "--seeds must be numbers such as 0,1,2, got '1,²'"),
        ([str(QUICKSTART), "--seeds", "0"], "--seeds must be 1 or more, or seeds such as 0,3,7"),
        ([str(QUICKSTART), "--seeds", "1", "seed=2"], "seed must not be given with --seeds"),
        ([str(QUICKSTART), "--full", "rounds=5"], "rounds must not be given with --full"),
        ([str(QUICKSTART), str(QUICKSTART)], "'quickstart' with seed 0 twice"),
        ([str(QUICKSTART), "--full"], "published.rounds must be set for --full, got nothing"),
        (["nowhere.yaml"], "nowhere.yaml: cannot read the config"),
        ([str(QUICKSTART), "learner.inner_lr=-1"], "learner.inner_lr must be a finite number > 0"),
        ([str(QUICKSTART), "--strategies", "fedavg,fedadm"], "cell fedadm: strategy.name must be"),
        ([str(QUICKSTART), "--strategies", ","], "--strategies must be one name or more"),
        ([str(QUICKSTART), "--learners", ""], "--learners must be one name or more"),
        (
            [str(QUICKSTART), "--learners", "maml,fomaml", "learner.name=anil"],
            "its learner, so override",
        ),
        ([str(QUICKSTART), f"rounds=0{'0' * 300}"], "rounds must be 1 or more, got 0"),
        ([str(QUICKSTART), f"name={'x' * 300}"], "name must have at most 200 bytes"),
        (
            [str(QUICKSTART), "--out", str(QUICKSTART)],
            f"--out must be a folder, old or new, got {QUICKSTART}",
        ),
        ([str(QUICKSTART), "--out", str(QUICKSTART / "sub")], f"/sub: {QUICKSTART} is a file"),
        ([str(QUICKSTART), "--out", "x" * 300], "File name too long"),
    ],
)
def test_bad_input_is_one_line_before_any_run(
    tmp_path: Path, words: list[str], message: str
) -> None:
    found = fedmeta("compare", "--out", tmp_path / "out", *words)
    assert found.exit_code == 2
    assert found.stderr.startswith("error: ")
    assert message in found.stderr
    assert len(found.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def nothing(task: Task) -> None:
    """What this machine sees of a worker that does not share its folder."""


@pytest.mark.usefixtures("two_ray_cpus")
@pytest.mark.parametrize("before", [False, True], ids=["new", "failed before"])
def test_a_cell_whose_row_does_not_arrive_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    monkeypatch.setattr("simulations.compare.run_task", nothing)
    cells, sent, console = planned(tmp_path), [], silent()
    for cell in cells if before else []:
        write_json(cell.row_file, failed_row(cell.experiment, cell.place, "no luck"))
    failed = run_all(cells, 2, console, send=sent.append)
    assert sent == []
    for cell in cells:
        reason = (
            f"{cell.row_file} has not arrived: all machines of the Ray cluster must share --out"
        )
        assert failed[cell.name] == reason
        assert read_row(cell.row_file)["failed"] == reason
        assert f"{cell.name}: failed: {reason[:40]}" in console.file.getvalue()  # type: ignore[attr-defined]


def test_full_takes_the_rounds_of_the_paper(tmp_path: Path) -> None:
    maml = CONFIGS / "reproduce" / "omniglot_5w1s" / "maml.yaml"
    (cell,) = cells_of([Grid.read(maml)], [], None, True, tmp_path)
    assert cell.experiment.rounds == 60_000


def test_names_that_clash_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must differ"):
        planned(tmp_path, seeds=(3, 3))


def test_without_a_terminal_it_says_now_and_then_where_the_cells_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, other = planned(tmp_path)
    cell.folder.mkdir(parents=True)
    lines = [{"round": r, "split": "train", "long": "x" * 1000} for r in range(1, 100)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (cell.folder / "metrics.jsonl").write_text(text + '{"round": 100, "spl')
    assert (last_round(cell.folder), last_round(other.folder)) == (99, 0)
    console = silent()
    with ProgressView(console, 3) as view:
        view.end("first", 1.25, "")
        view.look([cell.task, other.task])
        monkeypatch.setattr("simulations.progress_view.SILENCE", 0.0)
        view.look([cell.task, other.task])
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "[1/3] first: done, 1.2 s",
        "1 of 3 done; rounds: quickstart-0 99/4, quickstart-1 0/4",
    ]


def test_on_a_terminal_there_is_a_bar_for_all_and_one_for_each_that_runs(tmp_path: Path) -> None:
    cell, other = planned(tmp_path)
    console = Console(file=StringIO(), force_terminal=True, width=100)
    with ProgressView(console, 2) as view:
        view.look([cell.task, other.task])
        view.end(cell.name, 3.0, "no luck")
        view.look([other.task])
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for text in ("all cells", "quickstart-1", "0/4", "1/2", "quickstart-0: failed: no luck"):
        assert text in shown
