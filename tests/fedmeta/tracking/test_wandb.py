"""A real offline run of W&B, its file read back: what ``wandb sync`` would send."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from wandb.proto.wandb_internal_pb2 import Record

from fedmeta.run_folder import write_lines
from fedmeta.tracking.place import Place
from fedmeta.tracking.plots import Plots
from fedmeta.tracking.recorder import Recorders, Run
from fedmeta.tracking.wandb import Wandb
from tests.wandb_offline import history, kind, plain, read, series

Watch = Callable[..., Run]
OVERRIDES = (
    "tracking.wandb={mode: offline, project: fedmeta-tests, group: sweep-1, tags: [maml, quick]}",
    "learner.inner_lr=0.25",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, watch: Watch, story: Any) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_lines(folder / "metrics.jsonl", story.rows)
    write_lines(folder / "clients.jsonl", story.clients)
    recorders = Recorders([Plots(), Wandb()])
    story.tell(recorders, watch(folder, *OVERRIDES))
    assert recorders.failed == []
    return folder


@pytest.fixture(scope="module")
def records(folder: Path) -> list[Record]:
    return read(folder)


def test_the_run_has_its_project_group_tags_and_name(records: list[Record], folder: Path) -> None:
    (run,) = (r.run for r in records if kind(r) == "run")
    assert (run.project, run.run_group, list(run.tags)) == (
        "fedmeta-tests",
        "sweep-1",
        ["maml", "quick"],
    )
    assert run.display_name == f"watched/{folder.name}"
    assert run.run_id.startswith("watched-")


def test_the_config_is_the_resolved_one(records: list[Record], watch: Watch, folder: Path) -> None:
    (run,) = (r.run for r in records if kind(r) == "run")
    found = plain(run.config.update)
    sections = watch(folder, *OVERRIDES).experiment.sections
    assert {key: found[key] for key in sections} == sections
    assert found["learner"]["inner_lr"] == 0.25


def test_every_round_has_its_values(records: list[Record]) -> None:
    assert series(records, "train/loss") == {1: 1.0, 2: 0.5}
    assert series(records, "train/clients") == {1: 4, 2: 4}
    assert series(records, "val/before/accuracy") == {0: 0.25, 1: 0.25, 2: 0.375}
    assert series(records, "val/after/accuracy") == {0: 0.375, 1: 0.625, 2: 0.75}
    assert series(records, "test/after/accuracy") == {2: 0.875}


def test_the_summary_is_the_runs_summary(records: list[Record], story: Any) -> None:
    found = plain(item for r in records if kind(r) == "summary" for item in r.summary.update)
    for key, value in story.summary.items():
        assert found[key] == value


def test_pictures_and_the_table_of_clients_go_along(records: list[Record], folder: Path) -> None:
    media = {k: v for row in history(records) for k, v in row.items() if isinstance(v, dict)}
    assert media["plots/learning_curve"]["_type"] == "image-file"
    assert media["plots/adaptation_curve"]["_type"] == "image-file"
    (run,) = (folder / "wandb").glob("offline-run-*")
    for entry in media.values():
        assert (run / "files" / entry["path"]).exists()
    table = json.loads((run / "files" / media["clients"]["path"]).read_text())
    scores = ["loss before", "loss after", "accuracy before", "accuracy after"]
    assert table["columns"] == ["client", *scores]
    assert table["data"] == [[7, 2.0, 0.5, 0.25, 1.0], [9, 3.0, 1.5, 0.25, 0.75]]


def test_the_result_is_a_table_of_one_row_with_what_it_cost(
    records: list[Record], folder: Path
) -> None:
    """Two rounds of half a second with four clients each, as the rows say."""
    (entry,) = (row["result"] for row in history(records) if "result" in row)
    (run,) = (folder / "wandb").glob("offline-run-*")
    table = json.loads((run / "files" / entry["path"]).read_text())
    (row,) = table["data"]
    found = dict(zip(table["columns"], row, strict=True))
    assert found["contender"] == "watched"
    assert (found["accuracy before"], found["accuracy after"], found["seed"]) == (0.25, 0.875, 0)
    assert (found["round"], found["seconds"], found["client_updates"]) == (2, 1.0, 8)
    assert (found["bytes"], found["gradients"]) == (520 + 620, 16)


def test_scores_stand_beside_what_they_cost(records: list[Record]) -> None:
    rows = [row for row in history(records) if "val_by_seconds/accuracy" in row]
    found = [(row["progress/seconds"], row["val_by_seconds/accuracy"]) for row in rows]
    assert found == [(0.0, 0.375), (0.5, 0.625), (1.0, 0.75)]
    assert series(records, "progress/client_updates") == {0: 0, 1: 4, 2: 8}


def test_metrics_are_drawn_against_rounds_and_against_costs(records: list[Record]) -> None:
    metrics = [r.metric for r in records if kind(r) == "metric"]
    by_index = [metric.name or metric.glob_name for metric in metrics]
    against = {
        metric.glob_name: metric.step_metric or by_index[metric.step_metric_index - 1]
        for metric in metrics
        if metric.glob_name
    }
    assert against["val/*"] == against["train/*"] == "progress/round"
    assert against["val_by_bytes/*"] == "progress/bytes"
    assert against["val_by_seconds/*"] == "progress/seconds"


def test_a_run_by_itself_is_no_cell(records: list[Record]) -> None:
    (run,) = (r.run for r in records if kind(r) == "run")
    assert run.job_type == "run"


def test_a_cell_has_the_group_of_its_comparison_and_its_labels(
    tmp_path: Path, watch: Watch, story: Any
) -> None:
    labels = {"strategy": "fedavg", "cohort.clients": "many clients " * 9}
    Place("fedavg · many", labels, "base.yaml", "big comparison").write(tmp_path)
    story.tell(Wandb(), watch(tmp_path, *OVERRIDES))
    records = read(tmp_path)
    (run,) = (r.run for r in records if kind(r) == "run")
    assert (run.run_group, run.job_type) == ("big comparison", "cell")
    assert list(run.tags) == ["maml", "quick", "fedavg", ("many clients " * 9)[:64]]
    config = plain(run.config.update)
    assert config["label_strategy"] == "fedavg"
    assert config["label_cohort_clients"].startswith("many")
    assert config["contender"] == "fedavg · many"


def test_an_interrupted_run_keeps_its_values(tmp_path: Path, watch: Watch, story: Any) -> None:
    recorder = Wandb()
    recorder.start(watch(tmp_path, *OVERRIDES))
    recorder.record(story.rows[1])
    recorder.finish(None)
    assert series(read(tmp_path), "train/loss") == {1: 1.0}
