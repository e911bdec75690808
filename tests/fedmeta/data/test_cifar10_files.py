"""The archive as published, in small, and what is wrong with files that are not it."""

import io
import logging
import os
import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmeta.data.cifar10_files import ARCHIVE, CLASSES, SHAPE, SUBSET, Images, read_cifar10
from fedmeta.errors import ConfigError, DataError

TRAIN = [f"data_batch_{i}.bin" for i in range(1, 6)]
NAMES = [*TRAIN, "test_batch.bin"]
Files = dict[str, bytes]


def batch(number: int, labels: list[int]) -> tuple[bytes, Images]:
    """Records of one byte of the label and 3 x 1024 of noise, and what is read of them."""
    pixels = np.random.default_rng(number).integers(0, 256, (len(labels), *SHAPE), np.uint8)
    records = b"".join(
        bytes([label]) + image.tobytes() for label, image in zip(labels, pixels, strict=True)
    )
    return records, Images(pixels, np.array(labels))


def batches() -> tuple[Files, list[Images]]:
    """Six batches; the first has an image more."""
    each = [batch(i, [3, *range(10)] if i == 0 else [*range(9, -1, -1)]) for i in range(6)]
    return {n: content for n, (content, _) in zip(NAMES, each, strict=True)}, [i for _, i in each]


def write_archive(folder: Path, files: Files) -> Path:
    with tarfile.open(folder / ARCHIVE, "w:gz") as archive:
        for name, content in {"readme.html": b"hello", **files}.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return folder / ARCHIVE


def arrays(**changes: np.ndarray) -> dict[str, np.ndarray]:
    """Two images of each class to train on, one to test."""
    generator, found = np.random.default_rng(7), {}
    for part, each in (("train", 2), ("test", 1)):
        found[f"x_{part}"] = generator.integers(0, 256, (10 * each, 32, 32, 3), np.uint8)
        found[f"y_{part}"] = np.arange(10, dtype=np.uint8).repeat(each)
    return found | changes


def refused(folder: Path) -> str:
    """The one line with which the folder's file is refused."""
    with pytest.raises(DataError) as refusal:
        read_cifar10(str(folder))
    line = str(refusal.value)
    assert re.match(rf"^{folder}.* is not CIFAR-10 as published, or is cut short \(", line)
    assert line.endswith("): delete the file and fetch it again")
    assert "\n" not in line
    return line


# What is read


def test_an_archive_is_read_batch_by_batch(tmp_path: Path) -> None:
    """Whatever the order in which it has them."""
    files, images = batches()
    write_archive(tmp_path, dict(reversed(files.items())))
    parts = read_cifar10(str(tmp_path))
    assert np.array_equal(parts.train.x, np.concatenate([i.x for i in images[:5]]))
    assert np.array_equal(parts.train.y, np.concatenate([i.y for i in images[:5]]))
    assert np.array_equal(parts.test.x, images[5].x)
    assert np.array_equal(parts.test.y, images[5].y)
    assert parts.train.of_class(3).tolist() == [0, 4, 17, 27, 37, 47]
    assert (parts.train.per_class, parts.test.per_class) == (5, 1)


def test_planes_are_red_green_and_blue_row_by_row(tmp_path: Path) -> None:
    """Of the published format: the red plane is bytes 1 to 1024, the second row of blue begins at
    1 + 2 x 1024 + 32."""
    files, _ = batches()
    record = bytearray(3073)
    record[0], record[1 + 5], record[1 + 1024], record[1 + 2048 + 32 + 4] = 6, 10, 20, 30
    write_archive(tmp_path, files | {"test_batch.bin": bytes(record)})
    test = read_cifar10(str(tmp_path)).test
    assert test.y.tolist() == [6]
    assert CLASSES[6] == "frog"
    where = np.argwhere(test.x[0]).tolist()
    assert where == [[0, 0, 5], [1, 0, 0], [2, 1, 4]]
    assert [test.x[0][tuple(at)] for at in where] == [10, 20, 30]


def test_a_part_of_the_images_is_read_from_a_file_of_arrays(tmp_path: Path, caplog) -> None:
    """It has the channels last, and says that it is not for figures."""
    (tmp_path / "cifar10_subset").mkdir()
    np.savez(tmp_path / "cifar10_subset" / SUBSET, **arrays())
    with caplog.at_level(logging.WARNING):
        parts = read_cifar10(str(tmp_path))
    assert parts.train.x.shape == (20, *SHAPE)
    assert parts.train.x[13, 2, 5, 7] == arrays()["x_train"][13, 5, 7, 2]
    assert parts.test.y.tolist() == list(range(10))
    assert caplog.messages[0].endswith("those of JPEG files, not for published figures")


@pytest.mark.parametrize("inner", [".", "cifar10"])
def test_the_archive_comes_before_a_part_of_it(tmp_path: Path, monkeypatch, inner: str) -> None:
    np.savez(tmp_path / SUBSET, **arrays())
    (tmp_path / inner).mkdir(exist_ok=True)
    write_archive(tmp_path / inner, batches()[0])
    monkeypatch.setenv("FEDMETA_DATA", str(tmp_path))
    assert len(read_cifar10(None).train.y) == 51


