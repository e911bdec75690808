"""A node: answers the server's messages for the clients it hosts.

The same three functions serve a local process, a Ray worker, Flower's simulation and a device.
"""

from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from os import cpu_count

import numpy as np
import torch
from flwr.app import ConfigRecord, RecordDict

from fedmeta import __version__
from fedmeta.client_state import ClientStates
from fedmeta.cohort import Cohort
from fedmeta.compression import compress, grow
from fedmeta.config import Experiment, parse
from fedmeta.data.federation import SPLITS
from fedmeta.engines.memory import keep_freed_memory
from fedmeta.host import Host, permit, within
from fedmeta.packing import unpack_params
from fedmeta.types import Params
from fedmeta.wire import Work, pack_replies, pack_roster, pack_scores, unpack_work


def answer(message_type: str, content: RecordDict, host: Host) -> RecordDict:
    """The reply to a ``query``, ``train`` or ``evaluate`` message.

    Raises RefusedError where it asks for more than the host's owner allows.
    """
    work = unpack_work(content)
    if message_type != "query":
        import_module("torch._dynamo")  # else at the first gradient, where an alarm may cut it
    with within(host.limits.max_seconds):
        experiment, cohort = _open(work.experiment, host)
        each = message_type == "train" and not work.weight_column
        permit(host.limits, experiment, cohort, len(work.clients) if each else 1)
        if message_type == "query":
            return _query(cohort, host, experiment.cohort.sampling == "size")
        packed = unpack_params(content.array_records["params"])
        params = grow(packed, experiment.wire.params, experiment.engine.torch_dtype)
        _check(work, params, cohort)
        if message_type == "train":
            cohort = replace(cohort, measure=work.measure, temperature=work.temperature)
            kept = ClientStates.of(host.states, work.run)
            replies = cohort.train(params, work.clients, work.round, kept, work.weight_column)
            return pack_replies(compress(replies, experiment.wire, kept, work.round))
        settings = experiment.evaluation
        asked = (work.clients, settings.steps, settings.episodes)
        states = ClientStates.of(host.states, work.run) if work.run else None
        return pack_scores(cohort.evaluate(params, *asked, states))


def _query(cohort: Cohort, host: Host, sized: bool) -> RecordDict:
    """Which clients this node hosts, how much they have where that is asked, what its owner allows."""
    hosted = {split: cohort.federation.clients(split) for split in SPLITS}
    train = np.array(hosted["train"])
    sizes = cohort.federation.examples(train).tolist() if sized and len(train) else []
    return RecordDict(
        {
            "node": pack_roster(__version__, hosted, own=host.shard is not None),
            "limits": ConfigRecord(host.limits.said()),
            "sizes": ConfigRecord({"train": sizes}),
        }
    )


def _check(work: Work, params: Params, cohort: Cohort) -> None:
    """Refuse work that no server of this experiment would send."""
    hosted = [cohort.federation.clients(split) for split in SPLITS]
    for client in work.clients:
        if not any(client in ids for ids in hosted):
            raise ValueError(f"client {client} is not hosted here")
    if len(set(work.clients)) < len(work.clients):
        raise ValueError("a client is named more than once")  # limits are those of a client
    if work.round < 0:
        raise ValueError(f"the round must be 0 or more, got {work.round}")
    shapes = {name: value.shape for name, value in params.items()}
    if shapes != cohort.shapes:
        wrong = sorted(
            name
            for name in shapes.keys() | cohort.shapes.keys()
            if shapes.get(name) != cohort.shapes.get(name)
        )
        raise ValueError(f"the params do not fit the experiment: {', '.join(wrong)}")


@lru_cache(maxsize=1)
def read_experiment(text: str) -> Experiment:
    """The experiment in a message. Raises ConfigError."""
    return parse(text, source="the experiment in a message", resolved=True)


@lru_cache(maxsize=1)
def _open(experiment: str, host: Host) -> tuple[Experiment, Cohort]:
    """Data and model stay resident between messages of one experiment."""
    parsed = read_experiment(experiment)
    torch.set_num_threads(min(parsed.engine.threads, cpu_count() or 1))
    keep_freed_memory()
    return parsed, Cohort.open(parsed, host.trusted, host.shard, watched=host.log is not None)
