"""The params that a federation begins with, and which of them travel."""

import torch

from fedmeta.config import Experiment
from fedmeta.errors import ConfigError
from fedmeta.objective import Objective, initial_params
from fedmeta.seeding import bits
from fedmeta.types import Params


def objective(experiment: Experiment) -> Objective:
    """The model with its loss. Needs no data, so a server can build it."""
    data = experiment.data
    return Objective(experiment.model.build(data.input_shape, data.outputs), data.objective)


def first_params(experiment: Experiment) -> tuple[Params, Params]:
    """What travels, and what stays on every node: the same on all machines.

    Both are a function of the experiment. Raises ConfigError where learner and model do not fit.
    """
    loss, dtype = objective(experiment), experiment.engine.torch_dtype
    params = initial_params(loss.module, _seed(experiment, "init"), dtype)
    generator = torch.Generator().manual_seed(_seed(experiment, "learner"))
    params = experiment.learner.init(loss, params, generator)
    stays = experiment.learner.private(params.keys())
    travels = {name: value for name, value in params.items() if name not in stays}
    if not travels:
        raise ConfigError("learner: none of the params travels, so there is nothing to federate")
    return travels, {name: params[name] for name in stays}


def _seed(experiment: Experiment, purpose: str) -> int:
    return int(bits(experiment.seed, purpose)) % 2**63
