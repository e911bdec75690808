"""The four-block convolutional net of the few-shot literature."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from fedmeta.errors import ConfigError


class _SpatialMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(-2, -1))


@dataclass(frozen=True)
class Conv4:
    """Conv-4 (Vinyals et al. 2016): four blocks of convolution, batch norm and ReLU, and a head.

    ``strided`` (Finn et al. 2017, Omniglot): stride 2 and a mean over the last map. ``pooled``
    (Vinyals et al. 2016): stride 1 and 2x2 max pooling. Batch norm is transductive: the statistics
    are those of the batch at hand, and nothing is remembered.
    """

    filters: int = 64
    downsampling: Literal["strided", "pooled"] = "strided"

    def __post_init__(self) -> None:
        if self.filters < 1:
            raise ConfigError(f"model.filters must be 1 or more, got {self.filters!r}")

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """A module from images ``[examples, channels, height, width]`` to ``[examples, outputs]``."""
        if len(input_shape) != 3:
            raise ConfigError(
                f"model.name: conv4 needs images [channels, height, width], got {input_shape}"
            )
        channels, height, width = input_shape
        if self.downsampling == "pooled" and min(height, width) < 16:
            raise ConfigError(
                f"model.downsampling: pooled needs images of 16x16 or more, got {height}x{width}"
            )
        blocks = [(channels, self.filters)] + [(self.filters, self.filters)] * 3
        layers = [(f"block{i}", self._block(*sizes)) for i, sizes in enumerate(blocks)]
        flat: nn.Module = _SpatialMean() if self.downsampling == "strided" else nn.Flatten()
        rest = 1 if self.downsampling == "strided" else (height // 16) * (width // 16)
        head = nn.Linear(self.filters * rest, outputs)
        return nn.Sequential(OrderedDict([*layers, ("flat", flat), ("head", head)]))

    def _block(self, channels: int, filters: int) -> nn.Module:
        stride = 2 if self.downsampling == "strided" else 1
        layers: list[tuple[str, nn.Module]] = [
            ("conv", nn.Conv2d(channels, filters, 3, stride=stride, padding=1)),
            ("norm", nn.BatchNorm2d(filters, track_running_stats=False)),
            ("relu", nn.ReLU()),
        ]
        if self.downsampling == "pooled":
            layers.insert(2, ("pool", nn.MaxPool2d(2)))  # before the ReLU: same values, less work
        return nn.Sequential(OrderedDict(layers))
