"""Reading CIFAR-10: the published archive of plain records, or a file of a part of its images."""

import gzip
import logging
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from fedmeta.data.download import download, local_root
from fedmeta.data.federation import Clients
from fedmeta.errors import DataError
from fedmeta.packages import require

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
SHAPE = (3, 32, 32)
ARCHIVE, SUBSET = "cifar-10-binary.tar.gz", "cifar10_subset.npz"
FOLDERS = (".", "cifar10", "cifar10_subset")
_URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
_MEMBERS = {
    "train": [f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)],
    "test": ["cifar-10-batches-bin/test_batch.bin"],
}
_RECORD = 1 + 3 * 32 * 32
"""Bytes of an image: its class, then the red, the green and the blue plane, row by row."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Images:
    """The images of one part, in the order of the file."""

    x: NDArray[np.uint8]
    """``[images, 3, 32, 32]``, red, green and blue."""
    y: Clients
    """The number of each image's class, ``[images]``."""

    def of_class(self, number: int) -> Clients:
        """Where the images of a class are, in order."""
        return np.flatnonzero(self.y == number)

    @property
    def per_class(self) -> int:
        """Images that every class has at least."""
        return int(np.bincount(self.y, minlength=len(CLASSES)).min())


@dataclass(frozen=True)
class Parts:
    """CIFAR-10, or a part of it."""

    train: Images
    test: Images


def read_cifar10(root: str | None) -> Parts:
    """The images of a local copy, or of the download. Raises DataError."""
    path = _locate(root)
    try:
        return _read_subset(path) if path.name == SUBSET else _read_archive(path)
    except (
        OSError, EOFError, KeyError, ValueError, zlib.error, tarfile.TarError, zipfile.BadZipFile,
    ) as e:  # fmt: skip
        said = " ".join(str(e).split()) or type(e).__name__
        raise DataError(
            f"{path} is not CIFAR-10 as published, or is cut short ({said}): "
            "delete the file and fetch it again"
        ) from e


def _locate(root: str | None) -> Path:
    folder = local_root(root)
    if folder is None:
        require("data.name", "data", "pooch")
        return download(_URL, _SHA256)
    for name in (ARCHIVE, SUBSET):
        for inner in FOLDERS:
            if (path := folder / inner / name).is_file():
                return path
    raise DataError(
        f"cifar10: neither {ARCHIVE} nor {SUBSET} is in {folder} or its folder cifar10; put one "
        "there, or unset FEDMETA_DATA and data.root to download it"
    )


def _read_archive(path: Path) -> Parts:
    """Read in one pass and to the end, where the checksum is."""
    wanted = {name for names in _MEMBERS.values() for name in names}
    found: dict[str, Images] = {}
    with gzip.open(path) as unpacked:
        with tarfile.open(fileobj=unpacked, mode="r:") as archive:
            for member in archive:
                if member.name in wanted and (file := archive.extractfile(member)):
                    found[member.name] = _records(file.read(), member.name)
        while unpacked.read(1 << 20):
            pass
    if missing := sorted(wanted - found.keys()):
        raise ValueError(f"it has no {missing[0]}")
    return Parts(*(_joined([found[name] for name in names]) for names in _MEMBERS.values()))


def _records(content: bytes, name: str) -> Images:
    if not content or len(content) % _RECORD:
        raise ValueError(f"{name} has {len(content)} bytes, which are no {_RECORD} for each image")
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    return _checked(records[:, 1:].reshape(-1, *SHAPE), records[:, 0], name)


def _read_subset(path: Path) -> Parts:
    """Arrays ``x_train [images, 32, 32, 3]``, ``y_train``, ``x_test``, ``y_test`` of bytes."""
    arrays = np.load(path, allow_pickle=False)
    if not isinstance(arrays, NpzFile):
        raise ValueError("it is one array")
    with arrays:
        train, test = (
            _checked(np.moveaxis(arrays[f"x_{part}"], -1, 1), arrays[f"y_{part}"], f"x_{part}")
            for part in ("train", "test")
        )
    _log.warning("%s: its pixels are those of JPEG files, not for published figures", path)
    return Parts(train, test)


def _checked(x: NDArray[np.uint8], y: NDArray[np.uint8], name: str) -> Images:
    if x.dtype != np.uint8 or y.dtype != np.uint8 or x.shape != (len(y), *SHAPE):
        raise ValueError(f"{name} is {x.dtype} {list(x.shape)} with {y.dtype} {list(y.shape)}")
    if (odd := y[y >= len(CLASSES)]).size:
        raise ValueError(f"{name} has an image of class {odd[0]}, expected 0 to {len(CLASSES) - 1}")
    return Images(np.ascontiguousarray(x), y.astype(np.int64))


def _joined(each: list[Images]) -> Images:
    return Images(np.concatenate([i.x for i in each]), np.concatenate([i.y for i in each]))
