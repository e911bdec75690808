"""Pictures and tables as people have them become shards, or one line says what is wrong."""

import csv
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fedmeta.data.federation import Dataset
from fedmeta.data.own import OwnClasses, OwnValues
from fedmeta.data.own_files import (
    read_image,
    read_table,
    shard_of_folder,
    shard_of_table,
)
from fedmeta.data.shard import Shard
from fedmeta.errors import DataError
from fedmeta.types import Params

GREY = OwnClasses(ways=2, shots=1, queries=1, shape_of_inputs=[1, 4, 6])
COLOUR = OwnClasses(ways=2, shots=1, queries=1, shape_of_inputs=[3, 4, 6])
ROWS = OwnValues(shots=1, queries=1, shape_of_inputs=[2])
LABELLED = OwnClasses(ways=2, shots=1, queries=1, shape_of_inputs=[2])
TARGET = "price"


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, content: np.ndarray, mode: str | None = None, **how: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(content)
    (image.convert(mode) if mode else image).save(path, **how)
    return path


def folder_of(root: Path, **counts: int) -> Path:
    """So many grey pictures of each class, of the experiment's size."""
    for name, count in counts.items():
        for i in range(count):
            save(root / name / f"{i}.png", pixels(4, 6, seed=i))
    return root


def of_folder(root: Path, dataset: Dataset = GREY, invert: bool = False) -> Shard:
    return shard_of_folder(root, dataset, "own_classes", 5, "train", invert)


# Pictures


def test_a_folder_of_pictures_is_a_shard(tmp_path: Path) -> None:
    """Classes and files in the order of their names, pixels as they are."""
    for name, count in (("zebra", 2), ("ant", 3)):
        for i in range(count):
            save(tmp_path / name / f"{i}.png", pixels(4, 6, seed=10 * count + i))
    shard = of_folder(tmp_path)
    assert (shard.dataset, shard.client, shard.split) == ("own_classes", 5, "train")
    assert shard.classes == ("ant", "zebra")
    assert shard.y.tolist() == [0, 0, 0, 1, 1]
    expected = [pixels(4, 6, seed=10 * count + i) for count in (3, 2) for i in range(count)]
    assert shard.x.dtype == torch.uint8
    assert (shard.x.numpy() == np.stack(expected)[:, None]).all()


def test_inverted_pictures_are_dark_for_bright(tmp_path: Path) -> None:
    folder_of(tmp_path, a=2, b=2)
    plain, inverted = of_folder(tmp_path), of_folder(tmp_path, invert=True)
    assert (plain.x.int() + inverted.x.int() == 255).all()


def test_a_coloured_picture_has_its_channels_in_order(tmp_path: Path) -> None:
    content = pixels(4, 6, 3)
    path = save(tmp_path / "a.png", content)
    found = read_image(path, (3, 4, 6)).numpy()
    assert (found == content.transpose(2, 0, 1)).all()


def test_a_coloured_picture_is_seen_in_grey_as_bright_as_it_is(tmp_path: Path) -> None:
    """ITU-R 601: 0.299 R + 0.587 G + 0.114 B."""
    content = pixels(4, 6, 3)
    found = read_image(save(tmp_path / "a.png", content), (1, 4, 6))[0].numpy()
    assert np.abs(found - content @ np.array([0.299, 0.587, 0.114])).max() <= 1


def test_a_grey_picture_is_coloured_with_equal_channels(tmp_path: Path) -> None:
    content = pixels(4, 6)
    found = read_image(save(tmp_path / "a.png", content), (3, 4, 6)).numpy()
    assert (found == content[None]).all()


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "JPG", "bmp", "gif", "tif", "webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_picture_of_one_colour_is_that_colour(
    tmp_path: Path, suffix: str, channels: int
) -> None:
    """Where a format loses something, by at most 3 of 255."""
    colour = np.full((4, 6, 3), [200, 100, 50], dtype=np.uint8)
    for name in ("a", "b"):
        for i in range(2):
            save(tmp_path / name / f"{i}.{suffix}", colour)
    shard = of_folder(tmp_path, GREY if channels == 1 else COLOUR)
    wanted = [124] if channels == 1 else [200, 100, 50]  # 59.8 + 58.7 + 5.7
    assert shard.x.shape == (4, channels, 4, 6)
    assert (shard.x.int() - torch.tensor(wanted)[:, None, None]).abs().max() <= 3


