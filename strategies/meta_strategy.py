"""The strategy that hosts the rules under Flower's own ``Strategy.start``."""

import logging
import time
from collections.abc import Iterable
from dataclasses import replace

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedmeta.config import Experiment
from fedmeta.wire import Work, pack_params, pack_work
from strategies.evaluation import Report, collect, evaluation_messages
from strategies.roster import Roster
from strategies.sampling import sample
from strategies.state import Best, ServerState, Tally, protocol
from strategies.validation import Checked, check

NAMED = 1000
"""Dropped clients whose reason is kept; all are counted."""
_log = logging.getLogger(__name__)


class MetaStrategy(Strategy):
    """Samples, checks, weighs, aggregates and steps. Its only memory is ``state``.

    Flower counts rounds from 1 in every start; a resumed run's rounds are those plus ``state.round``
    at its beginning.
    """

    def __init__(self, experiment: Experiment, roster: Roster, state: ServerState) -> None:
        self.experiment, self.roster, self.state = experiment, roster, state
        self.rules = experiment.strategy.rules()
        self.train_row: dict[str, float] = {}
        self.report: Report | None = None
        self._yaml = experiment.to_yaml()
        self._first = state.round
        self._train_clients = roster.clients("train")
        self._val_asked = roster.assign(roster.clients("val")[: experiment.evaluation.clients])
        self._asked: dict[int, list[int]] = {}
        self._began = time.monotonic()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message per node: the params, and which of its clients take part."""
        self._began = time.monotonic()
        round, cohort = self._first + server_round, self.experiment.cohort
        chosen = sample(self._train_clients, cohort.clients, self.experiment.seed, round)
        self._asked = self.roster.assign(chosen)
        weight_column = self.rules.weight_column if cohort.replies == "sum" else ""
        return [
            Message(
                pack_work(arrays, Work(self._yaml, round, clients, weight_column, self.state.run)),
                node,
                MessageType.TRAIN,
            )
            for node, clients in self._asked.items()
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check the replies and take the server's step; with too few good ones the params stay."""
        round = self._first + server_round
        summed = self.experiment.cohort.replies == "sum"
        checked = check(replies, self._asked, self.state.params, round, summed)
        for client, reason in checked.dropped.items():
            _log.warning("round %d: client %d dropped: %s", round, client, reason)
        stepped = self._step(checked, round)
        seconds = time.monotonic() - self._began
        tally = _count(self.state.tally, checked, idle=not stepped, seconds=seconds)
        self.state = replace(self.state, round=round, tally=tally)
        means = _means(checked)
        if remark := self.experiment.learner.remark(means):
            _log.warning("round %d: %s", round, remark)
        self.train_row = means | {
            "clients": checked.clients, "dropped": len(checked.dropped), "seconds": seconds
        }  # fmt: skip
        return pack_params(self.state.params) if stepped else None, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Score the validation clients every few rounds and after the last."""
        self._began = time.monotonic()
        if not self._due(server_round):
            return []
        round = self._first + server_round
        return evaluation_messages(self._val_asked, arrays, self._yaml, round)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Keep the report, and the params if no earlier ones did better."""
        if not self._due(server_round):
            return None
        report = collect(replies, self._val_asked, self.experiment)
        if report.scores.clients:
            self.report = report
            self._remember_best(report)
            tally = self.state.tally
            seconds = tally.seconds + time.monotonic() - self._began
            self.state = replace(self.state, tally=replace(tally, seconds=seconds))
        return None

    def summary(self) -> None:
        """Nothing: the recorders say it."""

    def _due(self, server_round: int) -> bool:
        round = self._first + server_round
        return round % self.experiment.evaluation.every == 0 or round == self.experiment.rounds

    def _step(self, checked: Checked, round: int) -> bool:
        """Whether the params could be moved; where they could not, they stay and the log says why."""
        if checked.clients < (needed := self.experiment.cohort.min_replies):
            _log.warning(
                "round %d: %d good replies, %d needed: the params stay as they were",
                round, checked.clients, needed,
            )  # fmt: skip
            return False
        delta = self.rules.aggregate(checked.replies, self.rules.weight_column)
        progress = (round - 1) / self.experiment.rounds
        params, optimizer = self.rules.optimizer.step(
            self.state.params, delta, self.state.optimizer, progress
        )
        if not all(bool(torch.isfinite(value).all()) for value in params.values()):
            _log.warning("round %d: the step is not finite: the params stay as they were", round)
            return False
        self.state = replace(self.state, params=params, optimizer=optimizer)
        return True

    def _remember_best(self, report: Report) -> None:
        after = report.row()["after"]
        score, how = after.get("accuracy", -after["loss"]), protocol(self.experiment)
        held = self.state.best
        if (
            held is None
            or held.protocol != how
            or (-report.missing, score) > (-held.missing, held.score)
        ):
            best = Best(self.state.round, score, report.missing, how, self.state.params)
            self.state = replace(self.state, best=best)


def _means(checked: Checked) -> dict[str, float]:
    """Mean of every metric over the clients of a round."""
    columns = [reply.columns for reply in checked.replies]
    shared = set.intersection(*(set(column) for column in columns)) if columns else set()
    names = sorted(shared - {"examples"})
    return {name: float(torch.cat([column[name] for column in columns]).mean()) for name in names}


def _count(tally: Tally, checked: Checked, idle: bool, seconds: float) -> Tally:
    dropped, reasons = dict(tally.dropped), dict(tally.reasons)
    for client, reason in checked.dropped.items():
        dropped[str(client)] = dropped.get(str(client), 0) + 1
        if len(reasons) < NAMED or str(client) in reasons:
            reasons[str(client)] = reason
    return Tally(
        tally.seconds + seconds,
        tally.client_rounds + checked.clients,
        dropped,
        reasons,
        tally.idle_rounds + idle,
    )
