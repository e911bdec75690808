"""Asking nodes to score their unseen clients, and summing the answers up."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from flwr.app import ArrayRecord, Message, MessageType
from scipy.stats import t as student_t
from torch import Tensor

from fedmeta.data.federation import Clients
from fedmeta.errors import FedmetaError
from fedmeta.evaluation import Scores
from fedmeta.params import finite, select
from fedmeta.types import Metrics
from fedmeta.wire import Work, pack_work, unpack_scores
from strategies.roster import Roster

_log = logging.getLogger(__name__)


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


def collect(
    messages: Iterable[Message], asked: Mapping[int, list[int]], steps: int
) -> Report | None:
    """All usable scores in client order; nothing where there are none. Others are named in the log."""
    found: list[Scores] = []
    for message in messages:
        clients = asked.get(message.metadata.src_node_id, [])
        try:
            found.append(_usable(_unpack(message, clients, steps)))
        except Exception as e:  # bytes from outside can fail to decode in any way
            _log.warning("clients %s could not be scored: %s", clients[:3], e)
    found = [scores for scores in found if scores.clients]
    clients = [client for scores in found for client in scores.clients]
    if not clients:
        return None
    order = torch.tensor(clients).argsort()
    shared = set.intersection(*(set(scores.curves) for scores in found))
    curves = {
        name: torch.cat([scores.curves[name] for scores in found])[order].double()
        for name in sorted(shared)
    }
    return Report(Scores(sorted(clients), curves), sum(map(len, asked.values())) - len(clients))


def _unpack(message: Message, asked: list[int], steps: int) -> Scores:
    if message.has_error():
        raise FedmetaError(message.error.reason)
    scores = unpack_scores(message.content)
    if sorted([*scores.clients, *scores.failures]) != sorted(asked):
        raise FedmetaError("the reply is not for the clients that were asked")
    expected = (len(scores.clients), steps + 1)
    fits = "loss" in scores.curves and all(v.shape == expected for v in scores.curves.values())
    if scores.clients and not fits:
        raise FedmetaError(f"the reply has no curves of shape {expected}")
    return scores


def _usable(scores: Scores) -> Scores:
    """Without clients whose scores are not finite: adaptation diverged, or the reply is bad."""
    for client, reason in scores.failures.items():
        _log.warning("client %d could not be scored: %s", client, reason)
    if not scores.clients:
        return scores
    good = finite(scores.curves)
    bad = [c for c, ok in zip(scores.clients, good.tolist(), strict=True) if not ok]
    if bad:
        _log.warning("%d clients could not be scored, first %d: NaN or infinity", len(bad), bad[0])
    kept = [c for c, ok in zip(scores.clients, good.tolist(), strict=True) if ok]
    return Scores(kept, select(scores.curves, good))


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
