"""A row of results: the same from a run folder, a comparison and a file, and what is added up in it."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from fedmeta.config import Experiment, build, load
from fedmeta.data.federation import SPLITS
from fedmeta.data.shard import Shard, write_shard
from fedmeta.errors import RunFolderError
from fedmeta.run_folder import read_lines
from fedmeta.tracking.place import Place
from simulations.cells import Cell, run_task
from simulations.cli import app
from simulations.grid_file import Grid
from simulations.plan import cells_of
from simulations.rows import (
    failed_row,
    identity,
    problem,
    problem_name,
    read_row,
    read_rows,
    row_of,
)
from simulations.run import run
from strategies.stock import STRATEGIES
from tests.simulations.conftest import CONFIGS, small

ROUNDS, CLIENTS = 4, 6
DOCS = CONFIGS.parent / "docs"
OLD = DOCS / "reproduce" / "omniglot_5w1s" / "rows"
COMMITTED = [sorted(rows.glob("*.json"))[0] for rows in sorted(DOCS.glob("comparison/*/rows"))]
TABLE = CONFIGS / "own_table.yaml"
SHORT = ("rounds=2", "cohort.clients=1", "evaluation.every=2", "learner.episodes=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run(small("name=alone", "data.evaluation.shots=5"), folder, pictures=False)
    return folder


@pytest.fixture(scope="module")
def row(folder: Path) -> dict[str, Any]:
    return row_of(folder)


def test_a_run_that_stands_alone_is_named_by_its_experiment(row: dict[str, Any]) -> None:
    assert (row["name"], row["labels"], row["config"], row["seed"]) == ("alone", {}, "", 0)
    assert row["problem_name"] == "sinusoid 5-shot, 2 steps"
    assert row["sections"]["cohort"]["clients"] == row["clients"] == CLIENTS
    assert "failed" not in row


def test_results_are_those_of_the_run(folder: Path, row: dict[str, Any]) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    for key in ("clients", "before", "after", "curve"):
        assert row["test"][key] == summary["test"][key]
    assert row["minutes"] == summary["seconds"] / 60
    assert row["selected_round"] == summary["selected_round"]


def test_clients_stand_in_columns_rounded(folder: Path, row: dict[str, Any]) -> None:
    clients = read_lines(folder / "clients.jsonl")
    assert row["test_clients"]["client"] == [each["client"] for each in clients]
    for when, at in (("before", 0), ("after", 2)):
        losses = row["test_clients"][when]["loss"]
        assert losses == [round(each["loss"][at], 6) for each in clients]
        assert sum(losses) / 7 == pytest.approx(row["test"][when]["loss"], abs=1e-6)


def test_costs_are_added_up_to_what_the_run_counted(folder: Path, row: dict[str, Any]) -> None:
    """Every client takes a gradient step a round (``maml``, one episode of one inner step)."""
    summary = json.loads((folder / "summary.json").read_text())
    cost, points = row["cost"], row["val"]
    assert (cost["rounds"], cost["client_updates"]) == (ROUNDS, ROUNDS * CLIENTS)
    assert cost["gradients"] == ROUNDS * CLIENTS
    sent = summary["bytes"]["down"] + summary["bytes"]["up"]
    assert cost["bytes"] == pytest.approx(sent, abs=ROUNDS * CLIENTS)  # a row has whole bytes
    assert cost["simulated_seconds"] is None
    assert [point["round"] for point in points] == [0, 2, 4]
    assert [point["client_updates"] for point in points] == [0, 2 * CLIENTS, 4 * CLIENTS]
    assert points[0]["bytes"] == points[0]["minutes"] == 0
    assert points[1]["bytes"] == points[2]["bytes"] / 2
    assert {key: points[-1][key] for key in cost.keys() - {"rounds"}} == {
        key: cost[key] for key in cost.keys() - {"rounds"}
    }
    seconds = sum(r["seconds"] for r in read_lines(folder / "metrics.jsonl") if "seconds" in r)
    assert cost["minutes"] == pytest.approx(seconds / 60)


def test_simulated_seconds_are_those_of_the_rows(tmp_path: Path) -> None:
    run(small("rounds=2", "devices.slowness=equal"), tmp_path / "run", pictures=False)
    row = row_of(tmp_path / "run")
    seconds = [r["simulated_seconds"] for r in read_lines(tmp_path / "run" / "metrics.jsonl")
               if r["split"] == "train"]  # fmt: skip
    assert [point["simulated_seconds"] for point in row["val"]] == [None, seconds[-1]]
    assert row["cost"]["simulated_seconds"] == seconds[-1] > seconds[0] > 0


def test_rows_come_from_folders_comparisons_and_files_alike(
    folder: Path, row: dict[str, Any], tmp_path: Path
) -> None:
    rows = tmp_path / "compared" / "rows"
    rows.mkdir(parents=True)
    (rows / "a.json").write_text(json.dumps(row))
    assert read_rows([folder]) == [row]
    assert read_rows([tmp_path / "compared", rows / "a.json"]) == [row]
    with pytest.raises(RunFolderError, match="is neither a run folder"):
        read_rows([tmp_path])


def test_a_cell_has_the_labels_of_its_place(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "cell")
    Place("avg · maml", {"strategy": "avg", "learner": "maml"}, "x.yaml", "g").write(
        tmp_path / "cell"
    )
    row = row_of(tmp_path / "cell")
    assert (row["name"], row["labels"], row["config"]) == (
        "avg · maml",
        {"strategy": "avg", "learner": "maml"},
        "x.yaml",
    )


def test_a_problem_is_who_is_tested_on_what_and_how() -> None:
    """The strategy, the seed, where the data are and how often one looks are not of it."""
    one = problem(small())
    for same in (
        "seed=5",
        "strategy.lr=0.5",
        "rounds=9",
        "evaluation.every=1",
        "evaluation.clients=4",
    ):
        assert problem(small(same)) == one
    for other in (
        "data.clients.test=8",
        "data.shots=4",
        "data.evaluation.shots=4",
        "evaluation.steps=3",
        "evaluation.episodes=2",
        "evaluation.transductive=false",
    ):
        assert problem(small(other)) != one
    assert problem_name(small("evaluation.steps=1")) == "sinusoid 10-shot, 1 step"


def own(root: Path, noise: int = 0) -> Path:
    """A folder of shards: a client that trains, one that validates, one that tests."""
    for client, split in enumerate(SPLITS):
        x = torch.rand(40, 4, generator=torch.Generator().manual_seed(noise + client))
        write_shard(Shard("own_values", client, split, x, x[:, :1]), root / f"{client}.safetensors")
    return root


def of_own(root: Path | str, *overrides: str) -> Experiment:
    return load(TABLE, [f"data.root={root}", *SHORT, *overrides], STRATEGIES)


def test_data_of_ones_own_are_known_by_what_they_are_and_not_by_where(tmp_path: Path) -> None:
    a, b = of_own(own(tmp_path / "a")), of_own(own(tmp_path / "b", noise=9))
    first, second = identity(a), identity(b)
    assert first.keys() == identity(small()).keys() | {"contents"}
    assert first["contents"] != second["contents"]
    assert first | second == second  # they differ in nothing else
    assert problem(a) != problem(b)
    moved = of_own(shutil.copytree(tmp_path / "a", tmp_path / "moved"))
    assert (identity(moved), problem(moved)) == (first, problem(a))
    own(tmp_path / "a", noise=9)
    assert (identity(a), problem(a)) == (second, problem(b))


def test_where_data_of_ones_own_are_not_at_hand_the_folders_name_tells_them_apart() -> None:
    a, b = of_own("gone/a"), of_own("gone/b")
    assert "contents" not in identity(a)
    assert problem(a) != problem(b)
    assert problem(a) == problem(of_own("gone/a", "seed=3"))


@pytest.mark.parametrize("row", COMMITTED, ids=lambda path: path.stem)
def test_rows_of_other_data_are_what_they_always_were(row: Path) -> None:
    """A finished cell is found again by them, and runs of years ago are compared with runs of today."""
    written = json.loads(row.read_text())
    experiment = build(written["sections"], STRATEGIES)
    found = identity(experiment) | {"problem": problem(experiment)}
    assert found == {key: written[key] for key in found}
    assert "contents" not in written


def test_a_report_shows_runs_on_two_data_of_ones_own(tmp_path: Path) -> None:
    roots = [own(tmp_path / name, noise=i) for i, name in enumerate("ab")]
    runs = [tmp_path / f"run-{root.name}" for root in roots]
    for root, folder in zip(roots, runs, strict=True):
        run(of_own(root), folder, pictures=False)
    words = [*map(str, runs), "--out", str(tmp_path / "report.csv")]
    done = CliRunner().invoke(app, ["report", *words])
    assert done.exit_code == 0, done.output
    lines = (tmp_path / "report.csv").read_text().splitlines()
    assert len(lines) == 1 + 2  # a client each
    for root, line in zip(roots, lines[1:], strict=True):
        assert f"data.root={root}" in line


def test_a_cell_on_other_data_of_ones_own_is_not_finished(tmp_path: Path) -> None:
    a, b = own(tmp_path / "a"), own(tmp_path / "b", noise=9)

    def cell(root: Path) -> Cell:
        words = [f"data.root={root}", *SHORT]
        (found,) = cells_of([Grid.read(TABLE)], words, None, False, tmp_path / "out")
        return found

    run_task(cell(a).task)
    assert cell(a).finished()
    with pytest.raises(RunFolderError, match=r"own-table-0\.json: is of another config"):
        cell(b).finished()
    a.rename(tmp_path / "moved")
    assert cell(tmp_path / "moved").finished()
    assert cell(a).finished()  # as far as can be told
    cell(a).row_file.unlink()
    with pytest.raises(RunFolderError, match=r"runs/own-table-0: is of another config"):
        cell(b).finished()


def test_a_cell_that_failed_has_a_reason_and_no_results(tmp_path: Path) -> None:
    written = failed_row(small(), Place("a"), "no luck")
    (tmp_path / "a.json").write_text(json.dumps(written))
    row = read_row(tmp_path / "a.json")
    assert (row["failed"], row["name"], row["problem"]) == ("no luck", "a", problem(small()))
    assert "test" not in row


def test_rows_of_older_comparisons_are_read_and_say_null_where_they_say_nothing() -> None:
    row = read_row(OLD / "omniglot-5w1s-maml-0.json")
    assert row["test_clients"] is None
    assert row["labels"] == {}
    assert [row["val"][1][key] for key in ("client_updates", "bytes", "gradients")] == [
        3200, None, None,
    ]  # fmt: skip
    assert (row["cost"]["client_updates"], row["cost"]["bytes"]) == (3000 * 32, None)
    assert len(read_rows([OLD.parent])) == len(list(OLD.iterdir()))


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("clients.jsonl", "is not there, or has no row of test clients"),
        ("metrics.jsonl", "is not there, or has no row of val clients"),
    ],
)
def test_a_run_folder_that_lacks_a_file_is_refused(
    folder: Path, tmp_path: Path, file: str, said: str
) -> None:
    cut = Path(shutil.copytree(folder, tmp_path / "cut"))
    rows = (cut / file).read_text().splitlines(keepends=True)
    kept = [row for row in rows if '"train"' in row]
    for write in (
        lambda: (cut / file).write_text("".join(kept)),
        lambda: (cut / file).write_text(rows[0][:-9]),
        lambda: (cut / file).unlink(),
    ):
        write()
        with pytest.raises(RunFolderError, match=f"^{re.escape(str(cut / file))}: {said}$"):
            row_of(cut)
        done = CliRunner().invoke(app, ["report", str(cut), "--out", str(tmp_path / "report.md")])
        assert done.exit_code == 2
        assert done.stderr == f"error: {cut / file}: {said}\n"


def test_what_is_no_row_is_refused(tmp_path: Path) -> None:
    row = json.loads((OLD / "omniglot-5w1s-maml-0.json").read_text())
    for content in ("{", "[]", '{"rounds": 1}', json.dumps(row | {"val": []})):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(RunFolderError, match=r"x\.json: is not a row of results"):
            read_row(tmp_path / "x.json")


def test_a_run_that_has_not_ended_is_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "cut")
    (tmp_path / "cut" / "summary.json").unlink()
    with pytest.raises(RunFolderError, match=r"cut: has no summary\.json, the run is not finished"):
        row_of(tmp_path / "cut")
    with pytest.raises(RunFolderError, match="is not a run folder"):
        row_of(tmp_path)
