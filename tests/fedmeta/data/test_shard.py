"""A shard file is what was written or an error of one line, and draws as the federation would."""

import json
import os
import pickle
import shutil
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from fedmeta.data.classes import ClassEpisodes, HeldClasses
from fedmeta.data.federation import (
    MOST_CLIENTS,
    SPLITS,
    Changes,
    ClientCounts,
    Dataset,
    Federation,
)
from fedmeta.data.omniglot import CharacterChanges, Omniglot
from fedmeta.data.omniglot_federation import OmniglotFederation
from fedmeta.data.own import OwnClasses, OwnValues
from fedmeta.data.shard import FORMAT, Shard, contents, fit, read_shard, read_shards, write_shard
from fedmeta.data.sinusoid import Sinusoid
from fedmeta.errors import DataError
from fedmeta.types import Episode

CPU, DTYPE = torch.device("cpu"), torch.float64
quick = settings(derandomize=True, deadline=None, max_examples=25)
seeds, rounds = st.integers(0, 2**31), st.integers(0, 100_000)


def classes(client: int = 3, counts: tuple[int, ...] = (3, 2, 4), split: str = "train") -> Shard:
    """Images of one pixel row; the first pixel is the class, the second the example's number."""
    x = torch.zeros(sum(counts), 1, 2, 2, dtype=torch.uint8)
    x[:, 0, 0, 0] = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    x[:, 0, 0, 1] = torch.cat([torch.arange(count) for count in counts])
    names = tuple(f"class {i}" for i in range(len(counts)))
    return Shard("own_classes", client, split, x, x[:, 0, 0, 0].long(), names)  # type: ignore


def values(client: int = 3, rows: int = 7, split: str = "train") -> Shard:
    """Two columns and their sum, each row another."""
    x = torch.arange(2.0 * rows, dtype=torch.float64).reshape(rows, 2) / 3 + client
    return Shard("own_values", client, split, x, x.sum(dim=1, keepdim=True))  # type: ignore


SHARDS = {
    "classes": classes(),
    "values": values(),
    "float32": replace(values(), x=values().x.float(), y=values().y.float()),
    "the last client": values(3 * MOST_CLIENTS - 1),
    "other letters": replace(classes(), classes=("größe", "日本", 'a "b"\n')),
    "strided": replace(values(), x=torch.arange(28.0).reshape(2, 14).T[::2]),
}


def same(a: Shard, b: Shard) -> bool:
    plain = ("dataset", "client", "split", "classes")
    return all(getattr(a, name) == getattr(b, name) for name in plain) and all(
        mine.dtype == theirs.dtype and torch.equal(mine, theirs)
        for mine, theirs in ((a.x, b.x), (a.y, b.y))
    )


# Files


@pytest.mark.parametrize("shard", SHARDS.values(), ids=SHARDS.keys())
def test_a_shard_comes_back(tmp_path: Path, shard: Shard) -> None:
    write_shard(shard, tmp_path / "new" / "a.safetensors")
    assert same(read_shard(tmp_path / "new" / "a.safetensors"), shard)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.safetensors"]


def test_what_a_shard_says_of_itself() -> None:
    said = classes().header()
    del said["sha256"]
    assert said == {
        "format": FORMAT, "dataset": "own_classes", "client": 3, "split": "train", "examples": 9,
        "classes": ["class 0", "class 1", "class 2"], "counts": [3, 2, 4],
    }  # fmt: skip
    assert (values().header()["classes"], values().header()["counts"]) == ([], [7])
    assert (classes().kind, values().kind) == ("cross_entropy", "mean_squared_error")


def test_its_owner_alone_may_read_a_shard(tmp_path: Path) -> None:
    for _ in range(2):  # written anew too
        write_shard(classes(), tmp_path / "a.safetensors")
        assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o600
        (tmp_path / "a.safetensors").chmod(0o644)


def test_shards_of_a_folder_come_in_client_order(tmp_path: Path) -> None:
    for client in (12, 3, 7):
        write_shard(values(client), tmp_path / f"client-{client}.safetensors")
    (tmp_path / "notes.txt").write_text("not a shard")
    assert [shard.client for shard in read_shards(tmp_path)] == [3, 7, 12]
    assert [s.client for s in read_shards(tmp_path / "client-7.safetensors")] == [7]


