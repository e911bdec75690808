"""``fedmeta compare``: one row per run, nothing run twice, one failure harms no other."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from fedmeta.errors import ConfigError, RunFolderError
from simulations.cli import app
from simulations.compare import Cell, cells, run_all
from simulations.results import draw_curves, markdown_table, results
from simulations.run import run
from strategies.opening import open_config
from tests.simulations.conftest import CONFIGS, SMALL

QUICKSTART = CONFIGS / "quickstart.yaml"


def fedmeta(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def two_seeds(out: Path, *overrides: str) -> list[Cell]:
    return cells([QUICKSTART], [*SMALL, *overrides], [0, 1], False, out)


def test_rows_are_written_once_and_shown_with_those_of_other_calls(tmp_path: Path) -> None:
    words = ("compare", QUICKSTART, *SMALL, "--out", tmp_path, "--jobs", "1")
    first = fedmeta(*words, "--seeds", "0,1")
    assert (first.exit_code, first.stderr) == (0, "")
    rows = sorted((tmp_path / "rows").iterdir())
    assert [path.name for path in rows] == ["quickstart-0.json", "quickstart-1.json"]
    written = [path.stat().st_mtime_ns for path in rows]
    second = fedmeta(*words, "--seeds", "1")
    assert "1 of 1 runs are done" in second.stdout
    assert [path.stat().st_mtime_ns for path in rows] == written
    (line,) = (tmp_path / "table.md").read_text().splitlines()[2:]
    assert line.startswith("| quickstart | 2 | 4 x 6 |")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert max(map(len, second.stdout.splitlines()[1:-2])) <= 80


def test_a_row_holds_what_the_run_says_and_is_of_that_config_alone(tmp_path: Path) -> None:
    cell, _ = two_seeds(tmp_path)
    assert run_all([cell], 1, print) == {}
    row, summary = (
        json.loads(path.read_text()) for path in (cell.row_file, cell.folder / "summary.json")
    )
    assert row["test"]["after"] == summary["test"]["after"]
    assert [point["round"] for point in row["val"]] == [0, 2, 4]
    assert row["val"][-1]["minutes"] == pytest.approx(
        sum(json.loads(line).get("seconds", 0) for line in (cell.folder / "metrics.jsonl").open())
        / 60
    )
    assert cell.finished()
    for change in ("learner.inner_lr=0.02", "rounds=5", "evaluation.steps=1"):
        (other, _) = two_seeds(tmp_path, change)
        with pytest.raises(RunFolderError, match=r"quickstart-0\.json: is of another config"):
            other.finished()
    cell.row_file.unlink()
    with pytest.raises(RunFolderError, match=r"runs/quickstart-0: is of another config"):
        two_seeds(tmp_path, "rounds=5")[0].finished()


def test_a_run_that_was_cut_short_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    whole, _ = two_seeds(tmp_path / "whole")
    cut, _ = two_seeds(tmp_path / "cut")
    cut.folder.mkdir(parents=True)
    half = open_config(QUICKSTART, [*cut.overrides, "rounds=2"])
    run(half, cut.folder)
    (cut.folder / "summary.json").unlink()
    config = cut.folder / "config.yaml"  # as a run of 4 leaves it that is killed after round 2
    config.write_text(config.read_text().replace("rounds: 2", "rounds: 4"))
    assert run_all([whole, cut], 2, print) == {}
    rows = [json.loads(cell.row_file.read_text()) for cell in (whole, cut)]
    assert rows[0]["test"] == rows[1]["test"]
    trained = [
        json.loads(line)["round"]
        for line in (cut.folder / "metrics.jsonl").open()
        if '"train"' in line
    ]
    assert trained == [1, 2, 3, 4]


def test_a_failed_run_is_named_with_its_reason_and_the_others_stand(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    omniglot = (CONFIGS / "omniglot_maml.yaml").read_text()
    broken.write_text(omniglot.replace("ways: 5", f"ways: 5\n  root: {tmp_path}/nowhere", 1))
    found = fedmeta("compare", QUICKSTART, broken, *SMALL, "--out", tmp_path / "out", "--jobs", "2")
    assert found.exit_code == 1
    assert "omniglot-maml-0: failed: error: " in found.stdout
    assert found.stderr == "error: 1 of 2 runs failed: omniglot-maml-0\n"
    assert (tmp_path / "out" / "rows" / "quickstart-0.json").exists()
    assert "quickstart" in (tmp_path / "out" / "table.md").read_text()


def test_a_row_that_is_none_is_refused(tmp_path: Path) -> None:
    (cell, _) = two_seeds(tmp_path)
    cell.row_file.parent.mkdir()
    for content in ("{", "[]", '{"rounds": 1}'):
        cell.row_file.write_text(content)
        with pytest.raises(RunFolderError, match="is not a row of results"):
            cell.finished()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rounds=3"], "give one config or more"),
        ([str(QUICKSTART), "--seeds", "0,x"], "--seeds must be numbers such as 0,1,2, got '0,x'"),
        ([str(QUICKSTART), "--seeds", "1,²"], "--seeds must be numbers such as 0,1,2, got '1,²'"),
        ([str(QUICKSTART), "--seeds", "1", "seed=2"], "seed must not be given with --seeds"),
        ([str(QUICKSTART), "--full", "rounds=5"], "rounds must not be given with --full"),
        ([str(QUICKSTART), str(QUICKSTART)], "'quickstart' with seed 0 twice"),
        ([str(QUICKSTART), "--full"], "published.rounds must be set for --full, got nothing"),
        (["nowhere.yaml"], "nowhere.yaml: cannot read the config"),
        ([str(QUICKSTART), "learner.inner_lr=-1"], "learner.inner_lr must be a finite number > 0"),
    ],
)
def test_bad_input_is_one_line_before_any_run(
    tmp_path: Path, words: list[str], message: str
) -> None:
    found = fedmeta("compare", *words, "--out", tmp_path / "out")
    assert found.exit_code == 2
    assert found.stderr.startswith("error: ")
    assert message in found.stderr
    assert len(found.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_full_takes_the_rounds_of_the_paper(tmp_path: Path) -> None:
    maml = CONFIGS / "reproduce" / "omniglot_5w1s" / "maml.yaml"
    (cell,) = cells([maml], [], None, True, tmp_path)
    assert cell.experiment.rounds == 60_000


def row(name: str, seed: int, score: float, **published: Any) -> dict[str, Any]:
    after = {"accuracy": score, "accuracy_ci95": 0.005, "loss": 1.0, "loss_ci95": 0.1}
    return {
        "name": name, "seed": seed, "rounds": 3000, "clients": 32, "minutes": 20.4,
        "published": published, "setting": "x", "evaluation": {}, "episodes": None,
        "test": {"before": after | {"accuracy": 0.2}, "after": after, "curve": [after] * 4},
        "val": [{"round": r, "minutes": r / 60} | after for r in (0, 100)],
    }  # fmt: skip


def test_intervals_go_over_seeds_where_there_are_several_and_else_over_clients() -> None:
    """Three seeds of 0.90, 0.92, 0.94: sd 0.02, t(0.975, 2) = 4.302653, so 4.302653 * 0.02 / sqrt 3."""
    rows = [row("a", seed, accuracy) for seed, accuracy in enumerate((0.90, 0.92, 0.94))]
    several, alone = results([*rows, row("b", 0, 0.91)])
    assert (several.name, several.mean) == ("a", pytest.approx(0.92))
    assert several.half == pytest.approx(0.0496828, abs=1e-6)
    assert (alone.name, alone.half) == ("b", 0.005)


def test_the_best_comes_first_with_the_published_number_beside_it(tmp_path: Path) -> None:
    rows = [row("a", 0, 0.9), row("b", 0, 0.95, accuracy=98.7, ci95=0.4, rounds=60000)]
    found = results(rows)
    assert markdown_table(found).splitlines()[2:] == [
        "| b | 1 | 3,000 x 32 | 20 | 20.0 % | 95.00 ± 0.50 % |  | 3 | 98.7 ± 0.4 % | 60,000 |",
        "| a | 1 | 3,000 x 32 | 20 | 20.0 % | 90.00 ± 0.50 % |  | 3 |  |  |",
    ]
    draw_curves(found, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 10_000


def test_names_that_clash_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must differ"):
        cells([QUICKSTART], [], [3, 3], False, tmp_path)


def test_runs_that_differ_in_more_than_the_seed_are_never_averaged() -> None:
    rows = [row("a", 0, 0.5), row("a", 1, 0.9) | {"rounds": 5}, row("a", 2, 0.7) | {"setting": "y"}]
    assert [result.mean for result in results(rows)] == [0.9, 0.7, 0.5]


def test_an_interval_of_zero_is_a_number_and_clients_that_took_part_have_a_column() -> None:
    flat = row("a", 0, 0.2)
    flat["test"]["after"]["accuracy_ci95"] = 0.0
    flat["seen"] = {"before": {"accuracy": 0.85}}
    assert results([flat])[0].cells()[5:7] == ["20.00 ± 0.00 %", "85.0 %"]


def test_a_run_that_dies_without_a_word_or_a_checkpoint_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, _ = two_seeds(tmp_path)
    cell.folder.mkdir(parents=True)
    (cell.folder / "log.txt").write_text("killed before its first checkpoint")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert run_all([cell], 1, print) == {cell.name: "exit code 1"}
    monkeypatch.undo()
    assert run_all([cell], 1, print) == {}


def test_a_run_whose_results_cannot_be_read_is_a_failed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, other = two_seeds(tmp_path)
    monkeypatch.setattr(sys, "executable", "/bin/true")  # says it is done, and has written nothing
    failed = run_all([cell, other], 1, print)
    assert failed.keys() == {cell.name, other.name}
    assert "summary.json" in failed[cell.name]
