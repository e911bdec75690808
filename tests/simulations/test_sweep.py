"""``fedmeta sweep``: it finds what validation clients like, stops what is hopeless, and goes on."""

import csv
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml
from click.testing import Result
from optuna.storages.journal import JournalFileSymlinkLock
from typer.testing import CliRunner
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from fedmeta.errors import ConfigError, FedmetaError, RunFolderError
from simulations.cells import prepare
from simulations.cli import app
from simulations.executors.pool import Actor
from simulations.run import evaluate_again
from simulations.sweep import wandb_trial
from simulations.sweep.file import Sweep
from simulations.sweep.picture import draw
from simulations.sweep.search import Search
from simulations.sweep.shown import best_config, ranked, short_names, trials_csv
from simulations.sweep.space import Value
from simulations.sweep.study import FILE, Outcome, Study
from simulations.sweep.trial import Job, run_alone, run_trial, selected, validations
from simulations.sweep.wandb_sweep import TRIAL, wandb_sweep
from simulations.sweep.wandb_trial import read_trial
from simulations.sync import sync
from strategies.opening import open_config
from strategies.state import CHECKPOINT, load_state
from tests.simulations.conftest import CONFIGS, SMALL

LOOP = (*SMALL, "engine.name=loop")
RATE = {"strategy.lr": [0.000001, 0.01]}
"""The first hardly moves the params in four rounds, the second does."""


def sweep_file(folder: Path, space: Mapping[str, Any] = RATE, **more: Any) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / "rates.yaml"
    base = str(CONFIGS / "quickstart.yaml")
    path.write_text(yaml.safe_dump({"base": base, "trials": 4, "space": space} | more))
    return path


def silent(name: str, outcome: str) -> None:
    """Nobody hears of trials without a valid config."""


def rates(folder: Path, space: Mapping[str, Any] = RATE, **more: Any) -> Sweep:
    return Sweep.read(sweep_file(folder, space, **more), LOOP)


def fedmeta(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def run_here(sweep: Sweep, out: Path) -> Search:
    """All trials that are left, one after the other, as a worker of the pool does them."""
    search, worker = Search(sweep, out), Actor(Path.cwd())
    for job in search.jobs(silent):
        _, seconds, failure = worker.do(run_trial, job)
        search.end(job, seconds, failure)
    return search


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, Path, list[Outcome]]:
    """Four trials of two rates."""
    folder = tmp_path_factory.mktemp("searched")
    sweep = rates(folder)
    return sweep, folder / "out", run_here(sweep, folder / "out").outcomes()


Searched = tuple[Sweep, Path, list[Outcome]]


def test_the_better_rate_is_found_and_its_score_is_what_the_run_selected(
    searched: Searched,
) -> None:
    _, out, outcomes = searched
    assert [outcome.state for outcome in outcomes] == ["complete"] * 4
    assert {outcome.values["strategy.lr"] for outcome in outcomes} == {"1e-06", "0.01"}
    best, *_, worst = ranked(outcomes, "loss")
    assert (best.values["strategy.lr"], worst.values["strategy.lr"]) == ("0.01", "1e-06")
    assert best.score is not None
    assert worst.score is not None
    assert best.score < worst.score
    folder = out / "runs" / f"rates-{best.number:03d}-0"
    held = load_state(folder, open_config(folder / "config.yaml", [])).best
    assert held is not None
    assert (-held.score, held.round) == (best.score, best.round)


def test_the_best_config_runs_to_the_same_score(searched: Searched, tmp_path: Path) -> None:
    sweep, _, outcomes = searched
    (tmp_path / "best.yaml").write_text(best_config(sweep, outcomes))
    found = fedmeta("run", tmp_path / "best.yaml", "--run-dir", tmp_path / "run")
    assert (found.exit_code, found.stderr) == (0, "")
    experiment = open_config(tmp_path / "best.yaml", [])
    assert experiment.name == "rates-best"
    _, score = selected(experiment, validations(tmp_path / "run"))
    assert score == ranked(outcomes, "loss")[0].score


