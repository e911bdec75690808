"""Asking nodes to score their unseen clients, and summing the answers up."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from flwr.app import ArrayRecord, Message, MessageType
from scipy.stats import t as student_t
from torch import Tensor

from fedmeta.data.federation import Clients
from fedmeta.evaluation import Scores
from fedmeta.types import Metrics
from fedmeta.wire import Work, pack_work, unpack_scores
from strategies.roster import Roster


@dataclass(frozen=True)
class Report:
    """Scores of all clients that answered, in client order, and how many did not."""

    scores: Scores
    missing: int

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


def evaluation_messages(
    roster: Roster, params: ArrayRecord, clients: Clients, experiment: str, round: int
) -> list[Message]:
    """One message per node that hosts some of the clients."""
    return [
        Message(pack_work(params, Work(experiment, round, hosted)), node, MessageType.EVALUATE)
        for node, hosted in roster.assign(clients).items()
    ]


def collect(messages: Iterable[Message], asked: int) -> Report | None:
    """All scores in client order; nothing where nobody answered."""
    found = [unpack_scores(m.content) for m in messages if not m.has_error()]
    if not found:
        return None
    clients = [client for scores in found for client in scores.clients]
    order = torch.tensor(clients).argsort()
    curves = {
        name: torch.cat([scores.curves[name] for scores in found])[order].double()
        for name in found[0].curves
    }
    return Report(Scores(sorted(clients), curves), asked - len(clients))


def summarise(scores: Metrics) -> dict[str, Any]:
    """Means over clients; for accuracy also the half-width of the 95 % interval and the worst decile."""
    row: dict[str, Any] = {name: float(values.mean()) for name, values in scores.items()}
    row["loss_ci95"] = interval(scores["loss"])
    if "accuracy" in scores:
        row["accuracy_ci95"] = interval(scores["accuracy"])
        row["accuracy_worst_decile"] = worst_decile(scores["accuracy"].tolist())
    return row


def interval(values: Tensor) -> float | None:
    """Half-width of the 95 % t interval of the mean over clients; one client has none."""
    n = len(values)
    if n < 2:
        return None
    return float(student_t.ppf(0.975, n - 1) * values.std(correction=1) / n**0.5)


def worst_decile(values: Sequence[float]) -> float:
    """Mean of the worst tenth of the clients, at least one."""
    worst = sorted(values)[: ceil(len(values) / 10)]
    return sum(worst) / len(worst)
