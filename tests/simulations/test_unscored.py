"""Where no client can be scored: nothing that was trained is lost, and no run counts as finished."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from flwr.app import Error, RecordDict
from typer.testing import CliRunner

from fedmeta.errors import FedmetaError, RunFolderError
from fedmeta.run_folder import read_lines
from fedmeta.wire import Work, unpack_work
from simulations.cells import run_task
from simulations.cli import app
from simulations.executors.local import LocalExecutor
from simulations.grid_file import Grid
from simulations.personal import read_run
from simulations.plan import cells_of
from simulations.rows import row_of
from simulations.run import run
from strategies.state import load_state
from tests.simulations.conftest import CONFIGS, SMALL, small

QUICKSTART = CONFIGS / "quickstart.yaml"
EXACT = "engine.name=loop"
FIRST_TEST = 35
"""After 30 clients that train and five that validate."""
Silence = Callable[[Callable[[Work], bool]], None]


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Silence:
    """Evaluations that get no scores, but an error of Flower's: those of which something is true."""
    execute = LocalExecutor.execute

    def fall_silent(unheard: Callable[[Work], bool]) -> None:
        def answer(
            executor: LocalExecutor, kind: str, work: Sequence[tuple[int, RecordDict]]
        ) -> list[RecordDict | Error]:
            if kind == "evaluate" and any(unheard(unpack_work(content)) for _, content in work):
                return [Error(code=2, reason="the device is off")] * len(work)
            return execute(executor, kind, work)

        monkeypatch.setattr(LocalExecutor, "execute", answer)

    return fall_silent


def of_test_clients(work: Work) -> bool:
    return min(work.clients) >= FIRST_TEST


def never(work: Work) -> bool:
    return False


def without_clock(folder: Path) -> list[dict[str, object]]:
    rows = read_lines(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_without_test_scores_the_model_is_there_and_a_resume_scores_it(
    tmp_path: Path, silence: Silence
) -> None:
    folder, whole = tmp_path / "run", tmp_path / "whole"
    whole.mkdir()
    uninterrupted = run(small(EXACT), whole, pictures=False)
    silence(of_test_clients)
    for words in ((str(QUICKSTART), *SMALL, EXACT, "--run-dir"), ("--resume",)):
        said = CliRunner().invoke(app, ["run", *words, str(folder)])
        assert said.exit_code == 1
        assert said.stderr == "error: no test client could be scored: the device is off\n"
        _, params = read_run(folder)
        assert params.keys() == uninterrupted.params.keys()
        assert all(params[name].equal(uninterrupted.params[name]) for name in params)
        assert not (folder / "summary.json").exists()
        told = (folder / "log.txt").read_text()
        assert f"the trained model is in {folder / 'params.safetensors'}, without test" in told

    silence(never)
    said = CliRunner().invoke(app, ["run", "--resume", str(folder)])
    assert said.exit_code == 0, said.output
    assert (folder / "clients.jsonl").read_bytes() == (whole / "clients.jsonl").read_bytes()
    assert without_clock(folder) == without_clock(whole)


def test_a_cell_without_test_scores_is_not_finished(tmp_path: Path, silence: Silence) -> None:
    (cell,) = cells_of([Grid.read(QUICKSTART)], [*SMALL, EXACT], (0,), False, tmp_path)
    silence(of_test_clients)
    with pytest.raises(FedmetaError, match=r"^no test client could be scored: the device is off$"):
        run_task(cell.task)
    assert not cell.row_file.exists()
    assert not cell.finished()
    silence(never)
    run_task(cell.task)
    assert cell.finished()


def test_scores_of_a_shorter_run_are_not_taken_for_those_of_the_longer(
    tmp_path: Path, silence: Silence
) -> None:
    run(small("rounds=2"), tmp_path, pictures=False)
    assert row_of(tmp_path)["rounds"] == 2
    silence(of_test_clients)
    with pytest.raises(FedmetaError, match="no test client"):
        run(small(), tmp_path, resume=True, pictures=False)
    with pytest.raises(RunFolderError, match="the run is not finished"):
        row_of(tmp_path)


def test_scores_stay_where_a_finished_run_cannot_be_scored_again(
    tmp_path: Path, silence: Silence
) -> None:
    run(small(), tmp_path, pictures=False)
    before = (tmp_path / "summary.json").read_bytes()
    silence(of_test_clients)
    with pytest.raises(FedmetaError, match="no test client"):
        run(small(), tmp_path, resume=True, pictures=False)
    assert (tmp_path / "summary.json").read_bytes() == before


@pytest.mark.parametrize("silent", [(2,), (2, 4)])
def test_the_run_goes_on_where_no_validation_client_answers_in_a_round(
    tmp_path: Path, silence: Silence, silent: tuple[int, ...]
) -> None:
    """The best params are those of a round with scores; without any such round, the last."""
    silence(lambda work: work.round in silent and not of_test_clients(work))
    experiment = small(EXACT)
    outcome = run(experiment, tmp_path, pictures=False)
    rows = read_lines(tmp_path / "metrics.jsonl")
    assert [row["round"] for row in rows if row["split"] == "train"] == [1, 2, 3, 4]
    scored = [row["round"] for row in rows if row["split"] == "val"]
    assert scored == [round for round in (0, 2, 4) if round not in silent]
    last = load_state(tmp_path, experiment).params
    assert all(outcome.params[name].equal(last[name]) for name in last)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["selected_round"], summary["test"]["clients"]) == (4, 7)


def test_a_run_whose_first_validation_nobody_answers_ends_with_the_reason(
    tmp_path: Path, silence: Silence
) -> None:
    silence(lambda work: True)
    with pytest.raises(FedmetaError, match=r"^no val client could be scored: the device is off$"):
        run(small(), tmp_path / "run", pictures=False)
    assert not (tmp_path / "run").exists()
