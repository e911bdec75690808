"""What the owner of a device does after the training: adapt what was learned to the own shard."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmeta.baked import baked, batch_norms, named
from fedmeta.config import Experiment
from fedmeta.data.classes import ClassEpisodes
from fedmeta.data.shard import Shard, as_inputs, fit
from fedmeta.errors import ConfigError, DataError
from fedmeta.initial import objective
from fedmeta.learners.inner_loop import last
from fedmeta.objective import Kind, Objective
from fedmeta.personal import Personal
from fedmeta.seeding import choose
from fedmeta.types import Batch, Metrics, Params


@dataclass(frozen=True)
class Adaptation:
    """A personal model, and what adapting was good for."""

    personal: Personal
    examples: int
    """That it was adapted to."""
    held_out: int
    """Examples kept out of it, of which the scores are; where there are none, of those adapted to."""
    before: Metrics
    """Of the initialisation, its batch norms with the statistics of the examples adapted to."""
    after: Metrics
    """Of the personal model."""


def adapt(
    experiment: Experiment,
    params: Params,
    shard: Shard,
    steps: int | None = None,
    hold_out: int = 0,
) -> Adaptation:
    """Adapt as an unseen client does, to all of the shard but what is held out; on the CPU.

    ``hold_out`` examples of each class, or rows, are kept out of it; without ``steps`` it takes
    ``evaluation.steps``. Raises DataError where the shard does not fit.
    """
    steps = experiment.evaluation.steps if steps is None else steps
    for option, value in (("--steps", steps), ("--hold-out", hold_out)):
        if value < 0:
            raise ConfigError(f"{option} must be 0 or more, got {value}")
    loss = objective(experiment)
    _check(shard, experiment, hold_out, 2 if batch_norms(loss.module) else 1)
    support, query = divide(shard, hold_out, experiment.seed, experiment.engine.torch_dtype)
    path = experiment.learner.trajectory(loss, params, support, steps)
    first = next(path)
    modules = [baked(loss, now, support.x) for now in (first, last([first, *path]))]
    judged = query if hold_out else support
    before, after = (_scores(module, loss.kind, shard, experiment, judged) for module in modules)
    state = {name: value.detach() for name, value in modules[1].state_dict().items()}
    if not all(bool(value.isfinite().all()) for value in [*state.values(), *after.values()]):
        raise DataError(f"adapting diverged within {steps} steps; take fewer --steps")
    hashed = str(shard.header()["sha256"])
    personal = Personal(experiment.to_yaml(), state, shard.classes, steps, shard.client, hashed)
    return Adaptation(personal, len(support.y), len(query.y), before, after)


def divide(shard: Shard, hold_out: int, seed: int, dtype: torch.dtype) -> tuple[Batch, Batch]:
    """The examples to adapt to, and those held out, as the model sees them.

    Which they are is random, the same in every call; classes come in turn, as in an episode.
    """
    orders, start = [], 0
    for number, count in enumerate(shard.counts):
        orders.append(start + choose(count, count, seed, "adapt", shard.client, number))
        start += count
    x = as_inputs(shard.x, dtype)
    y = shard.y if shard.classes else shard.y.to(dtype)
    support = _in_turn([order[hold_out:] for order in orders])
    query = _in_turn([order[:hold_out] for order in orders])
    return Batch(x[support], y[support]), Batch(x[query], y[query])


def _in_turn(orders: Sequence[NDArray[np.int64]]) -> Tensor:
    turns = zip_longest(*(order.tolist() for order in orders))
    return torch.tensor([i for turn in turns for i in turn if i is not None], dtype=torch.int64)


def _scores(
    module: nn.Module, kind: Kind, shard: Shard, experiment: Experiment, judged: Batch
) -> Metrics:
    module = named(module, len(shard.classes), experiment.data.outputs)
    with torch.no_grad():
        return Objective(module, kind).scores({}, judged)


def _check(shard: Shard, experiment: Experiment, hold_out: int, least: int) -> None:
    data = experiment.data
    fit([shard], data, experiment.sections["data"]["name"])
    if isinstance(data, ClassEpisodes) and data.labels == "class":
        raise ConfigError(
            "data.labels: a personal model has the classes of its shard and no others, so it must be "
            "episode or client, got class"
        )
    if not (shard.x.isfinite().all() and shard.y.isfinite().all()):
        raise DataError(f"the shard of client {shard.client} has numbers that are not finite")
    if shard.classes and not 2 <= (have := len(shard.classes)) <= data.outputs:
        raise DataError(
            f"the shard of client {shard.client} has {have} classes, the model of the experiment "
            f"tells 2 to {data.outputs} apart (data.ways)"
        )
    left = min(shard.counts) - hold_out
    if left < 1 or left * len(shard.counts) < least:
        of = "of a class" if shard.classes else "in all"
        raise DataError(
            f"the shard of client {shard.client} has {min(shard.counts)} examples {of}; --hold-out "
            f"{hold_out} leaves {max(left, 0)}, adapting needs {max(1, least // len(shard.counts))}"
        )