def test_contents_are_those_of_the_shards_wherever_they_lie(tmp_path: Path) -> None:
    shards = [classes(3), classes(5, split="val")]

    def hashed(name: str, shards: Sequence[Shard]) -> str:
        for i, shard in enumerate(shards):
            write_shard(shard, tmp_path / name / f"{name}-{i}.safetensors")
        return contents(tmp_path / name)

    first = hashed("a", shards)
    assert hashed("moved, renamed", shards[::-1]) == first
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert contents(tmp_path / "b") == first
    pixel = shards[0].x.clone()
    pixel[-1, -1, -1, -1] = 1
    others = [
        shards[:1],
        [*shards, classes(7)],
        [classes(4), shards[1]],
        [classes(3, split="test"), shards[1]],
        [replace(shards[0], x=pixel), shards[1]],
        [replace(shards[0], classes=("x", "y", "z")), shards[1]],
        [values(3), values(5)],
    ]
    found = [hashed(f"other {i}", other) for i, other in enumerate(others)]
    assert len({first, *found}) == 1 + len(others)


@pytest.mark.parametrize("header", ["", "null", "[]", "{}", "[" * 100_000])
def test_contents_of_what_is_no_shard(file: Path, header: str) -> None:
    save_file({"x": torch.zeros(1)}, file, {"header": header})
    with pytest.raises(DataError, match=r"a\.safetensors: is cut short or no shard"):
        contents(file.parent)
    file.write_bytes(b"")
    with pytest.raises(DataError, match="is cut short or no shard"):
        contents(file.parent)
    file.unlink()
    with pytest.raises(DataError, match=r"has no \.safetensors file"):
        contents(file.parent)