def test_a_palette_picture_has_the_colours_of_its_palette(tmp_path: Path) -> None:
    content = np.zeros((4, 6, 3), dtype=np.uint8)
    content[:, 3:] = [255, 0, 10]
    path = save(tmp_path / "a.png", content, "P")
    assert Image.open(path).mode == "P"
    found = read_image(path, (3, 4, 6))
    assert found[:, 0, 0].tolist() == [0, 0, 0]
    assert (found[:, 0, 5].int() - torch.tensor([255, 0, 10])).abs().max() <= 10


def test_a_black_and_white_picture_is_0_and_255(tmp_path: Path) -> None:
    content = pixels(4, 6) // 128 * np.uint8(255)
    path = save(tmp_path / "a.png", content, "1")
    assert (read_image(path, (1, 4, 6))[0].numpy() == content).all()


def test_what_is_transparent_is_seen_on_white_paper(tmp_path: Path) -> None:
    """Black ink on nothing: without the paper all of it would be black."""
    content = np.zeros((4, 6, 4), dtype=np.uint8)
    content[:, :3, 3] = 255
    content[:, 3, 3] = 128
    found = read_image(save(tmp_path / "a.png", content), (1, 4, 6))[0]
    assert found[0].tolist() == [0, 0, 0, 127, 255, 255]


def test_a_transparent_palette_is_seen_on_white_paper(tmp_path: Path) -> None:
    content = np.zeros((4, 6), dtype=np.uint8)
    content[:, 3:] = 1
    image = Image.fromarray(content, "L").convert("P")
    image.putpalette([0, 0, 0, 0, 0, 0])
    image.save(tmp_path / "a.png", transparency=bytes([255, 0]))
    assert read_image(tmp_path / "a.png", (1, 4, 6))[0, 0].tolist() == [0, 0, 0, 255, 255, 255]