# What is not


@given(part=st.floats(0, 1, exclude_max=True))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_an_archive_that_is_cut_short(tmp_path_factory, part: float) -> None:
    folder = tmp_path_factory.mktemp("cut")
    whole = write_archive(folder, batches()[0]).read_bytes()
    (folder / ARCHIVE).write_bytes(whole[: int(part * len(whole))])
    refused(folder)


def test_noise_and_another_compression(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / ARCHIVE, "w:xz"):
        pass
    refused(tmp_path)
    for content in (b"", b"noise", b"\x1f\x8b" + bytes(100)):
        (tmp_path / ARCHIVE).write_bytes(content)
        refused(tmp_path)


def test_a_flipped_bit_is_seen_by_the_checksum(tmp_path: Path) -> None:
    path = write_archive(tmp_path, batches()[0])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(tmp_path)


BATCHES: dict[str, tuple[Callable[[Files], Files], str]] = {
    "one byte short": (
        lambda files: files | {TRAIN[2]: files[TRAIN[2]][:-1]},
        "data_batch_3.bin has 30729 bytes, which are no 3073 for each image",
    ),
    "empty": (lambda files: files | {TRAIN[0]: b""}, "data_batch_1.bin has 0 bytes"),
    "an eleventh class": (
        lambda files: files | {"test_batch.bin": b"\x0a" + bytes(3072)},
        "test_batch.bin has an image of class 10, expected 0 to 9",
    ),
    "the hundred classes of another dataset": (  # its records have a byte more
        lambda files: dict.fromkeys(files, bytes(10 * 3074)),
        "data_batch_1.bin has 30740 bytes",
    ),
    "a batch missing": (
        lambda files: {name: files[name] for name in NAMES if name != TRAIN[4]},
        "it has no cifar-10-batches-bin/data_batch_5.bin",
    ),
    "nothing": (lambda _: {}, "it has no cifar-10-batches-bin/data_batch_1.bin"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), BATCHES.values(), ids=BATCHES.keys())
def test_batches_that_are_not_as_published(tmp_path: Path, change, said: str) -> None:
    write_archive(tmp_path, change(batches()[0]))
    assert said in refused(tmp_path)


def test_the_edition_in_pickles_is_not_read(tmp_path: Path) -> None:
    content = pickle.dumps({b"data": [0], b"labels": [0]})
    write_archive(tmp_path, dict.fromkeys(["data_batch_1", "test_batch"], content))
    assert "it has no cifar-10-batches-bin/data_batch_1.bin" in refused(tmp_path)


ARRAYS: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "channels first": ({"x_train": np.zeros((20, *SHAPE), np.uint8)}, "x_train is uint8 [20, 32, 3, 32]"),
    "a label too few": ({"y_test": np.arange(9, dtype=np.uint8)}, "x_test is uint8 [10, 3, 32, 32] with"),
    "numbers of 0 to 1": ({"x_train": np.zeros((20, 32, 32, 3))}, "x_train is float64"),
    "a negative class": ({"y_test": np.arange(-1, 9)}, "with int64 [10]"),
    "an eleventh class": ({"y_test": np.arange(1, 11, dtype=np.uint8)}, "of class 10, expected 0 to 9"),
    "no images": ({"x_test": np.zeros((0,), np.uint8), "y_test": np.zeros((0,), np.uint8)}, ""),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), ARRAYS.values(), ids=ARRAYS.keys())
def test_arrays_that_are_not_images(tmp_path: Path, changes, said: str) -> None:
    np.savez(tmp_path / SUBSET, **arrays(**changes))
    assert said in refused(tmp_path)


def test_arrays_that_are_missing_or_cut_short(tmp_path: Path) -> None:
    np.savez(tmp_path / SUBSET, x_train=arrays()["x_train"])
    assert "y_train" in refused(tmp_path)
    np.savez(tmp_path / SUBSET, **arrays())
    whole = (tmp_path / SUBSET).read_bytes()
    for kept in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / SUBSET).write_bytes(whole[:kept])
        refused(tmp_path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / SUBSET)
    refused(tmp_path)


class Order:
    """What an attacker writes: unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    made = tmp_path / "made by the attacker"
    (tmp_path / SUBSET).write_bytes(pickle.dumps(Order(made)))
    refused(tmp_path)
    np.savez(tmp_path / SUBSET, **arrays(x_train=np.array([Order(made)], dtype=object)))
    refused(tmp_path)
    assert not made.exists()


def test_a_folder_without_either(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"^cifar10: neither {ARCHIVE} nor {SUBSET} is in "):
        read_cifar10(str(tmp_path))
    with pytest.raises(DataError, match=r"^data\.root: .* is not a folder"):
        read_cifar10(str(tmp_path / "no"))


def test_without_the_package_that_downloads(monkeypatch) -> None:
    monkeypatch.delenv("FEDMETA_DATA", raising=False)
    monkeypatch.setattr("fedmeta.packages.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"pooch is not installed; pip install 'fedmeta\[data\]'$"
    ):
        read_cifar10(None)