def test_test_clients_are_not_looked_at_until_somebody_asks(searched: Searched) -> None:
    _, out, _ = searched
    for folder in (out / "runs").iterdir():
        assert {row["split"] for row in lines(folder)} == {"train", "val"}
        assert "test" not in json.loads((folder / "summary.json").read_text())
        assert not (folder / "clients.jsonl").exists()
    assert evaluate_again(out / "runs" / "rates-000-0", [])["test"]["clients"] == 7


def test_more_trials_add_only_the_missing_and_are_those_of_one_long_sweep(
    searched: Searched, tmp_path: Path
) -> None:
    long, _, whole = searched
    first = run_here(replace(long, trials=2), tmp_path / "out").outcomes()
    assert len(first) == 2
    before = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").glob("*/*.json")
    }
    search = Search(long, tmp_path / "out")
    assert search.left == 2
    found = run_here(long, tmp_path / "out").outcomes()
    assert [(o.values, o.scores) for o in found] == [(o.values, o.scores) for o in whole]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    assert Search(long, tmp_path / "out").left == 0


def test_a_trial_that_was_cut_short_goes_on_first_from_its_checkpoint(tmp_path: Path) -> None:
    sweep, out = (
        rates(tmp_path, {"strategy.lr": {"low": 1e-4, "high": 1e-1}}, trials=2),
        tmp_path / "out",
    )
    (task,) = next(Search(sweep, out).jobs(silent)).tasks
    half, begun = prepare(task)
    assert not begun
    run_alone(replace(half, rounds=2), begun, task.folder)
    (task.folder / "summary.json").unlink()  # what a run lacks that is killed after round 2

    search = Search(sweep, out)
    assert search.left == 2
    again = next(search.jobs(silent))
    assert again.tasks == [task]
    run_trial(again)
    search.end(again, 1.0, "")
    assert search.outcomes()[0].state == "complete"
    assert (search.left, len(search.outcomes())) == (1, 1)
    assert [row["round"] for row in lines(task.folder) if row["split"] == "train"] == [1, 2, 3, 4]


def test_a_trial_stays_stopped_where_the_driver_died_before_it_could_say_so(tmp_path: Path) -> None:
    sweep, out = rates(tmp_path, trials=1), tmp_path / "out"
    job = next(Search(sweep, out).jobs(silent))
    experiment, begun = prepare(job.tasks[0])
    run_alone(replace(experiment, rounds=2), begun, job.tasks[0].folder)
    (job.tasks[0].folder / "summary.json").unlink()
    job.stop.write_text("pruned after round 2\n")
    assert [outcome.state for outcome in run_here(sweep, out).outcomes()] == ["pruned"]
    assert lines(job.tasks[0].folder)[-1]["round"] == 2


def test_the_runs_of_a_sweep_can_be_sent_to_wandb_later(searched: Searched) -> None:
    _, out, _ = searched
    assert (
        next(sync([out], "offline", None))
        == f"{out / 'runs/rates-000-0'}: offline, project fedmeta"
    )
    assert list((out / "runs/rates-000-0").glob("wandb/offline-run-*"))
    assert not (out / "runs/rates-000-0/plots/adaptation_on_clients.png").exists()


def test_the_score_is_the_mean_over_seeds(tmp_path: Path) -> None:
    sweep = rates(tmp_path, trials=1, seeds=2, set={"seed": 5})
    (outcome,) = run_here(sweep, tmp_path / "out").outcomes()
    each = [
        min(
            row["after"]["loss"]
            for row in validations(tmp_path / "out" / "runs" / f"rates-000-{seed}")
        )
        for seed in (5, 6)
    ]
    assert each[0] != each[1]
    assert outcome.score == pytest.approx(fmean(each), rel=1e-12)
    (row,) = csv.DictReader(StringIO(trials_csv(sweep, [outcome])))
    assert [float(row[name]) for name in ("seed 5", "seed 6")] == each


def test_a_trial_that_fails_is_named_with_its_reason_and_the_others_go_on(tmp_path: Path) -> None:
    """Three replies of two clients make no config; a thousand clients are more than there are."""
    words = [word for word in LOOP if not word.startswith("cohort.")]
    space, given = {"cohort.clients": [6, 2, 1000]}, {"cohort.min_replies": 3}
    file = sweep_file(tmp_path, space, set=given, trials=8)
    search, worker = Search(Sweep.read(file, words), tmp_path / "out"), Actor(Path.cwd())
    said: list[str] = []
    for job in search.jobs(lambda name, outcome: said.append(f"{name}: {outcome}")):
        _, seconds, failure = worker.do(run_trial, job)
        search.end(job, seconds, failure)
    outcomes = search.outcomes()
    reasons = {str(one.values["cohort.clients"]): one.reason for one in outcomes}
    assert len(outcomes) == 8
    assert reasons["6"] == ""
    no_config = "cohort.min_replies must be at most cohort.clients (2), got 3"
    assert reasons["2"] == no_config
    assert "cohort.clients must be at most the 30 train clients, got 1000" in reasons["1000"]
    numbers = [one.number for one in outcomes if one.values["cohort.clients"] == "2"]
    assert said == [f"rates-{number:03d}: failed: {no_config}" for number in numbers]


def test_a_trial_whose_run_does_not_arrive_says_so(tmp_path: Path) -> None:
    search = Search(rates(tmp_path, trials=1), tmp_path / "out")
    job = next(search.jobs(silent))
    said = search.end(job, 1.0, "")
    assert said.startswith(f"failed: {job.tasks[0].folder} has not arrived: all machines")


def test_trials_that_are_done_are_counted_whatever_number_is_asked_for(
    searched: Searched, tmp_path: Path
) -> None:
    sweep, out, _ = searched
    found = fedmeta("sweep", sweep.source, *LOOP, "--out", out, "--trials", "1")
    assert found.stdout.splitlines()[0] == "4 of 4 trials are done"
    search = Search(replace(sweep, trials=3), tmp_path / "out")
    jobs = search.jobs(silent)
    for _ in range(3):
        job = next(jobs)
    search.end(job, 1.0, "no luck")
    for trials, left in ((1, 2), (3, 2), (5, 4)):
        search = Search(replace(sweep, trials=trials), tmp_path / "out")
        assert (search.done, search.left) == (1, left)


def test_a_journal_whose_last_line_was_cut_short_is_gone_on_with(tmp_path: Path) -> None:
    """Wherever it was cut: the trial that was being proposed, or told of, is still to be done."""
    space = {
        "strategy.lr": {"low": 0.1, "high": 0.2},
        "learner.inner_lr": {"low": 0.1, "high": 0.2},
    }
    sweep = rates(tmp_path, space)
    study = journal(sweep, tmp_path / "out", [{2: 1.0}])
    proposed = study.ask()[1]
    whole = (tmp_path / "out" / FILE).read_bytes().splitlines(keepends=True)
    (tmp_path / "cut").mkdir()
    for count in range(len(whole)):
        (tmp_path / "cut" / FILE).write_bytes(b"".join(whole[:count]) + whole[count][:-7])
        cut = Study(sweep, tmp_path / "cut")
        begun = dict(cut.begun())
        assert all(values.keys() == space.keys() for values in begun.values())
        for number in begun:
            cut.complete(number, [1.0], 2, 1.0)
        again = Study(sweep, tmp_path / "cut")
        assert (len(again), list(again.begun())) == (len(cut), [])
        assert again.ask()[0] == len(again) - 1
    (tmp_path / "cut" / FILE).write_bytes(b"".join(whole[:-2]))
    assert dict(Study(sweep, tmp_path / "cut").begun())[1] == proposed


def test_a_journal_that_is_none_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / FILE).write_text("what\nis this\n")
    with pytest.raises(RunFolderError, match=rf"{FILE}: cannot be read \(JSONDecodeError"):
        Study(rates(tmp_path), tmp_path / "out")


@pytest.mark.timeout(60)
def test_a_lock_that_a_killed_sweep_left_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder of a relative path, as by default; Optuna waits half a minute, here three seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(JournalFileSymlinkLock.__init__, "__defaults__", (3,))
    sweep = rates(tmp_path)
    study = journal(sweep, Path("out"), [{2: 1.0}])
    study._study._storage._backend._lock.acquire()  # type: ignore[attr-defined]
    assert len(Study(sweep, Path("out"))) == 1


def journal(sweep: Sweep, out: Path, curves: Sequence[Mapping[int, float]]) -> Study:
    """A study with finished trials that had these scores by round."""
    out.mkdir(parents=True)
    study = Study(sweep, out)
    for curve in curves:
        number, _ = study.ask()
        for round, score in curve.items():
            study.hopeless(number, round, score)
        study.complete(number, [min(curve.values())], max(curve), 1.0)
    return study


def test_a_trial_is_hopeless_where_its_best_is_worse_than_the_median(tmp_path: Path) -> None:
    """Losses 1 to 5 at round 2, so the median is 3; with four trials nobody is stopped."""
    curves = [{2: float(loss)} for loss in (1, 2, 3, 4, 5)]
    few = journal(rates(tmp_path / "few"), tmp_path / "few/out", curves[:4])
    assert not few.hopeless(few.ask()[0], 2, 99.0)
    study = journal(rates(tmp_path / "five"), tmp_path / "five/out", curves)
    assert not study.hopeless(study.ask()[0], 2, 2.9)
    worse = study.ask()[0]
    assert study.hopeless(worse, 2, 3.1)
    assert not study.hopeless(worse, 2, 0.0), "a round counts once"
    off = journal(rates(tmp_path / "off", prune=False), tmp_path / "off/out", curves)
    assert not off.hopeless(off.ask()[0], 2, 99.0)


def test_of_accuracies_the_higher_are_better(tmp_path: Path) -> None:
    base = str(CONFIGS / "omniglot_maml.yaml")
    sweep = Sweep.read(sweep_file(tmp_path, {"learner.inner_lr": [0.1, 0.4]}, base=base))
    study = journal(
        sweep, tmp_path / "out", [{100: accuracy} for accuracy in (0.1, 0.2, 0.3, 0.4, 0.5)]
    )
    assert sweep.measure == "accuracy"
    assert not study.hopeless(study.ask()[0], 100, 0.31)
    assert study.hopeless(study.ask()[0], 100, 0.29)
    assert [o.score for o in ranked(study.outcomes(), "accuracy")] == [0.5, 0.4, 0.3, 0.2, 0.1]
    assert "accuracy 50.00 %" in best_config(sweep, study.outcomes())


@pytest.mark.usefixtures("two_ray_cpus")
def test_a_hopeless_trial_is_stopped_on_its_worker(tmp_path: Path) -> None:
    """Five trials with losses near zero went before, so the sixth has no hope at its first validation."""
    rounds, out = 20_000, tmp_path / "out"
    words = (*LOOP, f"rounds={rounds}")
    file = sweep_file(tmp_path, trials=6)
    journal(Sweep.read(file, words), out, [{2: 1e-9}] * 5)
    found = fedmeta("sweep", file, *words, "--out", out, "--jobs", "1")
    assert (found.exit_code, found.stderr) == (0, "")
    assert "[1/1] rates-005: pruned after round 2\n" in found.stdout
    folder = out / "runs" / "rates-005-0"
    assert lines(folder)[-1]["round"] < rounds / 2
    assert (folder / "stop").read_text() == "pruned after round 2\n"
    assert (folder / CHECKPOINT).exists()
    assert not (folder / "summary.json").exists()
    *_, last = csv.DictReader((out / "trials.csv").open())
    assert (last["state"], last["round"]) == ("pruned", "2")
    assert "besides: 1 pruned" in found.stdout


@pytest.mark.usefixtures("two_ray_cpus")
def test_the_command_runs_trials_on_workers_and_shows_the_best(tmp_path: Path) -> None:
    space = {
        "strategy.lr": {"low": 0.0001, "high": 0.1, "log": True},
        "learner.inner_steps": {"low": 1, "high": 3},
        "learner.inner_lr": {"low": 0.005, "high": 0.02, "step": 0.005},
        "learner.order": [1, 2],
    }
    file = sweep_file(tmp_path, space, trials=2, set={"tracking": {"tensorboard": True}})
    words = ("sweep", file, *LOOP, "--out", tmp_path / "out")
    found = fedmeta(*words, "--jobs", "2", "--wandb", "offline")
    assert (found.exit_code, found.stderr) == (0, "")
    table = found.stdout.splitlines()[3:-3]  # without a line for each trial, and what comes after
    assert max(map(len, table)) <= 80
    rows = list(csv.DictReader((tmp_path / "out" / "trials.csv").open()))
    assert [row["state"] for row in rows] == ["complete"] * 2
    assert all(float(row["learner.inner_steps"]) in (1, 2, 3) for row in rows)
    best = min(rows, key=lambda row: float(row["loss"]))
    chosen = open_config(tmp_path / "out" / "best.yaml", [])
    assert chosen.strategy.lr == float(best["strategy.lr"])
    assert (tmp_path / "out" / "sweep.png").read_bytes().startswith(b"\x89PNG")
    for folder in (tmp_path / "out" / "runs").iterdir():
        assert list(folder.glob("tensorboard/events*"))
        assert list(folder.glob("wandb/offline-run-*"))
    again = fedmeta(*words)
    assert "2 of 2 trials are done" in again.stdout
    assert again.stdout.splitlines()[1:] == found.stdout.splitlines()[3:]


def test_a_folder_belongs_to_one_sweep(searched: Searched, tmp_path: Path) -> None:
    sweep, out, _ = searched
    for other in (replace(sweep, seeds=2), Sweep.read(sweep.source, [*LOOP, "rounds=5"])):
        with pytest.raises(RunFolderError, match="is of another sweep"):
            Search(other, out)
    (tmp_path / "runs").mkdir()
    with pytest.raises(RunFolderError, match="holds other runs"):
        Search(sweep, tmp_path)


def test_trials_do_not_repeat_each_other(tmp_path: Path) -> None:
    sweep = rates(tmp_path, {"strategy.lr": {"low": 0.1, "high": 0.2}}, trials=30)
    (tmp_path / "out").mkdir()
    seen = [Study(sweep, tmp_path / "out").ask()[1]["strategy.lr"] for _ in range(5)]
    assert len(set(seen)) == 5
    assert all(0.1 <= value <= 0.2 for value in seen if isinstance(value, float))


def test_a_setting_itself_says_whether_it_is_whole(tmp_path: Path) -> None:
    space = {
        "learner.inner_lr": {"low": 0, "high": 1},
        "learner.inner_steps": {"low": 1, "high": 9, "step": 4},
    }
    sweep = rates(
        tmp_path, {k: v | ({"low": 0.5} if k.endswith("lr") else {}) for k, v in space.items()}
    )
    assert [getattr(each, "whole", None) for each in sweep.space.values()] == [False, True]
    (tmp_path / "out").mkdir()
    drawn = {Study(sweep, tmp_path / "out").ask()[1]["learner.inner_steps"] for _ in range(12)}
    assert drawn == {1, 5, 9}


def test_a_section_is_chosen_before_a_key_inside_it(tmp_path: Path) -> None:
    sgd = {"name": "sgd", "lr": 9.0, "epochs": 1, "batch_size": 5}
    found = rates(tmp_path, {"learner.epochs": [2, 3], "learner": [sgd, sgd | {"batch_size": 2}]})
    values: dict[str, Value] = {"learner.epochs": "3", "learner": found.space["learner"].ends[1]}
    learner = found.experiment(values, "x").sections["learner"]
    assert [learner[key] for key in ("name", "lr", "epochs", "batch_size")] == ["sgd", 9.0, 3, 2]


GOOD = {"base": "quickstart.yaml", "trials": 2, "space": {"strategy.lr": [0.1, 0.2]}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trails": 2}, "trails is not a key of a sweep: it has name, base, trials"),
        ({"trials": 0}, "trials must be set, got 0"),
        ({"trials": 2.5}, "trials must be a whole number of 1 or more, got 2.5"),
        ({"seeds": -1}, "seeds must be a whole number of 1 or more, got -1"),
        ({"prune": "median"}, "prune must be true or false, got 'median'"),
        ({"base": "nowhere.yaml"}, "nowhere.yaml: cannot read the config"),
        ({"base": ["quickstart.yaml"]}, "base must be the path of a config"),
        ({"space": {}}, "space must be set"),
        ({"space": [1]}, "space must be a mapping"),
        ({"space": {"strategy.lr": [0.1]}}, "space.strategy.lr must be a list of two choices or more"),
        ({"space": {"strategy.lr": [1, "1"]}}, "space.strategy.lr must have choices that differ"),
        ({"space": {"strategy.lr": {"low": 1}}}, "space.strategy.lr must be a list"),
        ({"space": {"strategy.lr": {"low": 2, "high": 1}}}, "space.strategy.lr.low must be below high"),
        ({"space": {"strategy.lr": {"low": "a", "high": 1}}}, "must have numbers as bounds"),
        ({"space": {"strategy.lr": {"low": 0, "high": 1, "log": True}}}, "with true low must be above 0"),
        ({"space": {"strategy.lr": {"low": 1, "high": 2, "step": 0.3}}}, "lr.step must be above 0"),
        ({"space": {"learner.inner_steps": {"low": 1, "high": 2.5}}}, "inner_steps must have whole bounds"),
        ({"space": {"learner.freeze": {"low": 0, "high": 1}}}, "learner.freeze must be a list of choices"),
        ({"space": {"evaluation.steps": [1, 2]}}, "scores under another evaluation are not comparable"),
        ({"space": {"data.shots": [1, 2]}}, "scores under another data are not comparable"),
        ({"space": {"lerner.inner_lr": [1, 2]}}, "space.lerner.inner_lr must be a setting of"),
        ({"space": {"learner.inner_rate": [1, 2]}}, "learner.inner_rate is not a setting"),
        ({"space": {"learner.inner_lr": [-1, -2]}}, "learner.inner_lr must be a finite number > 0"),
        ({"set": {"strategy.lr": 0.3}}, "space.strategy.lr varies, so set strategy.lr cannot stand"),
        ({"set": {"rounds": 0}}, "rounds must be 1 or more, got 0"),
        ({"name": "x" * 201}, "name must have at most 200 bytes"),
    ],
)  # fmt: skip
def test_bad_files_are_one_line_before_any_work(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    (tmp_path / "quickstart.yaml").write_text((CONFIGS / "quickstart.yaml").read_text())
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(GOOD | change))
    found = fedmeta("sweep", tmp_path / "bad.yaml", "--out", tmp_path / "out")
    assert found.exit_code == 2
    assert found.stderr.startswith(f"error: {tmp_path / 'bad.yaml'}: ")
    assert message in found.stderr
    assert len(found.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("below", [".", "sub"])
def test_a_file_is_no_folder_for_a_sweep(tmp_path: Path, below: str) -> None:
    file = sweep_file(tmp_path)
    found = fedmeta("sweep", file, *LOOP, "--out", file / below)
    assert found.exit_code == 2
    assert found.stderr.startswith(f"error: --out must be a folder, old or new, got {file / below}")
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.parametrize("override", ["strategy.lr=0.2", "strategy={name: fedavg}"])
def test_what_varies_cannot_be_overridden(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=r"space\.strategy\.lr varies, so override strategy"):
        Sweep.read(sweep_file(tmp_path), [override])


def val(round: int, loss: float, missing: int = 0) -> dict[str, Any]:
    return {"round": round, "clients": 5 - missing, "missing": missing, "after": {"loss": loss}}


def test_a_score_leaves_no_client_out(tmp_path: Path) -> None:
    best = rates(tmp_path).probe
    last = open_config(CONFIGS / "quickstart.yaml", [*LOOP, "evaluation.select=last"])
    rows = [val(2, 0.3, missing=1), val(4, 0.8), val(6, 0.7), val(8, 0.9)]
    assert selected(best, rows) == (6, 0.7)
    assert selected(last, rows) == (8, 0.9)
    with pytest.raises(
        FedmetaError, match="1 of 5 validation clients could not be scored in round 2"
    ):
        selected(best, rows[:1])
    with pytest.raises(FedmetaError, match="no validation client"):
        selected(best, [])


def test_wandb_is_told_the_same_sweep(tmp_path: Path) -> None:
    """The values of its schema: docs.wandb.ai, sweep configuration options."""
    space = {
        "strategy.lr": {"low": 0.001, "high": 0.1, "log": True},
        "learner.inner_lr": {"low": 0.1, "high": 0.5},
        "learner.inner_steps": {"low": 1, "high": 4},
        "cohort.clients": {"low": 2, "high": 6, "step": 2},
        "rounds": {"low": 2, "high": 64, "log": True},
        "learner.order": [1, 2],
    }
    file = sweep_file(tmp_path, space, trials=7)
    sweep = Sweep.read(file, ["evaluation.every=2"])
    found = wandb_sweep(sweep, tmp_path / "out")
    command = found.pop("command")
    assert found == {
        "name": "rates",
        "method": "bayes",
        "metric": {"name": "val/after/loss", "goal": "minimize"},
        "run_cap": 7,
        "program": TRIAL,
        "early_terminate": {"type": "hyperband", "min_iter": 3},
        "parameters": {
            "strategy.lr": {"distribution": "log_uniform_values", "min": 0.001, "max": 0.1},
            "learner.inner_lr": {"distribution": "uniform", "min": 0.1, "max": 0.5},
            "learner.inner_steps": {"distribution": "int_uniform", "min": 1, "max": 4},
            "cohort.clients": {"values": [2, 4, 6]},
            "rounds": {"distribution": "q_log_uniform_values", "min": 2, "max": 64},
            "learner.order": {"values": ["1", "2"]},
        },
    }
    assert command[:3] == [sys.executable, "-m", TRIAL]
    with pytest.raises(ConfigError, match="seeds must be 1"):
        wandb_sweep(replace(sweep, seeds=2), tmp_path)


def test_what_an_agent_of_wandb_starts_is_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B's own functions fill in the command."""
    sweep = Sweep.read(sweep_file(tmp_path), [*LOOP, "tracking.wandb.mode=disabled"])
    told = wandb_sweep(sweep, tmp_path / "out")
    given = create_sweep_command_args({"args": {"strategy.lr": {"value": "0.01"}}})
    filled: list[str] = []
    for word in create_sweep_command(told["command"]):
        macro = re.fullmatch(r"\$\{(.*)\}", word)
        filled += given[macro[1]] if macro else [word]
    monkeypatch.setattr(sys, "argv", filled[2:])
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    wandb_trial.main()
    folder = tmp_path / "out" / "runs" / "rates-abc"
    assert open_config(folder / "config.yaml", []).strategy.lr == 0.01
    assert lines(folder)[-1]["split"] == "val"
    experiment = read_trial(sweep.source, LOOP, ["strategy.lr=0.01"])
    assert experiment.tracking.wandb.mode == "online"
    with pytest.raises(ConfigError, match=r"strategy\.lr has 1e-06, 0\.01, got '7'"):
        read_trial(sweep.source, LOOP, ["strategy.lr=7"])
    with pytest.raises(ConfigError, match=r"values must be given for strategy\.lr, got "):
        read_trial(sweep.source, LOOP, [])


def test_names_are_as_short_as_tells_them_apart() -> None:
    keys = ["learner.lr", "strategy.lr", "learner.inner_lr", "rounds"]
    assert list(short_names(keys).values()) == ["learner.lr", "strategy.lr", "inner_lr", "rounds"]


def test_the_picture_has_a_panel_for_every_setting(searched: Searched) -> None:
    sweep, _, outcomes = searched
    stopped = replace(outcomes[1], state="pruned", score=9.0)
    panels = draw(sweep, [outcomes[0], stopped, *outcomes[2:]]).axes
    assert [axes.get_xlabel() for axes in panels] == ["trial", "strategy.lr"]
    assert panels[0].get_ylabel() == "query loss after adaptation,\nunseen validation clients"
    assert [len(dots.get_offsets()) for dots in panels[1].collections] == [1, 3, 1]
    assert [tick.get_text() for tick in panels[1].get_xticklabels()] == ["1e-06", "0.01"]


SWEEPS = [path for path in CONFIGS.rglob("*.yaml") if "\nspace:" in path.read_text()]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_shipped_sweeps_are_valid(path: Path) -> None:
    sweep = Sweep.read(path)
    last = {key: each.ends[1] for key, each in sweep.space.items()}
    assert sweep.experiment(last, "x").rounds <= 500


def test_jobs_say_their_name() -> None:
    assert str(Job("rates-003", [])) == "rates-003"