@pytest.mark.parametrize("size", [(4, 6), (8, 12), (40, 30), (1, 1), (3, 200)])
def test_a_picture_is_brought_to_the_size_of_the_experiment(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    """Height and width are not confused: the left half stays dark and the right bright."""
    content = np.full(size, 200, dtype=np.uint8)
    content[:, : size[1] // 2] = 20
    found = read_image(save(tmp_path / "a.png", content), (1, 4, 6))
    assert (found.shape, found.dtype) == ((1, 4, 6), torch.uint8)
    if size[1] > 1:
        assert found[0, :, 0].float().mean() < 60 < 160 < found[0, :, 5].float().mean()
    else:
        assert (found == 200).all()


def test_a_resized_picture_is_pillows_lanczos(tmp_path: Path) -> None:
    content = pixels(17, 23)
    expected = np.asarray(Image.fromarray(content).resize((6, 4), Image.Resampling.LANCZOS))
    found = read_image(save(tmp_path / "a.png", content), (1, 4, 6))[0].numpy()
    assert (found == expected).all()


def test_what_is_hidden_or_no_picture_is_no_example(tmp_path: Path) -> None:
    """As the ``._a.png`` that one system leaves beside each, and the folders that editors make."""
    folder_of(tmp_path, a=2, b=2)
    for name in ("._0.png", ".hidden.png", "notes.txt", "Thumbs.db", "no suffix"):
        (tmp_path / "a" / name).write_bytes(b"no picture")
    (tmp_path / "above.png").write_bytes(b"no picture")
    (tmp_path / "no pictures").mkdir()
    (tmp_path / "no pictures" / "notes.txt").write_text("")
    folder_of(tmp_path / ".checkpoints", a=1)
    save(tmp_path / ".thumbnails" / "0.png", pixels(4, 6))
    shard = of_folder(tmp_path)
    assert (shard.classes, shard.counts) == (("a", "b"), [2, 2])


def refused(path: Path, dataset: Dataset = GREY) -> str:
    with pytest.raises(DataError) as refusal:
        of_folder(path, dataset)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    folder_of(tmp_path, a=2, b=2)
    path = tmp_path / "a" / "1.png"
    whole = path.read_bytes()
    for content in (b"", b"no picture", whole[:40], whole[:-30]):
        path.write_bytes(content)
        assert refused(tmp_path).startswith(f"{path}: is not a picture that can be read (")


@given(
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
    kind=st.sampled_from(["png", "jpeg", "gif", "bmp", "webp"]),
)
@settings(derandomize=True, deadline=None, max_examples=200)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_damaged_picture_is_pixels_or_an_error(tmp_path_factory, place, bit, kind) -> None:
    file = BytesIO()
    Image.fromarray(pixels(20, 20)).save(file, kind)
    content = bytearray(file.getvalue())
    content[int(place * len(content))] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / f"damaged.{kind}"
    path.write_bytes(content)
    try:
        found = read_image(path, (1, 4, 6))
    except DataError:
        return
    assert (found.shape, found.dtype) == ((1, 4, 6), torch.uint8)


def test_a_png_whose_inner_parts_are_broken(tmp_path: Path) -> None:
    """Its data end before they end, and what follows has no name: Pillow calls it a SyntaxError."""
    path = save(tmp_path / "a.png", pixels(20, 20))
    whole = path.read_bytes()
    at = whole.index(b"IDAT")
    path.write_bytes(whole[: at - 4] + (100).to_bytes(4, "big") + whole[at:])
    with pytest.raises(DataError, match="is not a picture that can be read") as refusal:
        read_image(path, (1, 4, 6))
    assert isinstance(refusal.value.__cause__, SyntaxError)


def test_more_than_8_bits_are_refused_and_not_cut_off(tmp_path: Path) -> None:
    """Pillow would make 255 of all that is above it."""
    path = save(tmp_path / "a.png", pixels(4, 6).astype(np.uint16) * 257)
    with pytest.raises(DataError, match=r"more than 8 bits a channel, its mode is I;16\)$"):
        read_image(path, (1, 4, 6))


def test_a_picture_that_is_a_folder_or_gone(tmp_path: Path) -> None:
    (tmp_path / "a" / "x.png").mkdir(parents=True)
    assert f"{tmp_path}/a/x.png: is not a picture that can be read (" in refused(tmp_path)
    with pytest.raises(DataError, match=r"gone\.png: is not a picture that can be read"):
        read_image(tmp_path / "gone.png", (1, 4, 6))


def test_five_channels_are_no_picture(tmp_path: Path) -> None:
    folder_of(tmp_path, a=2, b=2)
    dataset = OwnClasses(ways=2, shots=1, queries=1, shape_of_inputs=[5, 4, 6])
    line = refused(tmp_path, dataset)
    assert line.endswith("0.png: a picture has 1 or 3 channels, the experiment wants 5")


def test_folders_that_hold_no_pictures(tmp_path: Path) -> None:
    assert refused(tmp_path / "no") == f"--from-folder {tmp_path}/no: there is no such folder"
    empty = (
        f"--from-folder {tmp_path}: has no pictures in folders, expected {tmp_path}/CLASS/NAME.png"
    )
    assert refused(tmp_path) == empty
    save(tmp_path / "loose.png", pixels(4, 6))
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path) == empty
    assert "loose.png: there is no such folder" in refused(tmp_path / "loose.png")


@pytest.mark.parametrize("dataset", [ROWS, LABELLED], ids=["values", "rows"])
def test_an_experiment_that_wants_no_pictures(tmp_path: Path, dataset: Dataset) -> None:
    expected = "--from-folder: the experiment wants inputs [2], not pictures"
    assert refused(folder_of(tmp_path, a=2, b=2), dataset) == expected


def test_a_shard_of_pictures_that_is_too_small_for_the_experiment(tmp_path: Path) -> None:
    folder_of(tmp_path, a=2)
    assert "client 5 holds 1 classes, a 2-way episode is missing 1" in refused(tmp_path)
    folder_of(tmp_path, b=1)
    assert "client 5 holds 1 examples of a class, an episode needs 1 (shots) + 1" in refused(
        tmp_path
    )


# Tables


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return written(tmp_path / "t.csv", "a,price,b\n1,10,2\n-3,20.5,4e-1\n5,30,6\n")


def values_of(path: Path, dataset: Dataset = ROWS, target: str = TARGET) -> Shard:
    return shard_of_table(path, target, dataset, "own_values", 5, "test")


def classes_of(path: Path, dataset: Dataset = LABELLED, target: str = TARGET) -> Shard:
    return shard_of_table(path, target, dataset, "own_classes", 5, "train")


def test_a_table_is_a_shard_of_values(table: Path) -> None:
    shard = values_of(table)
    assert (shard.client, shard.split, shard.classes) == (5, "test", ())
    assert shard.x.tolist() == [[1, 2], [-3, 0.4], [5, 6]]
    assert shard.y.tolist() == [[10], [20.5], [30]]
    assert (shard.x.dtype, shard.y.dtype) == (torch.float64, torch.float64)


def test_a_table_is_a_shard_of_classes_by_name(tmp_path: Path) -> None:
    """Rows of a class stay in their order."""
    text = "a,b,price\n1,1,low\n2,2,high\n3,3,low\n4,4, high \n5,5,low\n"
    shard = classes_of(written(tmp_path / "t.csv", text))
    assert shard.classes == ("high", "low")
    assert shard.y.tolist() == [0, 0, 1, 1, 1]
    assert shard.x[:, 0].tolist() == [2, 4, 1, 3, 5]


def test_rows_as_long_as_a_picture_take_its_shape(tmp_path: Path) -> None:
    numbers = np.arange(4 * 24, dtype=float).reshape(4, 24)
    rows = [[*map(str, row), label] for row, label in zip(numbers, "aabb", strict=True)]
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[*(f"p{i}" for i in range(24)), TARGET], *rows])
    shard = classes_of(tmp_path / "t.csv", GREY)
    assert (shard.x.numpy() == numbers.reshape(4, 1, 4, 6)).all()


