"""Attackers on the clients' side of the wire: the server sees their replies and checks them as any.

Whatever plays the nodes computes all clients honestly, and the attackers' deltas are put in place of
their own before the replies go on. Here the deltas of a whole round come by, so colluders see those of
all workers, and what they send does not depend on how many workers there are.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from flwr.app import Error, MessageType, RecordDict
from numpy.typing import NDArray

from fedmeta.attack import attackers
from fedmeta.config import Experiment
from fedmeta.data.federation import Clients
from fedmeta.params import concatenate, select
from fedmeta.replies import Replies, usable
from fedmeta.settings import AttackSettings
from fedmeta.types import Params
from fedmeta.wire import pack_replies, unpack_replies, unpack_runs, unpack_work
from simulations.attacks import inner_product, little_is_enough, noise, sign_flip
from simulations.grid import Executor

Mask = NDArray[np.bool_]
"""Which clients of a reply are attackers."""
_log = logging.getLogger(__name__)


def with_attacks(executor: Executor, experiment: Experiment) -> Executor:
    """The executor, with attackers among its clients where deltas are what is attacked."""
    settings = experiment.attack
    return Attacked(executor, settings, experiment.seed) if settings.on_deltas else executor


class Attacked:
    """An executor some of whose train clients are attackers."""

    def __init__(self, executor: Executor, settings: AttackSettings, seed: int) -> None:
        self._executor, self._settings, self._seed = executor, settings, seed
        self._attackers: Clients = np.empty(0, dtype=np.int64)

    @property
    def nodes(self) -> int:
        """How many nodes there are."""
        return self._executor.nodes

    def execute(
        self, message_type: str, work: Sequence[tuple[int, RecordDict]]
    ) -> list[RecordDict | Error]:
        """The answers, with what attackers send."""
        answers = self._executor.execute(message_type, work)
        if message_type == MessageType.QUERY:
            self._choose(answers)
        if message_type == MessageType.TRAIN:
            return self._attack(answers, unpack_work(work[0][1]).round)
        return answers

    def close(self) -> None:
        """Give back what was taken."""
        self._executor.close()

    def _choose(self, answers: Sequence[RecordDict | Error]) -> None:
        """Before it trains, the server asks who the clients are: then it is known who attacks."""
        hosted = [_train_clients(each) for each in answers if not isinstance(each, Error)]
        if hosted:
            clients = np.unique(np.concatenate(hosted))
            self._attackers = attackers(clients, self._settings, self._seed)
            told = (self._settings.name, len(self._attackers), len(clients))
            _log.info("attack %s: %d of the %d train clients are attackers", *told)

    def _attack(self, answers: list[RecordDict | Error], round: int) -> list[RecordDict | Error]:
        replies = {
            node: unpack_replies(answer)
            for node, answer in enumerate(answers)
            if not isinstance(answer, Error)
        }
        sent = attack(list(replies.values()), self._attackers, self._settings, self._seed, round)
        changed = {
            node: pack_replies(new)
            for (node, old), new in zip(replies.items(), sent, strict=True)
            if new is not old
        }
        return [changed.get(node, answer) for node, answer in enumerate(answers)]


def attack(
    replies: Sequence[Replies], who: Clients, settings: AttackSettings, seed: int, round: int
) -> list[Replies]:
    """The replies of all nodes of a round, with what attackers send in place of their deltas."""
    guilty = [np.isin(reply.clients, who) for reply in replies]
    if not any(each.any() for each in guilty):
        return list(replies)
    seen = _seen(replies, guilty)
    return [
        _replaced(reply, each, seen, settings, seed, round) if each.any() else reply
        for reply, each in zip(replies, guilty, strict=True)
    ]


def _seen(replies: Sequence[Replies], guilty: Sequence[Mask]) -> Params:
    """The deltas of the honest that can be averaged, in the order of their ids.

    In a round of attackers alone, it is what they themselves computed.
    """
    some = [(reply, each) for reply, each in zip(replies, guilty, strict=True) if reply.clients]
    clients = np.concatenate([reply.clients for reply, _ in some])
    good = np.concatenate([usable(reply).numpy() for reply, _ in some])
    honest = good & ~np.concatenate([each for _, each in some])
    kept = np.flatnonzero(honest if honest.any() else good)
    kept = kept[np.argsort(clients[kept])]
    return select(concatenate([reply.deltas for reply, _ in some]), torch.as_tensor(kept))


def _replaced(
    reply: Replies, guilty: Mask, seen: Params, settings: AttackSettings, seed: int, round: int
) -> Replies:
    rows = torch.as_tensor(np.flatnonzero(guilty))
    own, clients = select(reply.deltas, rows), np.asarray(reply.clients)[guilty]
    match settings.name:
        case "sign_flip":
            forged = sign_flip(own, settings.scale)
        case "noise":
            forged = noise(own, settings.scale, clients, seed, round)
        case "inner_product":
            forged = inner_product(seen, settings.scale)
        case _:
            forged = little_is_enough(seen, settings.scale)
    deltas = {name: value.clone() for name, value in reply.deltas.items()}
    for name, value in deltas.items():
        value[rows] = forged[name]
    return replace(reply, deltas=deltas)


def _train_clients(answer: RecordDict) -> Clients:
    """The ids that a node says it hosts."""
    runs = unpack_runs(answer.config_records["node"]["train"])
    return np.array([client for run in runs for client in run], dtype=np.int64)
