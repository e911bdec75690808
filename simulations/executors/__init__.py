"""Executors: who plays the nodes of a simulation."""

import logging
from pathlib import Path

from fedmeta.packages import require
from fedmeta.settings import EngineSettings
from simulations.executors.local import LocalExecutor
from simulations.grid import Executor

_log = logging.getLogger(__name__)


def build_executor(settings: EngineSettings, states: Path) -> Executor:
    """The executor of an experiment. Raises ConfigError where it cannot be had.

    ``states`` is the folder of what clients keep to themselves.
    """
    if settings.executor == "local":
        if settings.address is not None:
            _log.warning("engine.address is not used: engine.executor is local, not ray")
        return LocalExecutor(states)
    require("engine.executor", "simulation", "ray")
    from simulations.executors.ray import (
        RayExecutor,
    )  # the one import of ray, where it is asked for

    return RayExecutor(settings, states)
