"""Components of one's own: modules that are imported before an experiment is read.

Who starts a process names them, never a config: what a node imports is its owner's choice.
"""

import os
import sys
from importlib import import_module
from types import ModuleType

from fedmeta.errors import ConfigError

VARIABLE = "FEDMETA_PLUGINS"


def load_plugins() -> list[ModuleType]:
    """The modules in ``FEDMETA_PLUGINS``, which add to tables such as ``MODELS``. Raises ConfigError."""
    return [_imported(name) for name in os.environ.get(VARIABLE, "").replace(",", " ").split()]


def _imported(name: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    try:
        return import_module(name)
    except Exception as e:
        raise ConfigError(
            f"{VARIABLE}: cannot import {name!r} ({type(e).__name__}: {e}); "
            "its folder must be on PYTHONPATH"
        ) from e
