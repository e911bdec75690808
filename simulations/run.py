"""``fedmeta run``: a federation on this machine or a Ray cluster, from config to run folder."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from fedmeta.config import Experiment
from fedmeta.run_folder import taken_back, write_json
from fedmeta.tracking import build_recorders
from fedmeta.tracking.recorder import Recorder, Recorders, Row
from simulations.attackers import with_attacks
from simulations.executors import build_executor
from simulations.grid import CohortGrid
from simulations.pictures import SinusoidPicture
from strategies.opening import open_old
from strategies.roster import Attendance, check_somebody
from strategies.server import Federated, evaluate, federate
from strategies.state import CHECKPOINT, STATES, load_state, selected


def run(
    experiment: Experiment,
    folder: Path,
    watchers: Sequence[Recorder] = (),
    resume: bool = False,
    pictures: bool = True,
) -> Federated:
    """Run a federation into its folder; one that never began leaves nothing behind."""
    extra = special_pictures(experiment) if pictures else []
    with taken_back(folder, folder / CHECKPOINT):
        built = build_recorders(experiment.tracking, *extra, pictures=pictures)
        recorders = Recorders([*watchers, *built])
        executor = build_executor(experiment.engine, folder / STATES)
        with closing(with_attacks(executor, experiment)) as executor:
            return federate(experiment, CohortGrid(executor), folder, recorders, resume)


def special_pictures(experiment: Experiment) -> list[Recorder]:
    """Those that only some datasets have."""
    return [SinusoidPicture()] if experiment.sections["data"]["name"] == "sinusoid" else []


def evaluate_again(folder: Path, overrides: Sequence[str]) -> Row:
    """Score the test clients of a run with its selected params; writes ``evaluation.json``."""
    experiment, _ = open_old(folder, None, overrides)
    round, params = selected(load_state(folder, experiment), experiment)
    with closing(build_executor(experiment.engine, folder / STATES)) as executor:
        grid = CohortGrid(executor)
        attendance = Attendance(grid, experiment.to_yaml(), experiment.cohort.timeout)
        attendance.now()
        check_somebody(attendance)
        report = evaluate(experiment, grid, attendance, params, "test", round)
    summary: Row = {"name": experiment.name, "selected_round": round, "test": report.row()}
    write_json(folder / "evaluation.json", summary)
    return summary
