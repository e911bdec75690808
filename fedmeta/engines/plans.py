"""Choices of engines, kept on this machine from one run to the next."""

import json
import logging
import os
import platform
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from fedmeta.checkpoint import write_atomically
from fedmeta.engines.blocks import ClientFunction
from fedmeta.errors import RunFolderError
from fedmeta.plugins import load_plugins
from fedmeta.settings import EngineSettings
from fedmeta.types import Params

_log = logging.getLogger(__name__)

UNTRIED = "not tried"


@dataclass(frozen=True)
class Plan:
    """An engine by name, and how it was found."""

    engine: str
    chunk: int
    speedup: float
    """Against the loop, per client."""
    others: dict[str, str]
    """What became of them."""

    def __str__(self) -> str:
        untried = [name for name, found in self.others.items() if found == UNTRIED]
        notes = [f"{name} {found}" for name, found in self.others.items() if found != UNTRIED]
        if untried:
            notes.append(f"too short a run to try {', '.join(untried)}")
        return (
            f"{self.engine}, {self.chunk} clients at once, {self.speedup:.1f}x the loop "
            f"({'; '.join(notes)})"
        )


def key_of(
    how: str,
    function: ClientFunction[Any, Any],
    params: Params,
    each: Any,
    settings: EngineSettings,
) -> str:
    """A digest of all that a choice depends on, but the number of clients."""
    shared = [(tuple(leaf.shape), str(leaf.dtype)) for leaf in tree_leaves(params)]
    leaves = tree_leaves(each)
    own = [(tuple(leaf.shape[1:]), str(leaf.dtype)) for leaf in leaves]
    bounds = (settings.chunk, settings.memory, torch.get_num_threads())
    parts = (how, function, shared, own, bounds, _machine(leaves[0].device), _code())
    return sha256(repr(parts).encode()).hexdigest()[:32]


def recall(key: str) -> Plan | None:
    """What was found before."""
    try:
        return Plan(**json.loads(_file(key).read_text()))
    except (OSError, ValueError, TypeError, RuntimeError):
        return None


def remember(key: str, plan: Plan) -> None:
    """For the next run. Of several workers the first is heard; a full disk is no reason to stop."""
    try:
        if recall(key) is None:
            write_atomically(_file(key), json.dumps(asdict(plan)).encode())
    except (RunFolderError, RuntimeError) as e:
        _log.warning("the choice of the engine is not remembered: %s", e)


def _file(key: str) -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "fedmeta" / "engines" / f"{key}.json"


def _machine(device: torch.device) -> tuple[str, ...]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return platform.node(), str(device), name, torch.__version__


@lru_cache(maxsize=1)
def _code() -> str:
    """A digest of this package and of plugins: another version may be faster elsewhere, or wrong."""
    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    files += [Path(plugin.__file__) for plugin in load_plugins() if plugin.__file__]
    sources = b"".join(path.read_bytes() for path in files)
    return sha256(sources).hexdigest()
