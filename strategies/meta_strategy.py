"""The strategy that hosts the rules under Flower's own ``Strategy.start``."""

import logging
import time
from collections.abc import Iterable
from dataclasses import replace

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedmeta.compression import shrink
from fedmeta.config import Experiment
from fedmeta.errors import FedmetaError
from fedmeta.packing import pack_params
from fedmeta.wire import Work, pack_work, size
from strategies.evaluation import Report, Scoring, collect, score
from strategies.roster import Attendance, Roster, senders
from strategies.sampling import sample
from strategies.state import Best, ServerState, protocol
from strategies.tally import count
from strategies.validation import Checked, Expected, check, failed_alike

STRIKES = 3
"""Rounds in a row in which all clients fail alike: one is bad luck, so many are a bug or no network."""
_log = logging.getLogger(__name__)


class MetaStrategy(Strategy):
    """Samples, checks, weighs, aggregates and steps. Its only memory is ``state``.

    Flower counts rounds from 1 in every start; a resumed run's rounds are those plus ``state.round``
    at its beginning.
    """

    def __init__(self, experiment: Experiment, attendance: Attendance, state: ServerState) -> None:
        self.experiment, self.attendance, self.state = experiment, attendance, state
        self.rules = experiment.strategy.rules()
        self.weight_column = self.rules.weight_column if experiment.cohort.replies == "sum" else ""
        self.train_row: dict[str, float] = {}
        self.report: Report | None = None
        self._yaml = experiment.to_yaml()
        self._first = state.round
        self._val = attendance.everyone.clients("val")[: experiment.evaluation.clients]
        self._scoring = Scoring([], {}, [])
        self._asked: dict[int, list[int]] = {}
        self._sent: list[Message] = []
        self._bytes_down = 0
        self._began = time.monotonic()

    def packed(self) -> ArrayRecord:
        """The params as they travel."""
        return pack_params(shrink(self.state.params, self.experiment.wire.params))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message per node: the params, and which of its clients take part."""
        self._began = time.monotonic()
        round, cohort = self._first + server_round, self.experiment.cohort
        roster = self.attendance.wait(self._lacking, cohort.wait)
        there = roster.clients("train")
        chosen = sample(there, min(cohort.clients, len(there)), self.experiment.seed, round)
        self._asked = roster.assign(chosen)
        work = [
            (node, Work(self._yaml, round, clients, self.weight_column, self.state.run))
            for node, clients in self._asked.items()
        ]
        contents = [(node, pack_work(arrays, asked)) for node, asked in work]
        self._bytes_down = max((size(content) for _, content in contents), default=0)
        self._sent = [
            Message(content, node, MessageType.TRAIN, ttl=cohort.timeout)
            for node, content in contents
        ]
        return self._sent

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check the replies and take the server's step; with too few good ones the params stay.

        Raises FedmetaError where nothing but one and the same failure came back several times.
        """
        round = self._first + server_round
        checked = check(replies, self._asked, self._expected())
        for client, reason in checked.dropped.items():
            _log.warning("round %d: client %d dropped: %s", round, client, reason)
        for client in checked.still:
            _log.warning("round %d: the delta of client %d is zero", round, client)
        stepped = self._step(checked, round)
        seconds = time.monotonic() - self._began
        alike = failed_alike(checked, self._asked)
        tally = count(
            self.state.tally, checked, not stepped, bool(alike), self._bytes_down, seconds
        )
        self.state = replace(self.state, round=round, tally=tally)
        means = _means(checked)
        if remark := self.experiment.learner.remark(means):
            _log.warning("round %d: %s", round, remark)
        self.train_row = means | {
            "clients": checked.clients, "dropped": len(checked.dropped), "seconds": seconds,
            "bytes_down": self._bytes_down, "bytes_up": int(checked.bytes_up),
        }  # fmt: skip
        if tally.failing_rounds >= STRIKES:
            raise FedmetaError(
                f"round {round}: all {len(checked.dropped)} clients failed alike, and in the "
                f"{STRIKES - 1} rounds before: {alike}"
            )
        return self.packed() if stepped else None, None

    def _lacking(self, roster: Roster) -> str:
        least, there = self.experiment.cohort.min_replies, len(roster.clients("train"))
        return "" if there >= least else f"{there} are connected, cohort.min_replies is {least}"

    def _expected(self) -> Expected:
        settings, longest = self.experiment.cohort, self.state.tally.longest
        asked = (self.weight_column, self.experiment.wire, settings.outlier, longest)
        return Expected(self.state.params, *asked, senders(self._sent))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Score the validation clients every few rounds and after the last."""
        self._began = time.monotonic()
        if not self._due(server_round):
            return []
        round = self._first + server_round
        self._scoring = score(self.attendance.now(), self._val, arrays, self.experiment, round)
        return self._scoring.messages

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Keep the report, and the params if no earlier ones did better."""
        if not self._due(server_round):
            return None
        report = collect(replies, self._scoring, self.experiment)
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
