"""A node: answers the server's messages for the clients it hosts.

The same three functions serve a local process, a Ray worker, Flower's simulation and a device.
"""

from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import ConfigRecord, RecordDict

from fedmeta import __version__
from fedmeta.client_state import ClientStates
from fedmeta.cohort import Cohort, summed
from fedmeta.config import Experiment, parse
from fedmeta.data.federation import SPLITS
from fedmeta.errors import ConfigError
from fedmeta.wire import pack_replies, pack_scores, unpack_params, unpack_work


def answer(message_type: str, content: RecordDict, states: Path) -> RecordDict:
    """The reply to a ``query``, ``train`` or ``evaluate`` message.

    ``states`` is the node's folder for what its clients keep to themselves.
    """
    if message_type == "query":
        return _query(content)
    return {"train": _train, "evaluate": _evaluate}[message_type](content, states)


def _query(content: RecordDict) -> RecordDict:
    """Which clients this node hosts, as ``[start, stop]`` of consecutive ids for each split."""
    _, cohort = _open(unpack_work(content).experiment)
    spans = {split: cohort.federation.clients(split) for split in SPLITS}
    node = ConfigRecord({"version": __version__})
    for split, span in spans.items():
        node[split] = [span.start, span.stop]
    return RecordDict({"node": node})


def _train(content: RecordDict, states: Path) -> RecordDict:
    work = unpack_work(content)
    _, cohort = _open(work.experiment)
    params = unpack_params(content.array_records["params"])
    kept = ClientStates.of(states, work.run)
    replies = cohort.train(params, work.clients, work.round, kept)
    return pack_replies(summed(replies, work.weight_column) if work.weight_column else replies)


def _evaluate(content: RecordDict, states: Path) -> RecordDict:
    work = unpack_work(content)
    experiment, cohort = _open(work.experiment)
    params = unpack_params(content.array_records["params"])
    settings = experiment.evaluation
    kept = ClientStates.of(states, work.run) if work.run else None
    asked = (work.clients, settings.steps, settings.episodes, kept)
    return pack_scores(cohort.evaluate(params, *asked))


@lru_cache(maxsize=1)
def _open(experiment: str) -> tuple[Experiment, Cohort]:
    """Data and model stay resident between messages of one experiment."""
    if "${" in experiment:  # would read this node's environment for the server
        raise ConfigError("the experiment in a message must be resolved, got an interpolation")
    parsed = parse(experiment)
    torch.set_num_threads(parsed.engine.threads)
    return parsed, Cohort.open(parsed)
