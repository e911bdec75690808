"""The params that a federation begins with, and which of them travel."""

from pathlib import Path

import torch

from fedmeta.checkpoint import read_checkpoint
from fedmeta.config import Experiment
from fedmeta.errors import ConfigError, RunFolderError
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
    trained = read_params(Path(experiment.start)) if experiment.start else {}
    params = _begin_with(trained, params)
    params = _begin_with(trained, experiment.learner.init(loss, params, generator))
    stays = experiment.learner.private(params.keys())
    travels = {name: value for name, value in params.items() if name not in stays}
    if experiment.learner.keeps_state and not experiment.data.lasting:
        raise ConfigError(
            "learner.name: a client of this learner keeps params from round to round, so its classes "
            "must keep their numbers: data.labels must be client, got episode"
        )
    if not travels:
        raise ConfigError("learner: none of the params travels, so there is nothing to federate")
    return travels, {name: params[name] for name in stays}


def read_params(path: Path) -> Params:
    """The params in a file. Raises ConfigError where they cannot be read."""
    try:
        return read_checkpoint(path)[0]
    except RunFolderError as e:
        raise ConfigError(f"start: {e}") from e


def _begin_with(trained: Params, params: Params) -> Params:
    """The params, with those that were trained before in place of their own."""
    known = {name: value for name, value in trained.items() if name in params}
    if trained and not known:
        raise ConfigError(
            f"start: the file has none of the params {', '.join(params)}, it has {', '.join(trained)}"
        )
    for name, value in known.items():
        if value.shape != params[name].shape:
            raise ConfigError(
                f"start: {name} has shape {list(value.shape)} in the file, the experiment needs "
                f"{list(params[name].shape)}"
            )
    return params | {name: value.to(params[name]) for name, value in known.items()}


def _seed(experiment: Experiment, purpose: str) -> int:
    return int(bits(experiment.seed, purpose)) % 2**63
