"""Fully connected nets."""

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import Literal

from torch import nn

from fedmeta.errors import ConfigError


@dataclass(frozen=True)
class Mlp:
    """Fully connected net, as in Finn et al. 2017 for sinusoids and Omniglot.

    ``hidden: [40, 40]`` is the sinusoid net of Finn et al. 2017; ``[256, 128, 64, 64]`` with
    ``norm: true`` the one without convolutions that they use for Omniglot.
    """

    hidden: list[int] = field(default_factory=lambda: [40, 40])
    norm: bool = False
    """Transductive batch norm before every activation."""
    activation: Literal["relu", "tanh"] = "relu"

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise ConfigError(f"model.hidden must list sizes of 1 or more, got {self.hidden!r}")

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """A module from ``[examples, *input_shape]`` to ``[examples, outputs]``."""
        sizes = [prod(input_shape), *self.hidden]
        layers: list[tuple[str, nn.Module]] = [("flat", nn.Flatten())]
        for i, (inputs, units) in enumerate(pairwise(sizes)):
            layers.append((f"linear{i}", nn.Linear(inputs, units)))
            if self.norm:
                layers.append((f"norm{i}", nn.BatchNorm1d(units, track_running_stats=False)))
            layers.append((f"act{i}", nn.ReLU() if self.activation == "relu" else nn.Tanh()))
        return nn.Sequential(OrderedDict([*layers, ("head", nn.Linear(sizes[-1], outputs))]))
