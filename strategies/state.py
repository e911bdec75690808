"""All that a server remembers between rounds, and its way to disk and back."""

import json
from collections import defaultdict
from dataclasses import MISSING, asdict, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor

from fedmeta.checkpoint import read_checkpoint, write_checkpoint
from fedmeta.config import Experiment
from fedmeta.errors import RunFolderError
from fedmeta.types import Params
from strategies.best import Best
from strategies.gathered import Memory
from strategies.optimizers import State
from strategies.tally import Tally

CONFIG, CHECKPOINT, STATES = "config.yaml", "checkpoint/state.safetensors", "clients"
PARAMS = "params.safetensors"
"""The params that the test clients saw."""


@dataclass(frozen=True)
class ServerState:
    """The server after a round."""

    round: int
    params: Params
    optimizer: State = field(default_factory=dict)
    best: Best | None = None
    tally: Tally = field(default_factory=Tally)
    run: str = ""
    """What clients keep their own state under, hexadecimal."""
    memory: Memory = field(default_factory=dict)
    """What the rules remember besides the optimiser's state."""


def selected(state: ServerState, experiment: Experiment) -> tuple[int, Params]:
    """The round and the params that test clients see: best on validation clients, or the last."""
    if experiment.evaluation.select == "best" and state.best is not None:
        return state.best.round, state.best.params
    return state.round, state.params


def protocol(experiment: Experiment) -> str:
    """What decides a validation score besides the params."""
    settings = experiment.evaluation
    asked = f"{settings.clients} clients, {settings.episodes} episodes, {settings.steps} steps"
    batch = "transductive" if settings.transductive else "each query alone"
    return f"{asked}, {batch}, {experiment.sections['data'].get('evaluation')}"


def fingerprint(experiment: Experiment, seed: bool = True) -> str:
    """A hash of what decides the numbers; how long, where and under whose eyes a run goes does not.

    Settings at their default are left out, so that a new one refuses no old checkpoint.
    """
    parts = ("data", "model", "learner", "strategy", "cohort")
    chosen: dict[str, Any] = {key: non_default(getattr(experiment, key)) for key in parts}
    names = {key: experiment.sections[key].get("name") for key in parts}
    for key in ("timeout", "wait", "measure"):
        chosen["cohort"].pop(key, None)
    for part in ("wire", "devices", "attack"):
        if settings := non_default(getattr(experiment, part)):
            chosen[part] = settings
    chosen["data"] = {k: v for k, v in chosen["data"].items() if k not in ("root", "evaluation")}
    chosen |= {"names": names, "start": experiment.start, "dtype": experiment.engine.dtype}
    chosen["seed"] = experiment.seed if seed else None
    return sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()


def non_default(component: Any) -> dict[str, Any]:
    """The settings of a component that are not at their default."""
    settings = asdict(component)
    for each in fields(component):
        default = each.default if each.default_factory is MISSING else each.default_factory()
        if default is not MISSING and getattr(component, each.name) == default:
            del settings[each.name]
    return settings


def save_state(folder: Path, state: ServerState, experiment: Experiment) -> None:
    """Write the checkpoint of a run folder."""
    tensors: dict[str, Tensor] = {f"params/{k}": v for k, v in state.params.items()}
    for name, memory in state.optimizer.items():
        tensors |= {f"optimizer/{name}/{key}": value for key, value in memory.items()}
    tensors |= {f"memory/{name}": value for name, value in state.memory.items()}
    best: dict[str, Any] | None = None
    if state.best is not None:
        tensors |= {f"best/{name}": value for name, value in state.best.params.items()}
        tensors |= {f"scored/{name}": getattr(state.best, name) for name in ("clients", "scores")}
        best = {key: getattr(state.best, key) for key in ("round", "protocol")}
    header = {
        "round": state.round,
        "best": best,
        "tally": asdict(state.tally),
        "run": state.run,
        "fingerprint": fingerprint(experiment),
    }
    write_checkpoint(folder / CHECKPOINT, tensors, header)


def load_state(folder: Path, experiment: Experiment) -> ServerState:
    """Read the checkpoint of a run folder; it must be of this experiment."""
    tensors, header = read_checkpoint(folder / CHECKPOINT)
    if header.get("fingerprint") != fingerprint(experiment):
        raise RunFolderError(
            f"{folder / CHECKPOINT}: is of another config; start, data, model, learner, strategy, "
            "cohort, wire, devices, attack, seed and engine.dtype must be those the run began with"
        )
    optimizer: State = defaultdict(dict)
    for address, value in _group(tensors, "optimizer/").items():
        name, key = address.rsplit("/", 1)
        optimizer[name][key] = value
    best, scored = header["best"], _group(tensors, "scored/")
    if best and not scored:
        raise RunFolderError(f"{folder / CHECKPOINT}: was written by an older version of fedmeta")
    if best:
        liked = _group(tensors, "best/")
        best = Best(best["round"], scored["clients"], scored["scores"], best["protocol"], liked)
    return ServerState(
        header["round"],
        _group(tensors, "params/"),
        dict(optimizer),
        best,
        Tally(**header["tally"]),
        header["run"],
        _group(tensors, "memory/"),
    )


def _group(tensors: dict[str, Tensor], prefix: str) -> Params:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
