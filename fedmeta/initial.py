"""The params that a federation begins with, and which of them travel."""

from pathlib import Path

import torch
from torch import Tensor

from fedmeta.adapters import own
from fedmeta.checkpoint import read_checkpoint
from fedmeta.config import Experiment
from fedmeta.errors import ConfigError, RunFolderError
from fedmeta.objective import Objective, initial_params
from fedmeta.seeding import bits
from fedmeta.types import Params


def objective(experiment: Experiment) -> Objective:
    """The model with its loss. Needs no data, so a server can build it.

    Batch norm never uses running statistics here, so it keeps none, which no vectorised call could do.
    """
    data = experiment.data
    with torch.random.fork_rng(
        devices=[]
    ):  # params that the module draws itself are the same everywhere
        torch.manual_seed(_seed(experiment, "init"))
        module = experiment.model.build(data.input_shape, data.outputs)
    torch.func.replace_all_batch_norm_modules_(module)
    return Objective(module, data.objective)


def first_params(experiment: Experiment, trusted: bool = True) -> tuple[Params, Params]:
    """What travels, and what stays on every node: the same on all machines.

    Both are a function of the experiment, and of the file at ``start`` where there is one; that is
    read only where it is ``trusted``. Raises ConfigError where learner and model do not fit.
    """
    loss, dtype = objective(experiment), experiment.engine.torch_dtype
    params = initial_params(loss.module, _seed(experiment, "init"), dtype)
    trained = read_params(Path(experiment.start)) if experiment.start and trusted else {}
    params = _begin_with(trained, params)
    generator = torch.Generator().manual_seed(_seed(experiment, "learner"))
    every = experiment.learner.init(loss, params, generator)
    every |= {n: trained[n].to(value) for n, value in every.items() if _fits(trained, n, value)}
    if experiment.learner.keeps_state and not experiment.data.lasting:
        raise ConfigError(
            "learner.name: a client of this learner keeps params from round to round, so its classes "
            "must keep their numbers: data.labels must be client, got episode"
        )
    stays = experiment.learner.private(every.keys())
    travels = {name: value for name, value in every.items() if name not in stays}
    if not travels:
        raise ConfigError("learner: none of the params travels, so there is nothing to federate")
    if stays and experiment.start and not trusted:
        raise ConfigError(
            "start: some params stay on the node, and this one reads no file that a server names"
        )
    return travels, {name: value for name, value in every.items() if name in stays}


def read_params(path: Path) -> Params:
    """The params in a file. Raises ConfigError where they cannot be read."""
    try:
        return read_checkpoint(path)[0]
    except RunFolderError as e:
        raise ConfigError(f"start: {e}") from e


def _begin_with(trained: Params, params: Params) -> Params:
    """The model's params as they were trained before; a file of another model is refused."""
    if not trained:
        return params
    if odd := sorted(params.keys() ^ own(trained).keys()):
        raise ConfigError(f"start: only one of the file and the model has {', '.join(odd)}")
    for name, value in params.items():
        if not _fits(trained, name, value):
            raise ConfigError(
                f"start: {name} has shape {list(trained[name].shape)} in the file, the model has "
                f"{list(value.shape)}"
            )
    return {name: trained[name].to(value) for name, value in params.items()}


def _fits(trained: Params, name: str, value: Tensor) -> bool:
    return name in trained and trained[name].shape == value.shape


def _seed(experiment: Experiment, purpose: str) -> int:
    return int(bits(experiment.seed, purpose)) % 2**63
