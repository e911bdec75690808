"""A model of one's own, adapted to one shard, as a file that needs no other and holds no example."""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedmeta.baked import named, restored
from fedmeta.checkpoint import read_checkpoint, write_checkpoint
from fedmeta.config import Experiment, parse
from fedmeta.data.shard import as_inputs
from fedmeta.errors import ConfigError, RunFolderError
from fedmeta.initial import objective
from fedmeta.types import Params

FORMAT = "fedmeta-personal-1"


@dataclass(frozen=True)
class Personal:
    """A model adapted to one client."""

    config: str
    """The experiment, resolved."""
    state: Params
    """Of the module: its params, adapters worked in, and the statistics that its batch norms keep."""
    classes: tuple[str, ...]
    """Names of the outputs, in order; none for values."""
    steps: int
    """That it was adapted for."""
    client: int
    shard: str
    """The hash of the shard that it was adapted to."""

    @property
    def experiment(self) -> Experiment:
        """The experiment; its strategy is a plain mapping."""
        return parse(self.config, source="its config", resolved=True)

    def module(self) -> nn.Module:
        """From inputs ``[examples, ...]`` to values, or logits of the classes that have names.

        Raises ValueError where the state is not the model's.
        """
        experiment = self.experiment
        dtype = experiment.engine.torch_dtype
        module = restored(objective(experiment).module, self.state, dtype)
        return named(module, len(self.classes), experiment.data.outputs)

    def predict(self, x: Tensor) -> Tensor:
        """Probabilities ``[examples, classes]``, or values ``[examples, outputs]``."""
        with torch.no_grad():
            output: Tensor = self.module()(as_inputs(x, self.experiment.engine.torch_dtype))
        return output.softmax(dim=1) if self.classes else output

    def header(self) -> dict[str, Any]:
        """What the file says of itself, the hash of all the rest included."""
        said: dict[str, Any] = {
            "format": FORMAT,
            "config": self.config,
            "classes": list(self.classes),
            "steps": self.steps,
            "client": self.client,
            "shard": self.shard,
        }
        return said | {"sha256": _hash(said, self.state)}


def write_personal(personal: Personal, path: Path) -> None:
    """Write the file whole, or not at all. Raises RunFolderError."""
    write_checkpoint(path, personal.state, personal.header(), private=True)


def read_personal(path: Path) -> Personal:
    """The model in a file. Raises RunFolderError where it is none, or not as it was written."""
    if not path.is_file():
        raise RunFolderError(f"{path}: there is no such personal model")
    try:
        state, header = read_checkpoint(path)
        if header.get("format") != FORMAT:
            raise ValueError("that is what `fedmeta adapt` writes")
        said = {key: value for key, value in header.items() if key != "sha256"}
        if header["sha256"] != _hash(said, state):
            raise ValueError("its contents are not those that its hash was taken of")
        personal = Personal(
            config=str(header["config"]),
            state=state,
            classes=tuple(map(str, header["classes"])),
            steps=int(header["steps"]),
            client=int(header["client"]),
            shard=str(header["shard"]),
        )
        _check(personal)
    except (ConfigError, RunFolderError) as e:
        reason = str(e).removeprefix(f"{path}: ")
        raise RunFolderError(f"{path}: is no personal model that can be read ({reason})") from e
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, MemoryError) as e:
        raise RunFolderError(f"{path}: is no personal model, or was altered ({e})") from e
    return personal


def _check(personal: Personal) -> None:
    for name, value in personal.state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{name} has numbers that are not finite")
        if name.endswith("running_var") and (value < 0).any():
            raise ValueError(f"{name} has a variance below 0")
    data, names = personal.experiment.data, len(personal.classes)
    wanted = range(2, data.outputs + 1) if data.objective == "cross_entropy" else range(1)
    if names not in wanted:
        raise ValueError(f"{names} names of classes for a model of {data.outputs} outputs")
    personal.module()


def _hash(said: dict[str, Any], state: Params) -> str:
    digest = sha256(json.dumps(said, sort_keys=True).encode())
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