@given(
    numbers=st.lists(
        st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 3), min_size=2, max_size=5
    )
)
@settings(derandomize=True, deadline=None, max_examples=30)
def test_numbers_come_back_to_the_bit(tmp_path_factory, numbers) -> None:
    path = tmp_path_factory.getbasetemp() / "bits.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["a", "b", TARGET], *numbers])
    found = read_table(path, TARGET)
    assert found.x.numpy().tobytes() == np.array([row[:2] for row in numbers]).tobytes()
    assert [float(cell) for cell in found.target] == [row[2] for row in numbers]
    assert found.lines == list(range(2, len(numbers) + 2))


PLAIN: Params = {"x": torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)}
WAYS_TO_WRITE = {
    "plain": "a,b,price\n1,2,5\n3,4,6\n",
    "no last newline": "a,b,price\n1,2,5\n3,4,6",
    "windows": "a,b,price\r\n1,2,5\r\n3,4,6\r\n",
    "old macintosh": "a,b,price\r1,2,5\r3,4,6\r",
    "byte order mark": "\ufeffprice,a,b\n5,1,2\n6,3,4\n",
    "quoted": '"a","b","price"\n"1","2","5"\n"3","4","6"\n',
    "quoted names": '"a, of course","b ""b""","price"\n1,2,5\n3,4,6\n',
    "a name of two lines": '"a\nb",b,price\n1,2,5\n3,4,6\n',
    "blank lines": "\na,b,price\n\n1,2,5\n\n\n3,4,6\n\n",
    "blanks": " a , b , price \n 1, 2 ,5 \n3 ,4, 6\n",
    "target first": "price,a,b\n5,1,2\n6,3,4\n",
    "exponents": "a,b,price\n1e0,+2.,5\n0.3e1,4,6\n",
    "accents": "größe,日本,price\n1,2,5\n3,4,6\n",
}


@pytest.mark.parametrize("text", WAYS_TO_WRITE.values(), ids=WAYS_TO_WRITE.keys())
def test_one_table_in_many_ways(tmp_path: Path, text: str) -> None:
    shard = values_of(written(tmp_path / "t.csv", text))
    assert torch.equal(shard.x, PLAIN["x"])
    assert shard.y.tolist() == [[5], [6]]


def test_without_a_target_all_columns_are_inputs(table: Path) -> None:
    found = read_table(table)
    assert (found.names, found.target) == (["a", "price", "b"], [])
    assert found.x.shape == (3, 3)
    assert read_table(table, TARGET).names == ["a", "b"]


