"""One file of tensors with a JSON header, replaced as a whole: a reader sees the old or the new."""

import json
import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fedmeta.errors import RunFolderError


def write_checkpoint(
    path: Path, tensors: dict[str, Tensor], header: dict[str, Any], private: bool = False
) -> None:
    """Write the checkpoint. On any failure the one that was there before is left as it was."""
    owned = {
        name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()
    }
    try:
        content = save(owned, {"header": json.dumps(header)})  # safetensors refuses shared memory
    except SafetensorError as e:
        raise RunFolderError(f"{path}: cannot be written ({e})") from e
    write_atomically(path, content, private)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["header"])
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except FileNotFoundError as e:
        raise RunFolderError(f"{path}: there is no checkpoint to continue from") from e
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as e:
        raise RunFolderError(f"{path}: is not a readable checkpoint ({e})") from e


def write_atomically(path: Path, content: bytes, private: bool = False) -> None:
    """Write beside the file, then rename over it: whole after the death of a process.

    A ``private`` file is its owner's alone to read, from its first byte on.
    Not synced: that would cost several milliseconds a round. After a power cut it is up to the file
    system (ext4 writes the data out before such a rename).
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.unlink(missing_ok=True)
        mode = 0o600 if private else 0o666
        with open(scratch, "xb", opener=partial(os.open, mode=mode)) as file:
            file.write(content)
        scratch.replace(path)
    except OSError as e:
        with suppress(OSError):
            scratch.unlink()
        raise RunFolderError(f"{path}: cannot be written ({e.strerror or e})") from e
