"""The folder of a run: config, metrics, scores of clients, summary, checkpoint, plots and log."""

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import Any

from fedmeta.checkpoint import write_atomically
from fedmeta.errors import RunFolderError


def new_run_folder(name: str, chosen: Path | None) -> Path:
    """Make ``runs/<name>/<time>``, or the folder that was chosen, which must not exist yet."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]
    folder = chosen or Path("runs") / name / stamp
    if folder.exists():
        raise RunFolderError(
            f"{folder}: exists already; choose another, or continue it with --resume {folder}"
        )
    try:
        folder.mkdir(parents=True)
    except OSError as e:
        raise RunFolderError(f"{folder}: cannot be made ({e.strerror or e})") from e
    return folder


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write one JSON object."""
    write_atomically(path, (json.dumps(plain(value), indent=2) + "\n").encode())


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line."""
    write_atomically(path, "".join(line(row) for row in rows).encode())


def line(row: dict[str, Any]) -> str:
    """One row of a JSON-lines file."""
    return json.dumps(plain(row)) + "\n"


def plain(value: Any) -> Any:
    """JSON knows no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file; a last line that a killed process cut short is left out."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(text) for text in lines if text.endswith("\n")]


@contextmanager
def taken_back(folder: Path, began: Path) -> Iterator[None]:
    """Remove the folder of a run that ends before the file ``began`` is there."""
    try:
        yield
    finally:
        if not began.exists():
            shutil.rmtree(folder, ignore_errors=True)