def refused(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(DataError) as refusal:
        read_shards(path)
    line = str(refusal.value)
    assert line.startswith(f"shard {path}: ")
    assert "\n" not in line
    assert len(line) < 1000
    return line


class Order:
    """What an attacker writes: unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_shard(classes(), tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def test_a_missing_file(tmp_path: Path) -> None:
    assert refused(tmp_path / "a.safetensors").endswith(": there is no such file")


def test_a_folder_without_files(tmp_path: Path) -> None:
    assert refused(tmp_path).endswith(": the folder has no .safetensors file")


def test_a_folder_by_the_name_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(DataError, match=r"a\.safetensors: there is no such file$"):
        read_shards(tmp_path)


def test_two_files_of_one_client(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shard(values(5), tmp_path / f"{name}.safetensors")
    assert refused(tmp_path).endswith(": two files are of client 5")


def test_a_broken_file_among_good_ones_is_named(tmp_path: Path, file: Path) -> None:
    write_shard(values(4), tmp_path / "b.safetensors")
    file.write_bytes(b"")
    with pytest.raises(DataError, match=r"^shard .*/a\.safetensors: is cut short"):
        read_shards(tmp_path)


def test_an_empty_file_and_noise(file: Path) -> None:
    for content in (b"", b"noise", b"\0" * 100, b"\xff" * 100):
        file.write_bytes(content)
        assert "is cut short, altered or no shard (" in refused(file)
        assert refused(file).endswith("; make it again")


@given(part=st.floats(0, 1, exclude_max=True))
@settings(derandomize=True, deadline=None, max_examples=40)
def test_a_file_that_is_cut_short(tmp_path_factory, part: float) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.safetensors"
    write_shard(classes(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    assert "is cut short, altered or no shard (" in refused(path)


@pytest.mark.parametrize("more", [b"\0", b"more"])
def test_a_file_with_more_at_its_end(file: Path, more: bytes) -> None:
    file.write_bytes(file.read_bytes() + more)
    refused(file)


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), kind=st.booleans())
@settings(derandomize=True, deadline=None, max_examples=300)
def test_a_flipped_bit_is_seen_or_makes_no_difference(tmp_path_factory, place, bit, kind) -> None:
    """Blanks after the JSON, and letters of it that mean the same, are no part of what is hashed."""
    path, shard = tmp_path_factory.getbasetemp() / "flip.safetensors", (values, classes)[kind]()
    write_shard(shard, path)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    try:
        found = read_shard(path)
    except DataError:
        refused(path)
    else:
        assert same(found, shard)


def test_every_flipped_bit_of_the_data_is_seen(file: Path) -> None:
    whole = file.read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")
    assert len(whole) - begin == 9 * 4 + 9 * 8  # bytes of x and of y
    for place in range(begin, len(whole)):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        file.write_bytes(content)
        assert "altered" in refused(file)


def rewrite(path: Path, shard: Shard, tensors: dict[str, torch.Tensor], **said: object) -> None:
    """The file of someone who does not go by ``write_shard``."""
    save_file(tensors, path, {"header": json.dumps(shard.header() | said)})


LIES: dict[str, tuple[str, object]] = {
    "another client": ("client", 4),
    "a negative client": ("client", -1),
    "more than there can be": ("client", 3 * MOST_CLIENTS),
    "no number of a client": ("client", "me"),
    "a client without end": ("client", float("inf")),
    "a client that is none": ("client", None),
    "half a client": ("client", 3.5),
    "another split": ("split", "test"),
    "no split": ("split", "trian"),
    "a list for a split": ("split", ["train"]),
    "another dataset": ("dataset", "omniglot"),
    "another format": ("format", "fedmeta-shard-0"),
    "fewer examples": ("examples", 8),
    "other counts": ("counts", [2, 3, 4]),
    "other names": ("classes", ["a", "b", "c"]),
    "a name too few": ("classes", ["class 0", "class 1"]),
    "names that are none": ("classes", 3),
    "no names": ("classes", []),
    "a text for names": ("classes", "abc"),
    "another hash": ("sha256", "0" * 64),
    "no hash": ("sha256", None),
    "one thing more": ("note", "hello"),
}


@pytest.mark.parametrize(("key", "said"), LIES.values(), ids=LIES.keys())
def test_a_header_that_lies(file: Path, key: str, said: object) -> None:
    rewrite(file, classes(), {"x": classes().x, "y": classes().y}, **{key: said})
    assert "is cut short, altered or no shard (" in refused(file)


@pytest.mark.parametrize("key", ["format", "dataset", "client", "split", "classes", "sha256"])
def test_a_header_that_leaves_something_out(file: Path, key: str) -> None:
    header = {k: v for k, v in classes().header().items() if k != key}
    save_file({"x": classes().x, "y": classes().y}, file, {"header": json.dumps(header)})
    refused(file)


@pytest.mark.parametrize("text", ["", "null", "3", "[]", '"x"', "{", "[" * 100_000, "\0"])
def test_a_header_that_is_none(file: Path, text: str) -> None:
    save_file({"x": torch.ones(2), "y": torch.ones(2)}, file, {"header": text})
    refused(file)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_another_safetensors_file(file: Path, metadata: dict[str, str] | None) -> None:
    """Such as a run's params."""
    save_file({"head.weight": torch.ones(2, 3)}, file, metadata)
    refused(file)


@pytest.mark.parametrize("names", [("x",), ("y",), (), ("x", "y", "z")])
def test_a_tensor_too_few(file: Path, names: tuple[str, ...]) -> None:
    """One more than is known is not looked at."""
    tensors = {"x": classes().x, "y": classes().y, "z": torch.ones(3)}
    rewrite(file, classes(), {name: tensors[name] for name in names})
    if len(names) < 3:
        refused(file)
    else:
        assert same(read_shard(file), classes())


def of_y(*y: int, names: int = 2, dtype: torch.dtype = torch.int64) -> Shard:
    x = torch.zeros(len(y), 1, 2, 2)
    return Shard("own_classes", 3, "train", x, torch.tensor(y, dtype=dtype), ("a", "b")[:names])


IMPOSSIBLE: dict[str, tuple[Shard, str]] = {
    "no examples": (
        replace(values(), x=torch.zeros(0, 2), y=torch.zeros(0, 1)),
        "0 inputs and 0 targets",
    ),
    "fewer targets": (replace(values(), y=values().y[1:]), "7 inputs and 6 targets"),
    "values of one dimension": (
        replace(values(), y=values().y[:, 0]),
        r"values must be [examples, outputs], got [7]",
    ),
    "whole-numbered values": (
        replace(values(), y=values().y.long()),
        "values must be [examples, outputs]",
    ),
    "classes out of order": (of_y(0, 1, 0), "classes must be numbered from 0, one after the other"),
    "classes as int32": (of_y(0, 1, dtype=torch.int32), "classes must be numbered from 0"),
    "a class without a name": (of_y(0, 1, names=1), "every class needs a name and an example"),
    "a class without an example": (of_y(0, 0), "every class needs a name and an example"),
    "a class left out": (of_y(1, 1), "every class needs a name and an example"),
    "a client that is none": (values(-1), "client must be 0"),
    "a split that is none": (values(split="all"), "split must be one of train, val, test"),
}


@pytest.mark.parametrize(("shard", "reason"), IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_a_shard_that_cannot_be_is_refused_whatever_its_hash(
    tmp_path: Path, shard: Shard, reason: str
) -> None:
    path = tmp_path / "a.safetensors"
    rewrite(path, shard, {"x": shard.x, "y": shard.y})
    assert f"({reason}" in refused(path)


@pytest.mark.parametrize(
    "y",
    [
        torch.tensor(0),
        torch.tensor([0.0, 1.0]),
        torch.tensor([-1, 0]),
        torch.tensor([0, 10**12]),
        torch.zeros(2, 1),
    ],
    ids=str,
)
def test_targets_that_no_class_has(file: Path, y: torch.Tensor) -> None:
    rewrite(file, of_y(0, 1), {"x": torch.zeros(2, 1, 2, 2), "y": y})
    refused(file)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    made = tmp_path / "made by the attacker"
    path = tmp_path / "a.safetensors"
    path.write_bytes(pickle.dumps(Order(made)))
    refused(path)
    torch.save({"x": torch.ones(2)}, path)  # a zip with a pickle in it
    refused(path)
    assert not made.exists()


# Episodes of held shards are those of the whole federation

COUNTS = ClientCounts(train=60, val=20, test=20)
GLYPHS = Omniglot(
    federation="pooled", ways=3, shots=2, queries=3, split="maml", characters=5, clients=COUNTS
)
SINES = Sinusoid(shots=2, queries=3, clients=COUNTS, examples=9)
FEDERATIONS: dict[str, Dataset] = {
    "omniglot": GLYPHS,
    "omniglot, client labels": replace(GLYPHS, characters=3, labels="client"),
    "omniglot, upright": replace(GLYPHS, rotations=False),
    "omniglot, held out": replace(GLYPHS, held_out=7),
    "omniglot, other evaluation": replace(
        GLYPHS, evaluation=CharacterChanges(ways=2, shots=4, queries=1, characters=4)
    ),
    "omniglot, both": replace(
        GLYPHS, held_out=4, evaluation=CharacterChanges(shots=16, queries=4)
    ),
    "alphabet": Omniglot(federation="alphabet", ways=5, shots=1, queries=4),
    "alphabet, held out": Omniglot(
        federation="alphabet", ways=5, shots=1, queries=4, held_out=5
    ),
    "sinusoid": SINES,
    "sinusoid, unequal": replace(SINES, least_examples=6),
    "sinusoid, the rest": replace(SINES, queries=None, least_examples=4),
    "sinusoid, held out": replace(SINES, least_examples=8, held_out=3),
    "sinusoid, other evaluation": replace(
        SINES, held_out=2, evaluation=Changes(shots=5, queries=2)
    ),
    "sinusoid, frequencies": replace(SINES, frequencies=[0.5, 2.0]),
}  # fmt: skip


@pytest.fixture(scope="session")
def whole(coded) -> Callable[[Dataset, int, torch.dtype], Federation]:
    def openly(dataset: Dataset, seed: int, dtype: torch.dtype) -> Federation:
        if isinstance(dataset, Omniglot):
            return OmniglotFederation(dataset, coded.characters, seed, CPU, dtype)
        return dataset.open(seed, CPU, dtype)

    return openly


def equal(a: Episode, b: Episode) -> bool:
    pairs = zip([*a.support, *a.query], [*b.support, *b.query], strict=True)
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", FEDERATIONS)
@given(
    seed=seeds,
    round=rounds,
    places=st.lists(st.integers(0, 49), min_size=1, max_size=4, unique=True),
    more=st.sets(st.integers(0, 49), max_size=3),
    draws=st.integers(1, 3),
)
@settings(derandomize=True, deadline=None, max_examples=12)
def test_a_device_draws_what_the_federation_would_draw_for_it(
    whole, name, dtype, seed, round, places, more, draws
) -> None:
    """Train, validation and test clients, whoever is held beside them, in training and evaluation."""
    dataset = FEDERATIONS[name]
    federation = whole(dataset, seed, dtype)
    ids = [client for split in SPLITS for client in federation.clients(split)]
    chosen = [ids[place * len(ids) // 50] for place in places]
    beside = {ids[place * len(ids) // 50] for place in more}
    shards = [federation.take(client, "any") for client in sorted({*chosen, *beside})]
    held = dataset.hold(shards, CPU, dtype)
    assert [c for split in SPLITS for c in held.clients(split)] == sorted({*chosen, *beside})
    for split in SPLITS:
        assert set(held.clients(split)) <= set(federation.clients(split))
    clients = np.array(chosen)
    assert held.examples(clients).tolist() == federation.examples(clients).tolist()
    for purpose in ("train", "evaluate"):
        lengths = federation.lengths(clients, purpose)
        assert held.lengths(clients, purpose).tolist() == lengths.tolist()
        train = np.isin(clients, federation.clients("train"))
        asked = clients if purpose == "evaluate" else clients[train]
        for length in np.unique(federation.lengths(asked, purpose)):
            alike = asked[federation.lengths(asked, purpose) == length]
            where = (alike, draws, seed, purpose, round)
            assert equal(held.draw(*where), federation.draw(*where))


def test_a_held_shard_goes_into_a_file_and_out_again(whole, tmp_path: Path) -> None:
    """And what is taken of what is held is the same shard."""
    for dataset in (GLYPHS, SINES):
        shard = whole(dataset, 4, DTYPE).take(61, "some")
        write_shard(shard, tmp_path / "a.safetensors")
        held = dataset.hold([read_shard(tmp_path / "a.safetensors")], CPU, DTYPE)
        assert same(held.take(61, "some"), shard)
        assert shard.split == "val"


# Classes of unequal sizes

HELD_ROWS = OwnValues(shots=1, queries=1, held_out=5, shape_of_inputs=[2])


def own(**changes: object) -> OwnClasses:
    settings = {"ways": 2, "shots": 1, "queries": 1, "shape_of_inputs": [1, 2, 2]} | changes
    return OwnClasses(**settings)  # type: ignore


@given(
    counts=st.lists(st.integers(4, 9), min_size=2, max_size=5),
    seed=seeds,
    round=rounds,
    held_out=st.sampled_from([0, 2]),
)
@quick
def test_unequal_classes_share_no_example_and_leave_none_out(counts, seed, round, held_out) -> None:
    """300 draws of 2 of at most 9: one of 9 x 5 is never drawn with probability 45 (1 - 2/45)^300,
    about 5e-5; the examples of Hypothesis are always the same."""
    dataset = own(shots=1, queries=1, held_out=held_out)
    held = dataset.hold([classes(3, tuple(counts))], CPU, DTYPE)
    drawn = held.draw(np.array([3]), 300, seed, "train", round).draw(0)
    seen = set()
    for index in range(300):
        support, query = drawn.draw(index)
        assert support.y.tolist() == query.y.tolist() == [0, 1]
        examples = [
            (round_(x[0, 0, 0]), round_(x[0, 0, 1])) for part in (support, query) for x in part.x
        ]
        assert len(set(examples)) == 4
        assert [c for c, _ in examples[:2]] == [c for c, _ in examples[2:]]
        seen |= set(examples)
    assert seen == {(c, i) for c, n in enumerate(counts) for i in range(n - held_out)}


def round_(pixel: torch.Tensor) -> int:
    return round(255 * float(pixel))


def test_the_queries_of_seen_clients_are_the_examples_that_were_held_out() -> None:
    dataset = own(shots=2, queries=2, held_out=2)
    held = dataset.hold([classes(3, (6, 9, 7))], CPU, DTYPE)
    drawn = held.draw(np.array([3]), 50, 0, "evaluate").draw(0)
    sizes = {0: 6, 1: 9, 2: 7}
    for part, kept in ((drawn.query, True), (drawn.support, False)):
        for x in part.x.flatten(0, 1):
            number, example = round_(x[0, 0, 0]), round_(x[0, 0, 1])
            assert (example >= sizes[number] - 2) == kept


def test_an_unseen_client_may_hold_less_than_seen_ones_hold_out() -> None:
    """Of its 3 examples 2 are drawn, alone and beside a client of whose 9 the last 5 are held out."""
    seen, unseen = classes(0, (9, 9)), classes(1, (3, 3), "test")
    rows = replace(values(0, 9), split="train"), replace(values(1, 3), split="test")
    for dataset, shards in ((own(held_out=5), (seen, unseen)), (HELD_ROWS, rows)):
        both = dataset.hold(shards, CPU, DTYPE)
        alone = dataset.hold(shards[1:], CPU, DTYPE)
        together = both.draw(np.array([0, 1]), 20, 0, "evaluate")
        assert equal(together.draw(1), alone.draw(np.array([1]), 20, 0, "evaluate").draw(0))
        drawn = together.draw(1)
        held = torch.cat([drawn.support.x.flatten(0, 1), drawn.query.x.flatten(0, 1)])
        assert len(torch.unique(held.flatten(1), dim=0)) == len(shards[1].y)


def test_clients_with_unequal_classes_draw_alone_as_together() -> None:
    shards = [classes(0, (4, 7)), classes(1, (6, 4, 9)), classes(2, (5, 5))]
    held = own().hold(shards, CPU, DTYPE)
    together = held.draw(np.array([2, 0, 1]), 5, 0, "train", 1)
    for place, shard in zip((1, 2, 0), shards, strict=True):
        alone = own().hold([shard], CPU, DTYPE)
        assert equal(
            together.draw(place), alone.draw(np.array([shard.client]), 5, 0, "train", 1).draw(0)
        )


def test_images_beside_rows_of_numbers_are_still_images() -> None:
    """Bytes are 0 to 255 and seen as 0 to 1, whatever another client's table holds."""
    image = classes(0, (4, 4))
    table = replace(image, client=1, x=image.x.double())
    held = own().hold([image, table], CPU, torch.float32)
    alone = own().hold([image], CPU, torch.float32)
    where = (np.array([0]), 3, 0, "train", 1)
    assert equal(held.draw(*where), alone.draw(*where))
    assert held.draw(np.array([1]), 3, 0, "train", 1).support.x.max() > 1


# Shards that do not fit

ROWS = OwnValues(shots=2, queries=3, shape_of_inputs=[2])
MISFITS: dict[str, tuple[Dataset, Shard, str]] = {
    "another dataset": (
        own(),
        replace(classes(), dataset="omniglot"),
        "the shard of client 3 is of 'omniglot', inputs [1, 2, 2] with classes; the experiment is "
        "of 'own_classes', inputs [1, 2, 2] with classes",
    ),
    "another shape": (
        own(shape_of_inputs=[1, 3, 3]),
        classes(),
        "the shard of client 3 is of 'own_classes', inputs [1, 2, 2] with classes; the experiment "
        "is of 'own_classes', inputs [1, 3, 3] with classes",
    ),
    "values for classes": (
        own(shape_of_inputs=[2]),
        replace(values(), dataset="own_classes"),
        "the shard of client 3 is of 'own_classes', inputs [2] with 1 values; the experiment is of "
        "'own_classes', inputs [2] with classes",
    ),
    "classes for values": (
        OwnValues(shots=1, queries=1, shape_of_inputs=[1, 2, 2]),
        replace(classes(), dataset="own_values"),
        "the shard of client 3 is of 'own_values', inputs [1, 2, 2] with classes; the experiment is "
        "of 'own_values', inputs [1, 2, 2] with 1 values",
    ),
    "more outputs": (
        replace(ROWS, outputs=2),
        values(),
        "the shard of client 3 is of 'own_values', inputs [2] with 1 values; the experiment is of "
        "'own_values', inputs [2] with 2 values",
    ),
    "too few classes": (
        own(ways=4),
        classes(),
        "data.ways: client 3 holds 3 classes, a 4-way episode is missing 1",
    ),
    "too few classes of an unseen client": (
        own(ways=4),
        classes(split="test"),
        "data.evaluation.ways: client 3 holds 3 classes, a 4-way episode is missing 1",
    ),
    "more classes than keep their numbers": (
        own(labels="client"),
        classes(),
        "data.labels: client 3 holds 3 classes; where they keep their numbers, it must be "
        "data.ways 2",
    ),
    "too few examples of a class": (
        own(shots=1, queries=2),
        classes(),
        "data: client 3 holds 2 examples of a class, an episode needs 1 (shots) + 2 (queries) = 3",
    ),
    "too few when some are held out": (
        own(held_out=1),
        classes(),
        "data: client 3 holds 1 examples of a class, an episode needs 1 (shots) + 1 (queries) = 2",
    ),
    "fewer held out than queries": (
        own(queries=2, held_out=1),
        classes(counts=(5, 5)),
        "data.held_out must be 0 or, of 5 examples, leave 1 (shots) and have 2 (queries) of an "
        "evaluation, got 1",
    ),
    "too few rows": (
        ROWS,
        values(rows=4),
        "data.examples: client 3 holds 4 examples, an episode needs 2 (shots) + 3 (queries) = 5",
    ),
    "too few rows when some are held out": (
        replace(ROWS, held_out=3),
        values(rows=7),
        "data.examples: client 3 holds 4 examples, an episode needs 2 (shots) + 3 (queries) = 5",
    ),
    "a support without a query": (
        replace(ROWS, queries=None),
        values(rows=2),
        "data.examples: client 3 holds 2 examples, an episode needs 2 (shots) + 1 (queries) = 3",
    ),
}  # fmt: skip


def held(shard: Shard, dataset: Dataset, name: str) -> Federation:
    fit([shard], dataset, name)
    return dataset.hold([shard], CPU, DTYPE)


@pytest.mark.parametrize(("dataset", "shard", "message"), MISFITS.values(), ids=MISFITS.keys())
def test_a_shard_that_does_not_fit_the_experiment(
    tmp_path: Path, dataset: Dataset, shard: Shard, message: str
) -> None:
    """Said alike on a device and where a simulation opens a folder of shards."""
    name = "own_classes" if isinstance(dataset, ClassEpisodes) else "own_values"
    with pytest.raises(DataError) as refusal:
        held(shard, dataset, name)
    assert str(refusal.value) == message
    write_shard(shard, tmp_path / "a.safetensors")
    with pytest.raises(DataError) as refusal:
        replace(dataset, root=str(tmp_path)).open(0, CPU, DTYPE)  # type: ignore
    assert str(refusal.value) == message


def test_a_shard_that_fits_exactly() -> None:
    assert isinstance(held(classes(), own(ways=3), "own_classes"), HeldClasses)
    exactly = held(values(rows=6), replace(ROWS, held_out=2, queries=2), "own_values")
    assert exactly.draw(np.array([3]), 1, 0, "train").query.y.shape == (1, 1, 2, 1)


def test_training_may_have_more_queries_than_are_held_out_for_evaluation() -> None:
    """Of 12 rows, 9 train: 4 shots and 5 queries; an evaluation has 4 shots of them and the 3."""
    dataset = replace(ROWS, shots=4, queries=5, held_out=3, evaluation=Changes(queries=3))
    held = dataset.hold([values(rows=12)], CPU, DTYPE)
    assert held.lengths(np.array([3]), "train").tolist() == [9]
    assert held.lengths(np.array([3]), "evaluate").tolist() == [7]


def test_shards_of_ones_own_come_from_a_folder_that_is_named(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FEDMETA_DATA", raising=False)
    with pytest.raises(
        DataError, match=r"^data\.root must name a folder of shard files, got nothing$"
    ):
        own().open(0, CPU, DTYPE)
    with pytest.raises(DataError, match=r"^data\.root: .*/no is not a folder"):
        own(root=str(tmp_path / "no")).open(0, CPU, DTYPE)
