"""``fedmeta adapt``, ``predict`` and ``export``: what is read, and what is shown."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from rich.markup import escape
from rich.table import Column, Table
from torch import Tensor, nn

from fedmeta.adapters import own
from fedmeta.adapting import Adaptation
from fedmeta.baked import filled
from fedmeta.checkpoint import read_checkpoint
from fedmeta.config import Experiment, load
from fedmeta.data.own_files import read_image, read_table
from fedmeta.data.shard import read_shard
from fedmeta.errors import DataError, RunFolderError
from fedmeta.initial import first_params, objective
from fedmeta.personal import Personal, read_personal
from fedmeta.types import Params
from simulations.export import Model
from strategies.state import CONFIG, PARAMS


def read_run(run: Path) -> tuple[Experiment, Params]:
    """The experiment of a run folder, and the params that its test clients saw.

    Raises RunFolderError.
    """
    if not (run / CONFIG).is_file():
        raise RunFolderError(f"{run}: is no run folder, it has no {CONFIG}")
    if not (run / PARAMS).is_file():
        raise RunFolderError(
            f"{run}: has no {PARAMS} yet; finish the run with: fedmeta run --resume {run}"
        )
    experiment = load(run / CONFIG)
    params, _ = read_checkpoint(run / PARAMS)
    travels, stays = first_params(replace(experiment, start=None))
    expected = own(stays) | travels
    odd = sorted(n for n in expected | params if _shape(expected, n) != _shape(params, n))
    if odd:
        raise RunFolderError(
            f"{run / PARAMS}: is not of {CONFIG} beside it, in {', '.join(odd[:3])}"
        )
    return experiment, {name: value.to(expected[name]) for name, value in params.items()}


def _shape(params: Params, name: str) -> list[int] | None:
    return list(params[name].shape) if name in params else None


def free(path: Path) -> None:
    """Refuse to write over what is there: it may be the shard. Raises RunFolderError."""
    if path.exists():
        raise RunFolderError(f"{path}: exists already; choose another --out, or delete it")


def scores(found: Adaptation) -> Table:
    """Loss and accuracy before and after adaptation."""
    whose = f"{found.held_out} examples held out of it"
    if not found.held_out:
        whose = f"the {found.examples} examples adapted to"
    table = Table(whose, "before", f"after {found.personal.steps} steps")
    parts = (found.before, found.after)
    table.add_row("loss", *(f"{float(part['loss']):.4g}" for part in parts))
    if "accuracy" in found.after:
        table.add_row("accuracy", *(f"{100 * float(part['accuracy']):.2f} %" for part in parts))
    return table


class Inputs(NamedTuple):
    """What is predicted."""

    names: list[str]
    x: Tensor
    actual: list[str]
    """What the owner says it is; empty where nothing is said."""


def read_inputs(
    path: Path, experiment: Experiment, invert: bool = False, target: str | None = None
) -> Inputs:
    """A picture, the rows of a CSV file, or the examples of a shard. Raises DataError."""
    shape = experiment.data.input_shape
    if path.suffix == ".safetensors":
        return _of_shard(path, shape)
    if path.suffix.lower() == ".csv":
        table = read_table(path, target)
        if (have := table.x.shape[1]) != prod(shape):
            raise DataError(
                f"{path}: has {have} columns ({', '.join(table.names)}), the model takes "
                f"{prod(shape)}; --target NAME leaves one out"
            )
        names = [f"{path.name}, line {line}" for line in table.lines]
        return Inputs(names, table.x.reshape(-1, *shape), table.target)
    if len(shape) != 3:
        raise DataError(f"{path}: the model takes rows of {prod(shape)} numbers, give a .csv file")
    return Inputs([path.name], read_image(path, (shape[0], shape[1], shape[2]), invert)[None], [])


def _of_shard(path: Path, shape: tuple[int, ...]) -> Inputs:
    shard = read_shard(path)
    if (have := tuple(shard.x.shape[1:])) != shape:
        raise DataError(f"{path}: has inputs {list(have)}, the model takes {list(shape)}")
    names = [f"{path.stem} {number}" for number in range(len(shard.y))]
    if shard.classes:
        return Inputs(names, shard.x, [shard.classes[label] for label in shard.y.tolist()])
    return Inputs(names, shard.x, [_values(row) for row in shard.y.tolist()])


def predictions(personal: Personal, inputs: Sequence[Inputs]) -> Table:
    """A row for each example: its class and how probable that is, or its values."""
    columns = ["class", "probability"] if personal.classes else ["value"]
    said = any(each.actual for each in inputs)
    table = Table(*_folded("input", *columns, *["actual"] * said))
    right = rows = 0
    for each in inputs:
        outputs = personal.predict(each.x).tolist()
        for row, (name, output) in enumerate(zip(each.names, outputs, strict=True)):
            actual = each.actual[row] if each.actual else ""
            answer = _answer(personal.classes, output)
            table.add_row(*map(escape, [name, *answer, *[actual] * said]))
            right, rows = right + (answer[0] == actual), rows + bool(each.actual)
    if personal.classes and rows:
        table.caption = f"{right} of {rows} as the owner says"
    return table


def _answer(classes: tuple[str, ...], output: list[float]) -> list[str]:
    if not classes:
        return [_values(output)]
    best = max(range(len(output)), key=output.__getitem__)
    return [classes[best], f"{100 * output[best]:.1f} %"]


def _folded(*names: str) -> Iterator[Column]:
    return (Column(name, overflow="fold") for name in names)


def _values(row: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in row)


def original(path: Path) -> tuple[Model, Path]:
    """The model to export, from a personal model or a run folder; and the file that it comes from."""
    if not path.is_dir():
        personal = read_personal(path)
        about = {key: personal.header()[key] for key in ("format", "classes", "steps", "client")}
        return _model(personal.module(), personal.experiment, about), path
    experiment, params = read_run(path)
    module = filled(objective(experiment).module, params)
    return _model(module, experiment, {"format": "fedmeta-initialisation-1"}), path / PARAMS


def _model(module: nn.Module, experiment: Experiment, about: dict[str, Any]) -> Model:
    shape = experiment.data.input_shape
    kind = experiment.data.objective
    known = {
        "experiment": experiment.name,
        "x": ["batch", *shape],
        "pixels": "0 to 1" if len(shape) == 3 else None,
        "y": "logits" if kind == "cross_entropy" else "values",
    }
    return Model(module.float(), shape, known | about)
