"""One client's private data as a file that a device can hold: safetensors with a JSON header."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedmeta.checkpoint import read_checkpoint, write_checkpoint
from fedmeta.data.federation import MOST_CLIENTS, SPLITS, Dataset, Split
from fedmeta.errors import DataError, RunFolderError
from fedmeta.objective import Kind

FORMAT = "fedmeta-shard-1"


@dataclass(frozen=True)
class Shard:
    """What one client holds."""

    dataset: str
    """``data.name`` of the experiments that it is for."""
    client: int
    split: Split
    """Whether the client trains, or is one of the unseen that validate or test."""
    x: Tensor
    """Inputs ``[examples, ...]``; bytes are images, 0 to 255, and are seen as 0 to 1."""
    y: Tensor
    """Values ``[examples, outputs]``; or for each example its class, int64 ``[examples]``, class by
    class."""
    classes: tuple[str, ...] = ()
    """Names of the classes, in the order of their numbers; none for values."""

    @property
    def kind(self) -> Kind:
        """What is predicted."""
        return "cross_entropy" if self.classes else "mean_squared_error"

    @property
    def counts(self) -> list[int]:
        """Examples of each class, or all of them."""
        if not self.classes:
            return [len(self.y)]
        return torch.bincount(self.y, minlength=len(self.classes)).tolist()

    def header(self) -> dict[str, Any]:
        """What the file says of itself, the hash of all the rest included."""
        said: dict[str, Any] = {
            "format": FORMAT,
            "dataset": self.dataset,
            "client": self.client,
            "split": self.split,
            "examples": len(self.y),
            "classes": list(self.classes),
            "counts": self.counts,
        }
        return said | {"sha256": self._hash(said)}

    def _hash(self, said: dict[str, Any]) -> str:
        digest = sha256(json.dumps(said, sort_keys=True).encode())
        for value in (self.x, self.y):
            digest.update(f"{value.dtype} {list(value.shape)}".encode())
            digest.update(value.contiguous().numpy(force=True).tobytes())
        return digest.hexdigest()


def write_shard(shard: Shard, path: Path) -> None:
    """Write the file whole, or not at all; its owner alone may read it."""
    write_checkpoint(path, {"x": shard.x, "y": shard.y}, shard.header(), private=True)


def read_shard(path: Path) -> Shard:
    """The shard in a file. Raises DataError where it is none, or not as it was written."""
    if not path.is_file():
        raise DataError(f"shard {path}: there is no such file")
    try:
        tensors, header = read_checkpoint(path)
        shard = Shard(
            dataset=str(header["dataset"]),
            client=int(header["client"]),
            split=header["split"],
            x=tensors["x"],
            y=tensors["y"],
            classes=tuple(map(str, header["classes"])),
        )
        _check(shard)
        if shard.header() != header:
            raise ValueError("its contents are not those that its hash was taken of")
    except (RunFolderError, KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as e:
        reason = str(e).removeprefix(f"{path}: ")
        raise DataError(
            f"shard {path}: is cut short, altered or no shard ({reason}); make it again"
        ) from e
    return shard


def read_shards(path: Path) -> list[Shard]:
    """The shard in a file, or all in a folder, in client order."""
    if not path.is_dir():
        return [read_shard(path)]
    shards = sorted(map(read_shard, _files(path)), key=lambda shard: shard.client)
    numbers = [shard.client for shard in shards]
    if twice := sorted({n for n in numbers if numbers.count(n) > 1}):
        raise DataError(f"shard {path}: two files are of client {twice[0]}")
    return shards


def contents(folder: Path) -> str:
    """A hash of all that the shards in a folder hold, whatever the files are called. Raises DataError.

    By the hashes that the files say of themselves, which ``read_shard`` checks: data can be large.
    """
    return sha256(" ".join(sorted(map(_said_hash, _files(folder)))).encode()).hexdigest()


def fit(shards: Sequence[Shard], dataset: Dataset, name: str) -> None:
    """Refuse shards of other data than an experiment is of. Raises DataError."""
    for shard in shards:
        shape = tuple(shard.x.shape[1:])
        outputs = dataset.outputs if shard.classes else shard.y.shape[1]
        said = (shard.dataset, shard.kind, shape, outputs)
        if said != (wanted := (name, dataset.objective, dataset.input_shape, dataset.outputs)):
            raise DataError(
                f"the shard of client {shard.client} is {_described(*said)}; the experiment is "
                f"{_described(*wanted)}"
            )


def as_inputs(x: Tensor, dtype: torch.dtype) -> Tensor:
    """What a model sees of examples as they are stored: bytes as 0 to 1."""
    return x.to(dtype).div_(255) if x.dtype == torch.uint8 else x.to(dtype)


def by_split(shards: Sequence[Shard]) -> dict[Split, list[int]]:
    """Client ids of each split."""
    return {split: [s.client for s in shards if s.split == split] for split in SPLITS}


def _files(folder: Path) -> list[Path]:
    if not (files := sorted(folder.glob("*.safetensors"))):
        raise DataError(f"shard {folder}: the folder has no .safetensors file")
    return files


def _said_hash(path: Path) -> str:
    try:
        with safe_open(path, framework="pt") as file:
            return str(json.loads(file.metadata()["header"])["sha256"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as e:
        raise DataError(f"shard {path}: is cut short or no shard ({e}); make it again") from e


def _described(name: str, kind: Kind, shape: tuple[int, ...], outputs: int) -> str:
    what = "classes" if kind == "cross_entropy" else f"{outputs} values"
    return f"of {name!r}, inputs {list(shape)} with {what}"


def _check(shard: Shard) -> None:
    if shard.split not in get_args(Split):
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {shard.split!r}")
    most = len(SPLITS) * MOST_CLIENTS - 1
    if not 0 <= shard.client <= most:
        raise ValueError(f"client must be 0 to {most:,}, got {shard.client}")
    if not len(shard.x) == len(shard.y) > 0:
        raise ValueError(f"{len(shard.x)} inputs and {len(shard.y)} targets")
    if shard.classes:
        ordered = bool((shard.y.diff() >= 0).all())
        if shard.y.dtype != torch.int64 or shard.y.ndim != 1 or not ordered or shard.y[0] < 0:
            raise ValueError("classes must be numbered from 0, one after the other")
        if shard.y[-1] >= len(shard.classes) or 0 in shard.counts:
            raise ValueError("every class needs a name and an example")
    elif not (shard.y.ndim == 2 and shard.y.is_floating_point()):
        raise ValueError(f"values must be [examples, outputs], got {list(shard.y.shape)}")
