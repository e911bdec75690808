"""Asking nodes to score their unseen clients, and summing the answers up."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil, nan
from typing import Any

import torch
from flwr.app import ArrayRecord, Message, MessageType
from scipy.stats import t as student_t
from torch import Tensor

from fedmeta.config import Experiment
from fedmeta.data.federation import Clients
from fedmeta.errors import FedmetaError
from fedmeta.evaluation import Scores
from fedmeta.objective import score_names
from fedmeta.params import finite, select
from fedmeta.types import Metrics
from fedmeta.wire import Work, pack_work, short, unpack_scores
from strategies.roster import Roster, sender, senders

NAMED = 20
"""Clients without scores that the log names, per evaluation."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """Scores of all clients that could be scored, in client order, and why the others could not."""

    scores: Scores
    diverged: frozenset[int] = frozenset()
    """Of those without, the ones that answered."""

    @property
    def missing(self) -> int:
        """Clients that could not be scored."""
        return len(self.scores.failures)

    def said(self) -> tuple[Tensor, Tensor]:
        """Clients that answered and what they say of the params: more is better, NaN: it diverged."""
        curves = self.scores.curves
        after = curves["accuracy"] if "accuracy" in curves else -curves["loss"]
        ids = torch.tensor([*self.scores.clients, *sorted(self.diverged)])
        return ids, torch.cat([after[:, -1], torch.full((len(self.diverged),), nan).double()])

    def row(self) -> dict[str, Any]:
        """Plain numbers: before and after adaptation, and the whole curve."""
        curves = self.scores.curves
        return {
            "clients": len(self.scores.clients),
            "missing": self.missing,
            "before": summarise({name: values[:, 0] for name, values in curves.items()}),
            "after": summarise({name: values[:, -1] for name, values in curves.items()}),
            "curve": [
                summarise({name: values[:, step] for name, values in curves.items()})
                for step in range(curves["loss"].shape[1])
            ],
        }


@dataclass(frozen=True)
class Scoring:
    """An evaluation under way."""

    messages: list[Message]
    """One per node, with the clients that it is asked to score."""
    asked: Mapping[int, list[int]]
    absent: Sequence[int]
    """Clients that are not connected."""


def score(
    roster: Roster,
    clients: Clients,
    params: ArrayRecord,
    experiment: Experiment,
    round: int,
    run: str = "",
) -> Scoring:
    """Ask for the scores of clients; with ``run``, they took part in it and use what they kept."""
    asked, text = roster.assign(clients), experiment.to_yaml()
    messages = [
        Message(
            pack_work(params, Work(text, round, hosted, run=run)),
            node,
            MessageType.EVALUATE,
            ttl=experiment.cohort.timeout,
        )
        for node, hosted in asked.items()
    ]
    present = {client for hosted in asked.values() for client in hosted}
    return Scoring(messages, asked, [c for c in clients.tolist() if c not in present])


def collect(messages: Iterable[Message], scoring: Scoring, experiment: Experiment) -> Report:
    """All usable scores in client order. Clients without are counted, and named in the log."""
    found: list[Scores] = []
    diverged: set[int] = set()
    silent, nodes = dict(scoring.asked), senders(scoring.messages)
    failures = dict.fromkeys(scoring.absent, "not connected")
    for message in messages:
        clients = silent.pop(sender(message, nodes), [])
        try:
            scores = _usable(_unpack(message, clients, experiment))
            diverged |= scores.failures.keys()
        except Exception as e:  # bytes from outside can fail to decode in any way
            scores = Scores([], {}, dict.fromkeys(clients, short(e)))
        failures |= scores.failures
        found += [scores] if scores.clients else []
    for clients in silent.values():
        failures |= dict.fromkeys(clients, "no reply in time")
    for client, reason in islice(failures.items(), NAMED):
        _log.warning("client %d could not be scored: %s", client, reason)
    clients = [client for scores in found for client in scores.clients]
    order = torch.tensor(clients, dtype=torch.int64).argsort()
    curves = {
        name: torch.cat([scores.curves[name] for scores in found])[order].double()
        for name in (found[0].curves if found else {})
    }
    return Report(Scores(sorted(clients), curves, failures), frozenset(diverged))


def _unpack(message: Message, asked: list[int], experiment: Experiment) -> Scores:
    if message.has_error():
        raise FedmetaError(message.error.reason)
    scores = unpack_scores(message.content)
    if sorted([*scores.clients, *scores.failures]) != sorted(asked):
        raise FedmetaError("the reply is not for the clients that were asked")
    names = score_names(experiment.data.objective)
    shape = (len(scores.clients), experiment.evaluation.steps + 1)
    fits = all(v.shape == shape and v.is_floating_point() for v in scores.curves.values())
    if scores.clients and (set(scores.curves) != names or not fits):
        raise FedmetaError(f"the reply has no curves of {sorted(names)} of shape {shape}")
    return scores


def _usable(scores: Scores) -> Scores:
    """Without clients whose scores are no scores: adaptation diverged, or the reply is bad."""
    if not scores.clients:
        return scores
    good = finite(scores.curves)
    if "accuracy" in scores.curves:
        accuracy = scores.curves["accuracy"]
        good &= ((accuracy >= 0) & (accuracy <= 1)).all(dim=1)
    good &= (scores.curves["loss"] >= 0).all(dim=1)
    kept = dict(zip(scores.clients, good.tolist(), strict=True))
    bad = {
        client: "its scores are NaN, infinite or out of range"
        for client, ok in kept.items()
        if not ok
    }
    return Scores(
        [client for client, ok in kept.items() if ok],
        select(scores.curves, good),
        scores.failures | bad,
    )


def summarise(scores: Metrics) -> dict[str, Any]:
    """Means over clients; for accuracy also the half-width of the 95 % interval and the worst decile."""
    row: dict[str, Any] = {name: float(values.mean()) for name, values in scores.items()}
    row["loss_ci95"] = interval(scores["loss"])
    if "accuracy" in scores:
        row["accuracy_ci95"] = interval(scores["accuracy"])
        row["accuracy_worst_decile"] = worst_decile(scores["accuracy"].tolist())
    return row


def interval(values: Tensor) -> float | None:
    """Half-width of the 95 % t interval of the mean of ``[n]`` clients or seeds; one has none."""
    n = len(values)
    if n < 2:
        return None
    return float(student_t.ppf(0.975, n - 1) * values.std(correction=1) / n**0.5)


def worst_decile(values: Sequence[float]) -> float:
    """Mean of the worst tenth of the clients, at least one."""
    worst = sorted(values)[: ceil(len(values) / 10)]
    return sum(worst) / len(worst)
