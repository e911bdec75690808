"""Reading Omniglot's two zip files into one array, and keeping the result in the user's cache."""

import io
import logging
import os
import zipfile
import zlib
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmeta.data.download import cache_folder, download, local_file, local_root
from fedmeta.errors import DataError
from fedmeta.packages import require

DRAWINGS = 20
SIZE = 28
_URL = "https://github.com/brendenlake/omniglot/raw/master/python/"
_PARTS = {  # characters in each, and the published sha256 of the zip
    "images_background": (964, "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640"),
    "images_evaluation": (659, "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee"),
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Characters:
    """All characters, sorted by part, alphabet and number."""

    images: NDArray[np.uint8]
    """``[characters, 20, 28, 28]``, ink 255 on paper 0."""
    alphabets: NDArray[np.str_]
    numbers: NDArray[np.int64]
    background: NDArray[np.bool_]
    """Whether the character is in the background set."""


def read_characters(root: str | None) -> Characters:
    """All of Omniglot from local copies or the download; decoding takes seconds, once.

    A process that opens it again, as a worker of a comparison does, has it resident.
    """
    require("data.name", "data", "pooch", "PIL")
    archives = [(part, _locate(part, root)) for part in _PARTS]
    return _read(tuple((part, path, _state(path)) for part, path in archives), cache_folder())


@lru_cache(maxsize=1)
def _read(archives: tuple[tuple[str, Path, tuple[int, int]], ...], cache: Path) -> Characters:
    """Of archives as they are now: one that was replaced is read again."""
    members = [member for part, path, _ in archives for member in _drawings(part, path)]
    state = sha256("".join(f"{m.info.filename} {m.info.CRC}\n" for m in members).encode())
    firsts = members[::DRAWINGS]
    name = f"omniglot-{SIZE}-lanczos-{state.hexdigest()[:16]}.npy"
    return Characters(
        images=_cached(cache / name, members),
        alphabets=np.array([m.alphabet for m in firsts]),
        numbers=np.array([m.number for m in firsts]),
        background=np.array([m.part == "images_background" for m in firsts]),
    )


def _state(archive: Path) -> tuple[int, int]:
    """What changes with the file; one that cannot be read says so later."""
    try:
        found = archive.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


@dataclass(frozen=True)
class _Drawing:
    archive: Path
    part: str
    alphabet: str
    number: int
    info: zipfile.ZipInfo


def _locate(part: str, root: str | None) -> Path:
    if folder := local_root(root):
        return local_file(folder, "omniglot", f"{part}[.]*zip")
    return download(f"{_URL}{part}.zip", _PARTS[part][1])


def _drawings(part: str, archive: Path) -> list[_Drawing]:
    """The members of an archive, checked by count and sorted."""
    try:
        with zipfile.ZipFile(archive) as zipped:
            infos = [info for info in zipped.infolist() if info.filename.endswith(".png")]
    except (zipfile.BadZipFile, OSError) as e:
        raise _corrupt(archive, e) from e
    found = []
    for info in sorted(infos, key=lambda info: info.filename):
        try:
            _, alphabet, character, _ = info.filename.split("/")
            number = int(character.removeprefix("character"))
        except ValueError as e:
            raise _corrupt(archive, f"{info.filename} is no drawing of a character") from e
        found.append(_Drawing(archive, part, alphabet, number, info))
    counts: dict[tuple[str, int], int] = defaultdict(int)
    for drawing in found:
        counts[drawing.alphabet, drawing.number] += 1
    if len(counts) != _PARTS[part][0] or set(counts.values()) != {DRAWINGS}:
        raise _corrupt(archive, f"{len(found)} drawings of {len(counts)} characters")
    return found


def _cached(path: Path, members: list[_Drawing]) -> NDArray[np.uint8]:
    try:
        return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]
    except (OSError, ValueError, EOFError):
        pass  # not there yet, or cut short by a full disk: decode again
    images = _decode(members)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{os.getpid()}.tmp")
        with scratch.open("wb") as file:
            np.save(file, images)
        scratch.replace(path)
    except OSError as e:
        _log.warning("decoded Omniglot is not kept in %s: %s", path.parent, e)
    return images


def _decode(members: list[_Drawing]) -> NDArray[np.uint8]:
    """Resize to 28x28 as Finn et al. did (Lanczos), ink bright."""
    from PIL import Image

    _log.info("decoding %d drawings of Omniglot, once", len(members))
    images = np.empty((len(members), SIZE, SIZE), np.uint8)
    archives = {path: zipfile.ZipFile(path) for path in {m.archive for m in members}}
    for i, member in enumerate(members):
        try:
            with Image.open(io.BytesIO(archives[member.archive].read(member.info))) as image:
                small = image.convert("L").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        except (zipfile.BadZipFile, zlib.error, OSError, ValueError) as e:
            raise _corrupt(member.archive, f"{member.info.filename}: {e}") from e
        images[i] = 255 - np.asarray(small)
    for archive in archives.values():
        archive.close()
    return images.reshape(-1, DRAWINGS, SIZE, SIZE)


def _corrupt(archive: Path, found: object) -> DataError:
    expected = " and ".join(f"{n} characters in {part}" for part, (n, _) in _PARTS.items())
    return DataError(
        f"{archive} is not Omniglot as published ({found}); expected {expected}, "
        f"{DRAWINGS} drawings each: delete the file and fetch it again"
    )
