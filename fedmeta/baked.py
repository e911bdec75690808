"""A model that treats each example alone: its batch norms keep the statistics of one batch for good."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedmeta.adapters import merged
from fedmeta.errors import ConfigError
from fedmeta.objective import Objective
from fedmeta.types import Params

NEAR = 1e-3
"""Part of the greatest output by which an example's may differ with who is beside it: rounding."""


class _Named(nn.Module):
    """A classifier whose first outputs alone have names."""

    def __init__(self, model: nn.Module, classes: int) -> None:
        super().__init__()
        self.model, self.classes = model, classes

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[examples, classes]``."""
        logits: Tensor = self.model(x)
        return logits[:, : self.classes]


def named(module: nn.Module, names: int, outputs: int) -> nn.Module:
    """The module, less the outputs of a classifier that have no name."""
    return _Named(module, names) if 0 < names < outputs else module


def filled(module: nn.Module, params: Params) -> nn.Module:
    """A copy of the module that holds these params, adapters worked in, for inference.

    Its batch norms go on taking the statistics of the batch at hand.
    """
    own = merged(params)
    copy = deepcopy(module).to(next(iter(own.values())).dtype).eval()
    copy.load_state_dict(own, strict=False)
    return copy


def baked(objective: Objective, params: Params, inputs: Tensor) -> nn.Module:
    """``filled``, where each batch norm has the mean and the variance that ``inputs`` have there.

    The variance is the biased one, that batch norm divides by: the inputs themselves come out as they
    do in their batch. Another example comes out as if beside so many copies of the inputs that it
    leaves their statistics as they are. ``Objective.scores(beside=inputs)`` sees it beside one copy,
    so it counts a little itself; transductive evaluation sees it with the other queries, and without
    the support. Raises ConfigError for a model of which that cannot be made.
    """
    module = filled(objective.module, params)
    hooks = [norm.register_forward_pre_hook(_keep) for norm in batch_norms(module).values()]
    with torch.no_grad():
        together = module(inputs)
        for hook in hooks:
            hook.remove()
        alone = module(inputs[:1])
    if (alone - together[:1]).abs().max() > NEAR * together.abs().max().clamp(min=1):
        raise ConfigError(
            "model: what it makes of an example depends on those beside it, though its batch norms "
            "are fixed; it cannot predict one alone"
        )
    return module


def batch_norms(module: nn.Module) -> dict[str, _BatchNorm]:
    """Those in the module by name."""
    return {name: part for name, part in module.named_modules() if isinstance(part, _BatchNorm)}


def restored(module: nn.Module, state: Params, dtype: torch.dtype) -> nn.Module:
    """The module that ``baked`` gave, from a new one and its state dict. Raises ValueError."""
    module = module.to(dtype).eval()
    for norm in batch_norms(module).values():
        for part in ("running_mean", "running_var"):
            setattr(norm, part, torch.zeros(norm.num_features, dtype=dtype))
    expected, found = _form(module.state_dict()), _form(state)
    if expected != found:
        odd = sorted(n for n in expected | found if expected.get(n) != found.get(n))
        raise ValueError(f"the model is another in {', '.join(odd[:3])}")
    module.load_state_dict(state)
    return module


def _form(state: Params) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (value.shape, value.dtype) for name, value in state.items()}


def _keep(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
    assert isinstance(norm, _BatchNorm)
    if norm.running_mean is not None:
        raise ConfigError("model: a batch norm is used twice; it has one set of statistics to keep")
    x: Tensor = inputs[0]
    across = [axis for axis in range(x.ndim) if axis != 1]
    norm.running_mean, norm.running_var = x.mean(across), x.var(across, correction=0)
