"""A benchmark's work in fedmeta's own terms."""

from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.work import Arrays, Job, Work, episodes
from fedmeta.client_function import Own, Train, TrainWeighted
from fedmeta.engines.loop import Loop
from fedmeta.engines.work import Work as EngineWork
from fedmeta.learners import LEARNERS, Learner
from fedmeta.models import MODELS
from fedmeta.objective import Objective, initial_params
from fedmeta.types import Batch, Episode, Params

CALLS = 10**9
"""Rounds that the search for an engine may reckon with: as many as it takes to look at all."""


def model_section(work: Work) -> dict[str, object]:
    """The model as a config has it."""
    if work.convolutional:
        return {"name": "conv4", "filters": 64, "downsampling": work.model}
    return {"name": "mlp", "hidden": list(work.hidden)}


def learner_section(work: Work) -> dict[str, object]:
    """The learner as a config has it."""
    section: dict[str, object] = {"name": work.learner}
    section |= {"inner_lr": work.inner_lr, "inner_steps": work.steps}
    if work.learner == "reptile":
        section["batch_size"] = work.support + work.query
    return section


def objective(work: Work) -> Objective:
    """Model and loss."""
    settings = model_section(work)
    model = MODELS[str(settings.pop("name"))](**settings)
    kind = "mean_squared_error" if work.model == "sines" else "cross_entropy"
    return Objective(model.build(work.input_shape, work.outputs), kind)  # type: ignore[arg-type]


def learner(work: Work) -> Learner:
    """Its settings."""
    settings = learner_section(work)
    return LEARNERS[str(settings.pop("name"))](**settings)


def engine_work(job: Job) -> EngineWork:
    """What an engine is given in a round, with the deltas added up where they are computed."""
    support, query = (
        Batch(torch.from_numpy(x)[:, None], torch.from_numpy(y)[:, None])
        for x, y in ((job.support_x, job.support_y), (job.query_x, job.query_y))
    )
    train = Train(learner(job.work), objective(job.work), 1.0, CALLS)
    own = Own(Episode(support, query), {}, torch.ones(job.work.clients))
    return EngineWork("total", TrainWeighted(train, "one"), tensors(job.params), own)


def tensors(arrays: Arrays) -> Params:
    """As torch has them."""
    return {name: torch.from_numpy(value) for name, value in arrays.items()}


def mean(total: Params, clients: int) -> Arrays:
    """The mean update of a sum."""
    return {name: (value / clients).float().numpy() for name, value in total.items()}


def make_job(work: Work) -> Job:
    """The numbers of a work, and the update that the loop finds in float64."""
    params = initial_params(objective(work).module, 0, torch.float32)
    start = {name: value.numpy() for name, value in params.items()}
    support, query = episodes(work)
    job = Job(work, start, *support, *query, expected={})
    total, _ = engine_work(job).exact().run(Loop())
    return replace(job, expected=mean(total, work.clients))


def flops_per_client(job: Job) -> int:
    """Additions and multiplications of matrix products and convolutions, in the loop."""
    with FlopCounterMode(display=False) as counter:
        engine_work(job).first(1).run(Loop())
    return int(counter.get_total_flops())
