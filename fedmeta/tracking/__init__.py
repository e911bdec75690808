"""Recorders: who watches a run. One file each; none can stop it."""

from importlib.util import find_spec

from fedmeta.errors import ConfigError
from fedmeta.settings import TrackingSettings
from fedmeta.tracking.jsonl import JsonLines
from fedmeta.tracking.plots import Plots
from fedmeta.tracking.recorder import Recorder
from fedmeta.tracking.tensorboard import TensorBoard
from fedmeta.tracking.wandb import Wandb


def build_recorders(settings: TrackingSettings, *extra: Recorder) -> list[Recorder]:
    """The recorders of an experiment. Those that upload pictures come after those that draw them."""
    recorders: list[Recorder] = [JsonLines(), Plots(), *extra]
    if settings.wandb.mode != "disabled":
        _require("wandb", "tracking.wandb.mode")
        recorders.append(Wandb())
    if settings.tensorboard:
        _require("tensorboard", "tracking.tensorboard")
        recorders.append(TensorBoard())
    return recorders


def _require(package: str, key: str) -> None:
    if find_spec(package) is None:
        raise ConfigError(f"{key}: {package} is not installed; pip install 'fedmeta[server]'")
