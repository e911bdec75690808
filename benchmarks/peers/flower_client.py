"""The ClientApp that a researcher writes for Flower: a plain loop, its data in memory already.

A module of its own, because workers import it.
"""

from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from benchmarks.peers import torch_loops
from benchmarks.work import Job, load
from fedmeta.types import Params

app = ClientApp()


@lru_cache(maxsize=1)
def opened(path: str) -> tuple[Job, list[torch_loops.Data], torch_loops.Client]:
    """Once per worker: the job, everybody's data, and what a client does."""
    torch.set_num_threads(1)
    job = load(Path(path))
    steps = torch_loops.gradient_steps(job.work.inner_lr, job.work.learner == "reptile")
    return job, torch_loops.data(job), torch_loops.client(job.work, steps)


@app.train()
def train(message: Message, context: Context) -> Message:
    """The client's params after a step along its delta; in ``identity`` those that it was sent."""
    arrays, settings = message.content["arrays"], message.content["config"]
    assert isinstance(arrays, ArrayRecord)
    assert isinstance(settings, ConfigRecord)
    if settings["learn"]:
        arrays = ArrayRecord(_learn(arrays, str(settings["job"]), context))
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def _learn(arrays: ArrayRecord, path: str, context: Context) -> Params:
    job, data, client = opened(path)
    params = {name: w.requires_grad_() for name, w in arrays.to_torch_state_dict().items()}
    delta = client(params, data[int(context.node_config["partition-id"])])
    return {name: (w - job.work.server_lr * delta[name]).detach() for name, w in params.items()}
