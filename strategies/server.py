"""A federation from the server's side: the same for simulation and deployment."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from flwr.app import ArrayRecord
from flwr.serverapp import Grid

from fedmeta.adapters import own
from fedmeta.checkpoint import write_atomically, write_checkpoint
from fedmeta.compression import shrink
from fedmeta.config import Experiment
from fedmeta.data.federation import Clients, Split
from fedmeta.errors import ConfigError, FedmetaError
from fedmeta.initial import first_params
from fedmeta.packing import pack_params
from fedmeta.run_folder import write_json, write_lines
from fedmeta.tracking.recorder import Recorders, Row, Run
from fedmeta.types import Params
from strategies.evaluation import Report, collect, score
from strategies.ledger import Ledger
from strategies.meta_strategy import MetaStrategy
from strategies.roster import Attendance, Roster, check_somebody
from strategies.sampling import sample
from strategies.state import CONFIG, PARAMS, ServerState, load_state, save_state, selected

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Federated:
    """The outcome of a run."""

    params: Params
    """The params that the test clients saw."""
    summary: Row


def federate(
    experiment: Experiment,
    grid: Grid,
    folder: Path,
    recorders: Recorders,
    resume: bool = False,
    wait: float = 0.0,
    test: bool = True,
) -> Federated:
    """Train over the grid, checkpoint every round, and score the test clients once at the end.

    ``wait``: seconds in which as many clients must connect as the experiment asks for. Without ``test``
    nobody looks at the test clients, and the summary says nothing of them.
    """
    logging.getLogger("flwr").setLevel(logging.WARNING)  # it prints several lines a round
    torch.set_num_threads(experiment.engine.threads)  # sums here follow the same rule as on nodes
    _check_seen(experiment)
    attendance = Attendance(grid, experiment.to_yaml(), experiment.cohort.timeout)
    attendance.now()
    if attendance.refused:
        check_somebody(attendance)  # where all that are here are unfit, nobody waits for others
    roster = attendance.wait(partial(_lacking, experiment), wait)
    check_somebody(attendance)
    if lacking := _lacking(experiment, roster):
        raise ConfigError(lacking)
    state = load_state(folder, experiment) if resume else first_state(experiment)
    strategy = MetaStrategy(experiment, attendance, state)
    if state.round < experiment.rounds:  # what a shorter run found is not of the params to come
        (folder / "summary.json").unlink(missing_ok=True)
    write_atomically(folder / CONFIG, experiment.to_yaml().encode())
    recorders.start(Run(experiment, folder, state.round))
    summary: Row | None = None
    try:
        strategy.start(
            grid,
            strategy.packed(),
            num_rounds=experiment.rounds - state.round,
            timeout=experiment.cohort.timeout,
            evaluate_fn=_after_round(strategy, grid, folder, recorders, resume),
        )
        params, summary = _conclude(strategy, grid, folder, recorders, test)
    finally:
        recorders.finish(summary)
    if recorders.failed:
        summary["failed_recorders"] = recorders.failed
        write_json(folder / "summary.json", summary)
    return Federated(params, summary)


def first_state(experiment: Experiment) -> ServerState:
    """Before the first round."""
    params, _ = first_params(experiment)
    return ServerState(0, params, run=uuid4().hex)


def evaluate(
    experiment: Experiment,
    grid: Grid,
    attendance: Attendance,
    params: Params,
    split: Split,
    round: int,
) -> Report:
    """Score all clients of a split, or the validation clients of the experiment."""
    clients = attendance.everyone.clients(split)
    if split == "val":
        clients = clients[: experiment.evaluation.clients]
    return _score(experiment, grid, attendance, params, clients, split, round)


def evaluate_seen(
    experiment: Experiment, grid: Grid, attendance: Attendance, state: ServerState
) -> Report:
    """Score the training clients that took part last, with the last params and what they kept.

    Who took part is what the sampling of earlier rounds says of all clients that there ever were.
    """
    train, wanted = attendance.everyone.clients("train"), experiment.evaluation.seen
    seen: list[int] = []
    for round in range(state.round, 0, -1):
        sizes = attendance.sizes
        chosen = sample(train, experiment.cohort, experiment.seed, round, sizes).tolist()
        seen += [client for client in chosen if client not in seen]
        if len(seen) >= wanted:
            break
    clients = np.sort(np.array(seen[:wanted], dtype=np.int64))
    params, round, run = state.params, state.round, state.run
    return _score(experiment, grid, attendance, params, clients, "train", round, run)


def _score(
    experiment: Experiment,
    grid: Grid,
    attendance: Attendance,
    params: Params,
    clients: Clients,
    split: Split,
    round: int,
    run: str = "",
) -> Report:
    packed = pack_params(shrink(params, experiment.wire.params))
    scoring = score(attendance.now(), clients, packed, experiment, round, run)
    replies = grid.send_and_receive(scoring.messages, timeout=experiment.cohort.timeout)
    report = collect(replies, scoring, experiment)
    if not report.scores.clients:
        reason = next(iter(report.scores.failures.values()), "there are none")
        raise FedmetaError(f"no {split} client could be scored: {reason}")
    return report


def _lacking(experiment: Experiment, roster: Roster) -> str:
    """What the experiment asks for and the connected clients are too few for, if anything."""
    wishes: list[tuple[Split, str, int]] = [
        ("train", "cohort.clients", experiment.cohort.clients),
        ("train", "evaluation.seen", experiment.evaluation.seen),
        ("val", "evaluation.clients", experiment.evaluation.clients),
    ]
    short = [
        f"{key} must be at most the {have} {split} clients, got {wanted}"
        for split, key, wanted in wishes
        if wanted > (have := len(roster.clients(split)))
    ]
    return "; ".join(short if len(roster.clients("test")) else [*short, "there is no test client"])


def _check_seen(experiment: Experiment) -> None:
    if experiment.evaluation.seen and not experiment.sections["data"].get("held_out"):
        raise ConfigError(
            "evaluation.seen needs examples that training never drew: data.held_out must be 1 or "
            "more, got 0"
        )


def _after_round(
    strategy: MetaStrategy, grid: Grid, folder: Path, recorders: Recorders, resumed: bool
) -> Callable[[int, ArrayRecord], None]:
    """What Flower calls before the first round and after each: record, then checkpoint.

    In this order a death between the two loses no row: a resumed run takes back what lies after its
    checkpoint.
    """
    ledger = Ledger(folder, strategy.state.round)

    def after_round(server_round: int, arrays: ArrayRecord) -> None:
        state, experiment = strategy.state, strategy.experiment
        if server_round == 0 and resumed:
            return  # before the checkpoint of this round, which may be 0, it was recorded
        if server_round == 0:
            strategy.report = evaluate(
                experiment, grid, strategy.attendance, state.params, "val", 0
            )
        if server_round > 0:
            ledger.write(strategy.entries)
            recorders.record(_row(state.round, "train", strategy.train_row))
        if strategy.report is not None:
            recorders.record(_row(state.round, "val", strategy.report.row()))
            strategy.report = None
        save_state(folder, state, experiment)

    return after_round


def _conclude(
    strategy: MetaStrategy, grid: Grid, folder: Path, recorders: Recorders, test: bool
) -> tuple[Params, Row]:
    """Choose the params on the validation clients, score the test clients, write the results.

    The params first: they are there where no test client can be scored. The summary is the mark of a
    finished run.
    """
    experiment, state = strategy.experiment, strategy.state
    chosen, params = selected(state, experiment)
    _, private = first_params(experiment)
    model = own(private) | params
    write_checkpoint(folder / PARAMS, model, {"name": experiment.name, "round": chosen})
    tested: Row = {}
    if test:
        report = _test(strategy, grid, folder, params)
        tested = {"test": report.row()}
        recorders.record(_row(state.round, "test", report.row()))
        write_lines(folder / "clients.jsonl", client_rows(report))
    tally = state.tally
    summary: Row = {
        "name": experiment.name,
        "rounds": state.round,
        "selected_round": chosen,
        "seconds": tally.seconds,
        "clients_per_second": tally.client_rounds / max(tally.seconds, 1e-9),
        "dropped_replies": sum(tally.dropped.values()),
        "dropped_clients": {
            client: {"replies": count, "reason": tally.reasons.get(client, "")}
            for client, count in tally.dropped.items()
        },
        "idle_rounds": tally.idle_rounds,
        "zero_deltas": tally.zero_deltas,
        "refused_nodes": {str(n): reason for n, reason in strategy.attendance.refused.items()},
        "bytes": {"down": int(tally.bytes_down), "up": int(tally.bytes_up)},
        "gradients": int(tally.gradients),
        "simulated_seconds": tally.simulated_seconds or None,
        **tested,
    }
    write_json(folder / "summary.json", summary)
    if experiment.evaluation.seen:
        seen = evaluate_seen(experiment, grid, strategy.attendance, state)
        recorders.record(_row(state.round, "seen", seen.row()))
        summary["seen"] = seen.row()
        write_json(folder / "summary.json", summary)
    return params, summary


def _test(strategy: MetaStrategy, grid: Grid, folder: Path, params: Params) -> Report:
    """Score the test clients; where that fails, the log says what there is all the same."""
    experiment, state = strategy.experiment, strategy.state
    try:
        return evaluate(experiment, grid, strategy.attendance, params, "test", state.round)
    except FedmetaError:
        _log.warning(
            "the trained model is in %s, without test scores; a resume scores it", folder / PARAMS
        )
        raise


def _row(round: int, split: str, found: Row) -> Row:
    """For the recorders; a client may call a column ``round`` or ``split``, and that changes neither."""
    own_keys = {"round": round, "split": split}
    return own_keys | found | own_keys


def client_rows(report: Report) -> list[dict[str, Any]]:
    """A row per test client with its scores after every inner step."""
    curves = {name: values.tolist() for name, values in report.scores.curves.items()}
    return [
        {"client": client, "split": "test"} | {name: values[i] for name, values in curves.items()}
        for i, client in enumerate(report.scores.clients)
    ]
