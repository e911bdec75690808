"""The strategy that hosts the rules under Flower's own ``Strategy.start``."""

import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedmeta.compression import shrink
from fedmeta.config import Experiment
from fedmeta.data.federation import Clients
from fedmeta.errors import ConfigError, FedmetaError
from fedmeta.packing import pack_params
from fedmeta.wire import Work, pack_work, size
from strategies.best import Best
from strategies.clock import Clock, Timed, on_time
from strategies.evaluation import Report, Scoring, collect, score
from strategies.fitting import needs, temperature, weight_column
from strategies.gathered import gather
from strategies.ledger import Entry, entries
from strategies.roster import Attendance, Roster, senders
from strategies.rules import Outcome, uncounted
from strategies.sampling import Heard, sample
from strategies.state import ServerState, protocol
from strategies.tally import count
from strategies.validation import Checked, Expected, check, diverging, failed_alike

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
        self.weight_column = weight_column(experiment, self.rules)
        self.clock = Clock.of(experiment, state.params)
        self._needs = needs(experiment, self.rules)
        self.train_row: dict[str, float] = {}
        self.entries: list[Entry] = []
        self.report: Report | None = None
        self._yaml = experiment.to_yaml()
        self._first = state.round
        self._val = attendance.everyone.clients("val")[: experiment.evaluation.clients]
        self._scoring = Scoring([], {}, [])
        self._asked: dict[int, list[int]] = {}
        self._absent: dict[int, str] = {}
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
        self._asked = roster.assign(self._chosen(roster, round))
        measure = cohort.measure or bool(self.rules.weighting.needs)
        more = (self.weight_column, self.state.run, measure, temperature(self.rules))
        work = [(node, Work(self._yaml, round, c, *more)) for node, c in self._asked.items()]
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
        self._tell(checked, round)
        began, absent = self.state.tally.simulated_seconds, bool(self._absent)
        timed = on_time(checked, self.clock, began, absent)
        alike = failed_alike(timed.checked, self._asked)
        checked = replace(timed.checked, dropped=timed.checked.dropped | self._absent)
        outcome, now = self._combine(timed, round)
        stepped = outcome is not None and self._step(outcome, round)
        if not stepped:  # deltas that could not be used are no measure for later ones
            checked = replace(checked, longest=self.state.tally.longest)
        if outcome is not None and not stepped:
            outcome = outcome._replace(weights=torch.zeros(len(outcome.clients)).double())
        seconds = time.monotonic() - self._began
        tally = count(
            self.state.tally, checked, not stepped, bool(alike), self._bytes_down, seconds, now
        )
        self.state = replace(self.state, round=round, tally=tally)
        self._record(checked, outcome, seconds, round)
        if tally.failing_rounds >= STRIKES:
            raise FedmetaError(_given_up(round, len(checked.dropped), str(alike)))
        return self.packed() if stepped else None, None

    def _chosen(self, roster: Roster, round: int) -> Clients:
        """Who is asked; in simulation some of them drop out."""
        there, settings = roster.clients("train"), self.experiment.cohort
        if buffer := self.rules.buffer:
            there = there[~np.isin(there, buffer.on_their_way(self.state.memory).numpy())]
            settings = replace(settings, clients=buffer.free(self.state.memory))
        heard = Heard.of(self.state.memory).losses()
        seed, sizes = self.experiment.seed, self.attendance.sizes
        chosen = sample(there, settings, seed, round, sizes, heard)
        here = chosen if self.clock is None else chosen[self.clock.reachable(chosen, round)]
        self._absent = dict.fromkeys(np.setdiff1d(chosen, here).tolist(), "dropped out (simulated)")
        return here

    def _lacking(self, roster: Roster) -> str:
        least, there = self.experiment.cohort.min_replies, len(roster.clients("train"))
        return "" if there >= least else f"{there} are connected, cohort.min_replies is {least}"

    def _expected(self) -> Expected:
        settings, longest = self.experiment.cohort, self.state.tally.longest
        asked = (self.weight_column, self.experiment.wire, settings.outlier, longest)
        return Expected(self.state.params, *asked, self._needs, senders(self._sent))

    @staticmethod
    def _tell(checked: Checked, round: int) -> None:
        for client, reason in checked.dropped.items():
            _log.warning("round %d: client %d dropped: %s", round, client, reason)
        for client in checked.still:
            _log.warning("round %d: the delta of client %d is zero", round, client)

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

    def _combine(self, timed: Timed, round: int) -> tuple[Outcome | None, float]:
        """One delta out of the replies, if there are enough, and the simulated time by then."""
        replies, memory, buffer = timed.checked.replies, self.state.memory, self.rules.buffer
        if buffer is None:
            enough = self._enough(timed.checked.clients, round)
            made = self.rules.combine(replies, self.state.params, memory) if enough else None
            return made, timed.now
        begun = gather(replies, {}) if replies else None
        count, step = self.experiment.cohort.clients, round - self.state.tally.idle_rounds
        arrived = buffer.exchange(begun, timed.arrives(begun), count, step, memory)
        self.state = replace(self.state, memory=arrived.memory)
        if arrived.gathered is None:
            self._enough(0, round)
            return None, timed.began  # others begin at once
        return self.rules.weigh(arrived.gathered, arrived.memory), arrived.now

    def _enough(self, clients: int, round: int) -> bool:
        """Whether so many good replies will do; where they will not, the log says why."""
        needed = self.experiment.cohort.min_replies
        try:
            self.rules.aggregation.check(max(clients, 1))
            reason = "" if clients >= needed else f"{needed} needed"
        except ConfigError as e:
            reason = str(e)
        if reason:
            _log.warning(
                "round %d: %d good replies, %s: the params stay as they were",
                round, clients, reason,
            )  # fmt: skip
        return not reason

    def _step(self, outcome: Outcome, round: int) -> bool:
        """Whether the params could be moved; where they could not, they stay and the log says why."""
        progress = (round - 1) / self.experiment.rounds
        params, optimizer = self.rules.optimizer.step(
            self.state.params, outcome.delta, self.state.optimizer, progress
        )
        moments = [value for memory in optimizer.values() for value in memory.values()]
        if not all(bool(torch.isfinite(value).all()) for value in [*params.values(), *moments]):
            _log.warning("round %d: the step is not finite: the params stay as they were", round)
            return False
        memory = outcome.memory
        self.state = replace(self.state, params=params, optimizer=optimizer, memory=memory)
        return True

    def _record(
        self, checked: Checked, outcome: Outcome | None, seconds: float, round: int
    ) -> None:
        """What the recorders and the ledger are told of the round."""
        means = _means(checked)
        if remark := self.experiment.learner.remark(means):
            _log.warning("round %d: %s", round, remark)
        if self.experiment.cohort.sampling == "loss":
            memory = Heard.of(self.state.memory).hear(checked.replies)
            self.state = replace(self.state, memory=self.state.memory | memory)
        traffic: dict[str, float] = {
            "bytes_down": self._bytes_down,
            "bytes_up": int(checked.bytes_up),
        }
        self.train_row = means | _weighted(outcome) | {
            "clients": checked.clients, "dropped": len(checked.dropped), "seconds": seconds,
        } | traffic  # fmt: skip
        if self.clock is not None:
            self.train_row["simulated_seconds"] = self.state.tally.simulated_seconds
        if self.experiment.tracking.ledger:
            if outcome is None and self.rules.buffer is None:
                outcome = uncounted(checked.replies)
            self.entries = entries(round, outcome, checked.dropped, traffic)

    def _remember_best(self, report: Report) -> None:
        state = self.state
        now = Best(state.round, *report.said(), protocol(self.experiment), state.params)
        if state.best is None or now.beats(state.best):
            self.state = replace(state, best=now)


def _given_up(round: int, clients: int, alike: str) -> str:
    hint = "; has training diverged? A smaller strategy.lr helps then" if diverging(alike) else ""
    return (
        f"round {round}: all {clients} clients failed alike, and in the {STRIKES - 1} rounds before: "
        f"{alike}{hint}"
    )


def _means(checked: Checked) -> dict[str, float]:
    """Mean of every metric over the clients of a round that say it."""
    said: dict[str, list[Tensor]] = defaultdict(list)
    for reply in checked.replies:
        for name in reply.columns.keys() - {"examples"}:
            said[name].append(reply.columns[name])
    return {name: float(torch.cat(said[name]).mean()) for name in sorted(said)}


def _weighted(outcome: Outcome | None) -> dict[str, float]:
    """The losses that clients measured, each client with its weight in the step."""
    if outcome is None or outcome.weights is None or not (total := float(outcome.weights.sum())):
        return {}
    names = [
        name for name in ("support_loss", "loss_before", "loss_after") if name in outcome.columns
    ]
    return {
        f"weighted_{name}": float(outcome.weights @ outcome.columns[name]) / total for name in names
    }
