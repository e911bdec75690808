"""Models: what is adapted. One file each; any ``nn.Module`` without running statistics will do."""

from typing import Protocol

from torch import nn

from fedmeta.models.conv4 import Conv4
from fedmeta.models.mlp import Mlp


class Model(Protocol):
    """A frozen dataclass of settings that builds a module."""

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """A module from ``[examples, *input_shape]`` to ``[examples, outputs]``."""


MODELS: dict[str, type[Model]] = {"conv4": Conv4, "mlp": Mlp}