BAD: dict[str, tuple[str, str]] = {
    "no such column": (
        "a,b,prize\n1,2,3\n",
        "has no one column 'price', its columns are a, b, prize",
    ),
    "the column twice": (
        "price,b,price\n1,2,3\n",
        "has no one column 'price', its columns are price, b, price",
    ),
    "text": (
        "a,b,price\n1,2,3\n1,two,3\n",
        "line 3, column 'b': expected a number, got 'two'",
    ),
    "text below a blank line": (
        "a,b,price\n\n1,2,3\n\n1,two,3\n",
        "line 5, column 'b': expected a number, got 'two'",
    ),
    "an empty cell": ("a,b,price\n1,,3\n", "line 2, column 'b': expected a number, got ''"),
    "a comma in a number": (
        'a,b,price\n"1,5",2,3\n',
        "line 2, column 'a': expected a number, got '1,5'",
    ),
    "NaN": ("a,b,price\n1,nan,3\n", "line 2, column 'b': expected a number, got 'nan'"),
    "infinite": ("a,b,price\n-inf,2,3\n", "line 2, column 'a': expected a number, got '-inf'"),
    "too large": ("a,b,price\n1e999,2,3\n", "line 2, column 'a': expected a number, got '1e999'"),
    "a value that is text": (
        "a,b,price\n\n1,2,cheap\n",
        "line 3, column 'price': expected a number, got 'cheap'",
    ),
    "a value that is NaN": (
        "a,b,price\n1,2,NaN\n",
        "line 2, column 'price': expected a number, got 'NaN'",
    ),
    "a long row": ("a,b,price\n1,2,3,4\n", "line 2 has 4 cells, the first 3"),
    "a short row": ("a,b,price\n1,2,3\n\n1,2\n", "line 4 has 2 cells, the first 3"),
    "semicolons": (
        "a;b;price\n1;2;3\n",
        "has no one column 'price', its columns are a;b;price",
    ),
    "a header alone": (
        "a,b,price\n",
        "expected a line of column names and rows, got 1 lines",
    ),
    "nothing": ("", "expected a line of column names and rows, got 0 lines"),
    "blank lines alone": ("\n\n", "expected a line of column names and rows, got 0 lines"),
}


@pytest.mark.parametrize(("text", "reason"), BAD.values(), ids=BAD.keys())
def test_a_table_that_is_wrong(tmp_path: Path, text: str, reason: str) -> None:
    path = written(tmp_path / "t.csv", text)
    with pytest.raises(DataError) as refusal:
        values_of(path)
    assert str(refusal.value) == f"{path}: {reason}"


def test_a_row_without_a_class(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "a,b,price\n1,2,x\n1,2, \n1,2,x\n1,2,y\n1,2,y\n")
    with pytest.raises(DataError) as refusal:
        classes_of(path)
    assert str(refusal.value) == f"{path}: line 3, column 'price': expected a class, got nothing"


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe\x00a", "a,b,price\n1,2,größe\n".encode("latin-1"), b"PK\x03\x04\x80\x90"],
)
def test_a_file_that_is_no_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"t\.csv: cannot be read as a table \('utf-8' codec"):
        values_of(tmp_path / "t.csv")


def test_a_table_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "no.csv", tmp_path):
        with pytest.raises(DataError) as refusal:
            values_of(path)
        assert str(refusal.value).startswith(f"{path}: cannot be read as a table (")


def test_a_cell_without_end(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "a,b,price\n" + "1" * 200_000 + ",2,3\n")
    with pytest.raises(
        DataError, match=r"cannot be read as a table \(field larger than field limit"
    ):
        values_of(path)


def test_a_table_that_does_not_fit_the_experiment(tmp_path: Path, table: Path) -> None:
    with pytest.raises(DataError) as refusal:
        values_of(table, OwnValues(shots=1, queries=1, shape_of_inputs=[3]))
    assert str(refusal.value) == (
        "the shard of client 5 is of 'own_values', inputs [2] with 1 values; the experiment is of "
        "'own_values', inputs [3] with 1 values"
    )
    with pytest.raises(DataError, match=r"an episode needs 2 \(shots\) \+ 2 \(queries\) = 4$"):
        values_of(table, OwnValues(shots=2, queries=2, shape_of_inputs=[2]))
    with pytest.raises(DataError, match="client 5 holds 1 examples of a class"):
        classes_of(table)
