"""A node: answers the server's messages for the clients it hosts.

The same three functions serve a local process, a Ray worker, Flower's simulation and a device.
"""

from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import ConfigRecord, RecordDict

from fedmeta import __version__
from fedmeta.client_state import ClientStates
from fedmeta.cohort import Cohort
from fedmeta.config import Experiment, parse
from fedmeta.data.federation import SPLITS
from fedmeta.engines.memory import keep_freed_memory
from fedmeta.types import Params
from fedmeta.wire import Work, pack_replies, pack_scores, unpack_params, unpack_work


def answer(
    message_type: str, content: RecordDict, states: Path, trusted: bool = False
) -> RecordDict:
    """The reply to a ``query``, ``train`` or ``evaluate`` message.

    ``states`` is the node's folder for what its clients keep to themselves. A server that is not
    ``trusted`` as this process is may not name a file that the node reads params from.
    """
    work = unpack_work(content)
    experiment, cohort = _open(work.experiment, trusted)
    if message_type == "query":
        return _query(cohort)
    params = unpack_params(content.array_records["params"])
    _check(work, params, cohort)
    if message_type == "train":
        return _train(work, params, cohort, states)
    settings = experiment.evaluation
    kept = ClientStates.of(states, work.run) if work.run else None
    asked = (work.clients, settings.steps, settings.episodes, kept)
    return pack_scores(cohort.evaluate(params, *asked))


def _query(cohort: Cohort) -> RecordDict:
    """Which clients this node hosts, as ``[start, stop]`` of consecutive ids for each split."""
    spans = {split: cohort.federation.clients(split) for split in SPLITS}
    node = ConfigRecord({"version": __version__})
    for split, span in spans.items():
        node[split] = [span.start, span.stop]
    return RecordDict({"node": node})


def _train(work: Work, params: Params, cohort: Cohort, states: Path) -> RecordDict:
    kept = ClientStates.of(states, work.run)
    return pack_replies(cohort.train(params, work.clients, work.round, kept, work.weight_column))


def _check(work: Work, params: Params, cohort: Cohort) -> None:
    """Refuse work that no server of this experiment would send."""
    hosted = [cohort.federation.clients(split) for split in SPLITS]
    for client in work.clients:
        if not any(client in span for span in hosted):
            raise ValueError(f"client {client} is not hosted here")
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
def _open(experiment: str, trusted: bool) -> tuple[Experiment, Cohort]:
    """Data and model stay resident between messages of one experiment."""
    parsed = parse(experiment, source="the experiment in a message", resolved=True)
    torch.set_num_threads(parsed.engine.threads)
    keep_freed_memory()
    return parsed, Cohort.open(parsed, trusted)
