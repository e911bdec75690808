"""Executors: who plays the nodes of a simulation."""

from fedmeta.packages import require
from fedmeta.settings import EngineSettings
from simulations.executors.local import LocalExecutor
from simulations.grid import Executor


def build_executor(settings: EngineSettings) -> Executor:
    """The executor of an experiment. Raises ConfigError where it cannot be had."""
    if settings.executor == "local":
        return LocalExecutor()
    require("engine.executor", "simulation", "ray")
    from simulations.executors.ray import (
        RayExecutor,
    )  # the one import of ray, where it is asked for

    return RayExecutor(settings)
