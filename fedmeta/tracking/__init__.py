"""Recorders: who watches a run. One file each; none can stop it."""

from fedmeta.packages import require
from fedmeta.settings import TrackingSettings
from fedmeta.tracking.jsonl import JsonLines
from fedmeta.tracking.plots import Plots
from fedmeta.tracking.recorder import Recorder
from fedmeta.tracking.tensorboard import TensorBoard
from fedmeta.tracking.wandb import Wandb


def build_recorders(
    settings: TrackingSettings, *extra: Recorder, pictures: bool = True
) -> list[Recorder]:
    """The recorders of an experiment. Those that upload pictures come after those that draw them."""
    recorders: list[Recorder] = [JsonLines(), *([Plots()] if pictures else []), *extra]
    if settings.wandb.mode != "disabled":
        require("tracking.wandb.mode", "server", "wandb")
        recorders.append(Wandb())
    if settings.tensorboard:
        require("tracking.tensorboard", "server", "tensorboard")
        recorders.append(TensorBoard())
    return recorders
