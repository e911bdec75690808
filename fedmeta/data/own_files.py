"""From what people have, folders of pictures and tables, to shards."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedmeta.data.federation import Dataset, Split
from fedmeta.data.shard import Shard, fit
from fedmeta.errors import DataError
from fedmeta.packages import require

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Table:
    """The rows of a CSV file with a header."""

    names: list[str]
    """Of the columns of ``x``."""
    x: Tensor
    """float64 ``[rows, columns]``."""
    target: list[str]
    """The target column as it stands; empty where none was named."""
    lines: list[int]
    """Of the file, on which the rows end."""


def shard_of_folder(
    folder: Path, dataset: Dataset, name: str, client: int, split: Split, invert: bool = False
) -> Shard:
    """A shard of pictures: ``folder/<class>/<any>.png``, brought to the size the experiment wants.

    Raises DataError.
    """
    shape = dataset.input_shape
    if len(shape) != 3 or dataset.objective != "cross_entropy":
        raise DataError(f"--from-folder: the experiment wants inputs {list(shape)}, not pictures")
    if not folder.is_dir():
        raise DataError(f"--from-folder {folder}: there is no such folder")
    classes = {
        inner.name: pictures
        for inner in sorted(folder.iterdir())
        if _shown(inner) and inner.is_dir() and (pictures := _pictures(inner))
    }
    if not classes:
        raise DataError(
            f"--from-folder {folder}: has no pictures in folders, expected {folder}/CLASS/NAME.png"
        )
    files = [file for pictures in classes.values() for file in pictures]
    x = torch.stack([read_image(file, (shape[0], shape[1], shape[2]), invert) for file in files])
    y = torch.arange(len(classes)).repeat_interleave(torch.tensor([*map(len, classes.values())]))
    return _fitted(Shard(name, client, split, x, y, tuple(classes)), dataset, name)


def shard_of_table(
    path: Path, target: str, dataset: Dataset, name: str, client: int, split: Split
) -> Shard:
    """A shard of the rows of a CSV file, classes or values by the experiment. Raises DataError."""
    table = read_table(path, target)
    x = table.x.reshape(-1, *dataset.input_shape) if _as_many(table, dataset) else table.x
    if dataset.objective == "cross_entropy":
        for row, label in zip(table.lines, table.target, strict=True):
            if not label:
                raise DataError(
                    f"{path}: line {row}, column {target!r}: expected a class, got nothing"
                )
        classes = sorted(set(table.target))
        numbers = torch.tensor([classes.index(label) for label in table.target])
        order = numbers.argsort(stable=True)
        shard = Shard(name, client, split, x[order], numbers[order], tuple(classes))
    else:
        values = [
            _number(v, path, row, target) for row, v in zip(table.lines, table.target, strict=True)
        ]
        y = torch.tensor(values, dtype=torch.float64)[:, None]
        shard = Shard(name, client, split, x, y)
    return _fitted(shard, dataset, name)


def read_image(path: Path, shape: tuple[int, int, int], invert: bool = False) -> Tensor:
    """A picture as bytes ``[channels, height, width]``, resized (Lanczos). Raises DataError.

    ``invert`` is for dark ink on light paper where the model was trained on bright ink, as Omniglot's.
    """
    require("pictures", "data", "PIL")
    import numpy as np
    from PIL import Image, ImageOps

    channels, height, width = shape
    if channels not in (1, 3):
        raise DataError(f"{path}: a picture has 1 or 3 channels, the experiment wants {channels}")
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):  # Pillow would cut off what is above 255
                raise ValueError(f"it has more than 8 bits a channel, its mode is {image.mode}")
            mode = "L" if channels == 1 else "RGB"
            upright = ImageOps.exif_transpose(image)  # cameras write down how they were held
            flat = _on_paper(upright) if upright.has_transparency_data else upright
            small = flat.convert(mode).resize((width, height), Image.Resampling.LANCZOS)
    except Exception as e:  # bytes from outside can fail to decode in any way
        raise DataError(f"{path}: is not a picture that can be read ({e})") from e
    pixels = torch.from_numpy(np.array(small).reshape(height, width, channels))
    return (255 - pixels if invert else pixels).permute(2, 0, 1).contiguous()


def _on_paper(image: "Image") -> "Image":
    """What is transparent is seen as white."""
    from PIL import Image

    paper = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(paper, image.convert("RGBA"))


def read_table(path: Path, target: str | None = None) -> Table:
    """The numbers of a CSV file whose first line names its columns. Raises DataError."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, line) for line in reader if line]
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise DataError(f"{path}: cannot be read as a table ({e})") from e
    if len(lines) < 2:
        raise DataError(f"{path}: expected a line of column names and rows, got {len(lines)} lines")
    header = [name.strip() for name in lines[0][1]]
    if target is not None and header.count(target) != 1:
        raise DataError(
            f"{path}: has no one column {target!r}, its columns are {', '.join(header)}"
        )
    at = None if target is None else header.index(target)
    rows = []
    for row, line in lines[1:]:
        if len(line) != len(header):
            raise DataError(f"{path}: line {row} has {len(line)} cells, the first {len(header)}")
        cells = [
            (name, cell) for i, (name, cell) in enumerate(zip(header, line, strict=True)) if i != at
        ]
        rows.append([_number(cell, path, row, name) for name, cell in cells])
    return Table(
        [name for i, name in enumerate(header) if i != at],
        torch.tensor(rows, dtype=torch.float64),
        [] if at is None else [line[at].strip() for _, line in lines[1:]],
        [row for row, _ in lines[1:]],
    )


def _pictures(folder: Path) -> list[Path]:
    return sorted(
        file for file in folder.iterdir() if _shown(file) and file.suffix.lower() in PICTURES
    )


def _shown(path: Path) -> bool:
    return not path.name.startswith(".")


def _number(cell: str, path: Path, row: int, column: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{path}: line {row}, column {column!r}: expected a number, got {cell!r}")
    return value


def _as_many(table: Table, dataset: Dataset) -> bool:
    return table.x.shape[1] == math.prod(dataset.input_shape)


def _fitted(shard: Shard, dataset: Dataset, name: str) -> Shard:
    """The shard, if it can take part in the experiment that it is made for."""
    fit([shard], dataset, name)
    dataset.hold([shard], torch.device("cpu"), torch.float64)
    return shard
