import json
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import chisquare

from fedmeta.data.federation import SPLITS, ClientCounts, Purpose
from fedmeta.data.omniglot import CharacterChanges, Omniglot
from fedmeta.data.omniglot_federation import OmniglotFederation
from fedmeta.data.omniglot_files import (
    DRAWINGS,
    Characters,
    _decode,
    _drawings,
    read_characters,
)
from fedmeta.data.omniglot_splits import alphabet_characters, pooled_characters
from fedmeta.errors import ConfigError, DataError
from fedmeta.types import Episode

COUNTS = ClientCounts(train=1000, val=100, test=200)
CPU = torch.device("cpu")
quick = settings(derandomize=True, deadline=None, max_examples=25)
seeds = st.integers(0, 2**31)


def opened(dataset: Omniglot, characters: Characters, seed: int = 0) -> OmniglotFederation:
    return OmniglotFederation(dataset, characters, seed, CPU, torch.float64)


def pooled(**changes) -> Omniglot:
    return Omniglot(
        **(
            {
                "federation": "pooled",
                "ways": 5,
                "shots": 2,
                "queries": 3,
                "split": "maml",
                "clients": COUNTS,
            }
            | changes
        )
    )


def by_alphabet(ways: int = 5, shots: int = 2, queries: int = 3) -> Omniglot:
    return Omniglot(federation="alphabet", ways=ways, shots=shots, queries=queries)


# Episodes


@st.composite
def datasets(draw: st.DrawFn) -> Omniglot:
    ways, shots, queries = draw(st.tuples(st.integers(2, 7), st.integers(1, 3), st.integers(1, 17)))
    if draw(st.booleans()):
        return by_alphabet(ways, shots, queries)
    return pooled(
        ways=ways,
        shots=shots,
        queries=queries,
        characters=draw(st.integers(ways, 12)),
        rotations=draw(st.booleans()),
    )


@given(dataset=datasets(), seed=seeds, place=st.integers(0, 2**31))
@quick
def test_episodes_are_balanced_disjoint_and_of_the_clients_own_classes(
    coded, dataset, seed, place
) -> None:
    federation = opened(dataset, coded.characters, seed)
    client = place % federation.clients("test").stop
    drawn = federation.draw(np.array([client]), 2, seed, "train", 0).draw(0)
    for episode in (drawn.draw(0), drawn.draw(1)):
        class_of_label: dict[int, set[int]] = {}
        for part, count in ((episode.support, dataset.shots), (episode.query, dataset.queries)):
            labels = part.y.tolist()
            assert labels == count * list(range(dataset.ways))  # so every N in a row have each once
            for image, label in zip(part.x, labels, strict=True):
                class_of_label.setdefault(label, set()).add(coded.read(image)[0])
        classes = [kind for kinds in class_of_label.values() for kind in kinds]
        assert len(classes) == len(set(classes)) == dataset.ways
        assert set(classes) <= set(federation.shard(client).tolist())
        images = [
            coded.read(image) for part in (episode.support, episode.query) for image in part.x
        ]
        assert len(set(images)) == len(images) == dataset.ways * (dataset.shots + dataset.queries)


def test_all_drawings_take_part(coded) -> None:
    """One support and nineteen queries: every class shows all of its twenty drawings."""
    federation = opened(pooled(shots=1, queries=19), coded.characters)
    support, query = federation.draw(np.array([7]), 1, 0, "train", 0).draw(0).draw(0)
    for label in range(5):
        images = torch.cat([part.x[part.y == label] for part in (support, query)])
        assert sorted(coded.read(image)[1] for image in images) == list(range(20))


def test_training_never_draws_what_is_held_out(coded) -> None:
    """Of 20 drawings 4 are held out; a client that took part is asked about these alone."""
    few = ClientCounts(train=5, val=2, test=5)
    federation = opened(pooled(clients=few, queries=2, held_out=4), coded.characters)

    def drawn(client: int, purpose: Purpose) -> tuple[set, set]:
        parts = federation.draw(np.array([client]), 60, 0, purpose)
        return tuple({coded.read(image) for image in part.x.flatten(0, 2)} for part in parts)

    trained = set.union(*drawn(3, "train"))
    support, query = drawn(3, "evaluate")
    assert (len(trained), len(query)) == (5 * 16, 5 * 4)
    assert support <= trained
    assert not query & trained
    assert len(set.union(*drawn(9, "evaluate"))) == 5 * 20  # unseen: nothing is held out


@pytest.mark.parametrize(
    ("held_out", "error", "message"),
    [
        (-1, ConfigError, r"^data\.held_out must be 0 or more, got -1$"),
        (2, DataError, r"^data\.held_out must be 0 or, of 20 .* 3 \(queries\) .*, got 2$"),
        (16, DataError, r"holds 4 examples .* 2 \(shots\) \+ 3 \(queries\) = 5$"),
    ],
)
def test_what_is_held_out_must_fit(coded, held_out: int, error, message: str) -> None:
    with pytest.raises(error, match=message):
        opened(pooled(held_out=held_out), coded.characters)


def test_classes_and_labels_are_dealt_evenly(coded) -> None:
    """In 2000 episodes of 5 out of 10 classes a class has a label 2000 / 10 = 200 times."""
    federation = opened(pooled(characters=10, shots=1, queries=1), coded.characters)
    support = federation.draw(np.array([3]), 2000, 0, "train", 0).draw(0).support
    shard = federation.shard(3).tolist()
    counts = np.zeros((10, 5), int)
    for image, label in zip(support.x.flatten(0, 1), support.y.flatten().tolist(), strict=True):
        counts[shard.index(coded.read(image)[0]), label] += 1
    assert chisquare(counts.ravel()).pvalue > 1e-3  # the seed is fixed


# Labels, and episodes of evaluation


def kinds(coded, episode: Episode) -> dict[int, int]:
    """The class of each label of an episode."""
    found: dict[int, set[int]] = {}
    for part in episode:
        for image, label in zip(part.x, part.y.tolist(), strict=True):
            found.setdefault(label, set()).add(coded.read(image)[0])
    return {label: kind for label, (kind,) in found.items()}


def every_episode(federation: OmniglotFederation, client: int) -> list[Episode]:
    """Three of each of two rounds of training, and three of evaluation."""
    addresses: list[tuple[Purpose, int]] = [("train", 1), ("train", 2), ("evaluate", 0)]
    drawn = [federation.draw(np.array([client]), 3, 0, *where).draw(0) for where in addresses]
    return [episodes.draw(index) for episodes in drawn for index in range(3)]


@given(seed=seeds, client=st.integers(0, 1299))
@quick
def test_a_client_keeps_the_number_of_its_class(coded, seed, client) -> None:
    """In every draw, round and purpose, and over all of its five characters."""
    federation = opened(pooled(labels="client"), coded.characters, seed)
    numbers = [kinds(coded, episode) for episode in every_episode(federation, client)]
    assert all(number == numbers[0] for number in numbers)
    assert set(numbers[0].values()) == set(federation.shard(client).tolist())


def test_a_client_that_keeps_its_numbers_draws_other_drawings(coded) -> None:
    """5 x 5 of 20 drawings: none of nine episodes is equal to another."""
    federation = opened(pooled(labels="client"), coded.characters)
    seen = [episode.support.x for episode in every_episode(federation, 3)]
    assert not any(torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])


def test_by_default_classes_are_numbered_anew_in_every_draw(coded) -> None:
    """Nine numberings of five classes are all equal with a chance of 120^-8."""
    numbers = [kinds(coded, e) for e in every_episode(opened(pooled(), coded.characters), 3)]
    assert any(number != numbers[0] for number in numbers)
    assert {frozenset(number.values()) for number in numbers} == {frozenset(numbers[0].values())}


def test_kept_numbers_move_neither_shards_nor_drawings(coded) -> None:
    """Label l of the kept numbering is the l-th class of the same shard."""
    anew, kept = (opened(pooled(labels=how), coded.characters) for how in ("episode", "client"))
    assert np.array_equal(anew.shard(3), kept.shard(3))
    for mine, theirs in zip(every_episode(anew, 3), every_episode(kept, 3), strict=True):
        one, other = ([coded.read(x)[1] for x in episode.query.x] for episode in (mine, theirs))
        assert one == other


@pytest.mark.parametrize(
    ("changes", "evaluate"),
    [
        ({}, (5, 2, 3)),
        ({"ways": 3}, (3, 2, 3)),
        ({"shots": 5}, (5, 5, 3)),
        ({"queries": 1}, (5, 2, 1)),
        ({"ways": 2, "shots": 1, "queries": 19}, (2, 1, 19)),
    ],
)
@pytest.mark.parametrize("federation", ["pooled", "alphabet"])
def test_episodes_of_evaluation_may_be_of_other_sizes(
    coded, federation: str, changes, evaluate
) -> None:
    make = pooled if federation == "pooled" else by_alphabet
    dataset = replace(make(), evaluation=CharacterChanges(**changes))
    assert dataset.outputs == 5
    found, ids = opened(dataset, coded.characters), np.array([4, 2])
    shapes: list[tuple[Purpose, tuple[int, int, int]]] = [
        ("train", (5, 2, 3)),
        ("evaluate", evaluate),
    ]
    for purpose, (ways, shots, queries) in shapes:
        assert found.lengths(ids, purpose).tolist() == [ways * (shots + queries)] * 2
        drawn = found.draw(ids, 2, 0, purpose)
        assert drawn.support.y[1, 1].tolist() == shots * list(range(ways))
        assert drawn.query.y[1, 1].tolist() == queries * list(range(ways))
        classes = list(kinds(coded, drawn.draw(1).draw(1)).values())
        assert len(set(classes)) == ways
        assert set(classes) <= set(found.shard(2).tolist())


@given(seed=seeds, client=st.integers(0, 1299))
@quick
def test_a_pooled_shard_has_distinct_classes_of_its_split(coded, seed, client) -> None:
    federation = opened(pooled(characters=9), coded.characters, seed)
    shard = federation.shard(client)
    split = next(split for split in SPLITS if client in federation.clients(split))
    assert len(set(shard.tolist())) == 9
    assert np.isin(shard // 4, pooled_characters(coded.characters, "maml")[split]).all()
    assert federation.examples(np.array([client])).tolist() == [9 * 20]


def test_every_class_of_a_pool_is_in_some_shard_and_all_turns_occur(coded) -> None:
    """1000 train clients hold 40 of 4400 classes each: 4400 (1 - 1/110)^1000 = 0.47 are in none,
    and more than 10 by a chance of 1e-11."""
    federation = opened(pooled(characters=40), coded.characters)
    held = np.unique(
        np.concatenate([federation.shard(client) for client in federation.clients("train")])
    )
    train = pooled_characters(coded.characters, "maml")["train"]
    every = (4 * train[:, None] + np.arange(4)).ravel()
    assert np.isin(held, every).all()
    assert len(held) >= 4390


def test_without_rotations_characters_stand_upright(coded) -> None:
    federation = opened(pooled(rotations=False), coded.characters)
    shards = np.concatenate([federation.shard(client) for client in range(100)])
    assert (shards % 4 == 0).all()


def test_the_federations_of_two_seeds_differ(coded) -> None:
    one, other = (opened(pooled(), coded.characters, seed) for seed in (0, 1))
    shards = [
        [federation.shard(client).tolist() for client in range(20)] for federation in (one, other)
    ]
    assert not any(mine == theirs for mine, theirs in zip(*shards, strict=True))


# Splits of the real characters


def names(characters: Characters, which: np.ndarray) -> set[str]:
    part = {True: "images_background", False: "images_evaluation"}
    return {
        f"{part[bool(characters.background[i])]}/{characters.alphabets[i]}"
        f"/character{characters.numbers[i]:02d}"
        for i in which
    }


def test_vinyals_split_is_the_published_list(real, data_folder: str) -> None:
    listed = Path(data_folder) / "omniglot" / "vinyals_split.json"
    if not listed.is_file():
        pytest.skip(f"{listed} is not there: it is the published list")
    published = json.loads(listed.read_text())
    pools = pooled_characters(real, "vinyals")
    assert {split: len(pool) for split, pool in pools.items()} == {
        "train": 1028,
        "val": 172,
        "test": 423,
    }
    for split in SPLITS:
        assert names(real, pools[split]) == set(published[split])


def test_maml_split_deals_all_characters_out(real) -> None:
    pools = pooled_characters(real, "maml")
    assert {split: len(pool) for split, pool in pools.items()} == {
        "train": 1100,
        "val": 100,
        "test": 423,
    }
    assert sorted(np.concatenate(list(pools.values()))) == list(range(1623))


def test_maml_split_is_shuffled_over_both_parts(real) -> None:
    """The share of background characters is 964 / 1623 within four deviations of a fair draw."""
    expected = 964 / 1623
    for pool in pooled_characters(real, "maml").values():
        deviation = np.sqrt(expected * (1 - expected) / len(pool))
        assert abs(real.background[pool].mean() - expected) < 4 * deviation


def test_alphabets_are_the_clients(real) -> None:
    federation = opened(by_alphabet(), real)
    sizes = {split: len(federation.clients(split)) for split in SPLITS}
    assert sizes == {"train": 25, "val": 5, "test": 20}
    held = {
        split: [
            set(real.alphabets[federation.shard(client) // 4])
            for client in federation.clients(split)
        ]
        for split in SPLITS
    }
    every = [alphabet for split in SPLITS for alphabets in held[split] for alphabet in alphabets]
    assert len(every) == len(set(every)) == 50  # one alphabet each, and nobody else's
    assert {name for names in held["test"] for name in names} == set(
        real.alphabets[~real.background]
    )


def test_alphabets_have_14_to_55_characters_and_every_character_has_a_client(real) -> None:
    shards = alphabet_characters(real)
    sizes = [len(shard) for shard in shards]
    assert (min(sizes), max(sizes)) == (14, 55)
    assert sorted(np.concatenate(shards)) == list(range(1623))
    examples = opened(by_alphabet(), real).examples(np.arange(50))
    assert examples.tolist() == [20 * size for size in sizes]


@pytest.mark.parametrize("split", ["vinyals", "maml"])
def test_unseen_clients_hold_unseen_characters(real, split: str) -> None:
    federation = opened(pooled(split=split), real)
    held = {
        part: {
            int(kind) // 4
            for client in federation.clients(part)
            for kind in federation.shard(client)
        }
        for part in SPLITS
    }
    assert not held["train"] & held["test"]
    assert not held["train"] & held["val"]
    assert not held["val"] & held["test"]


# Images


def test_images_are_the_drawings_of_the_archive(real, data_folder: str) -> None:
    """Drawing d of a character is the file characterNN/..._(d + 1).png, resized and inverted."""
    folder = Path(data_folder)
    for index in (0, 500, 963, 964, 1622):
        part = "images_background" if real.background[index] else "images_evaluation"
        archive = next(
            found for where in (folder, folder / "omniglot") for found in where.glob(f"{part}.*zip")
        )
        inside = f"{part}/{real.alphabets[index]}/character{real.numbers[index]:02d}/"
        with zipfile.ZipFile(archive) as zipped:
            files = {
                n[-6:-4]: n
                for n in zipped.namelist()
                if n.startswith(inside) and n.endswith(".png")
            }
            for drawing in (0, 19):
                raw = Image.open(BytesIO(zipped.read(files[f"{drawing + 1:02d}"]))).convert("L")
                small = np.asarray(raw.resize((28, 28), Image.Resampling.LANCZOS))
                assert np.array_equal(real.images[index, drawing], 255 - small)


def test_images_in_the_cache_are_what_decoding_gives(real, data_folder: str) -> None:
    archive = next(Path(data_folder).glob("**/images_background.*zip"))
    decoded = _decode(_drawings("images_background", archive)[: 2 * DRAWINGS])
    assert np.array_equal(decoded, real.images[:2])


def test_ink_is_bright_on_dark_paper(real) -> None:
    """More than half of every drawing is paper: 0, or 1 where Lanczos rings."""
    flat = real.images.reshape(1623 * DRAWINGS, -1)
    assert flat.shape[1] == 28 * 28
    assert (np.median(flat, axis=1) < 2).all()
    assert (flat.max(axis=1) > 127).all()


def test_turned_images_are_rot90_of_the_raw_ones(real) -> None:
    """Every image of an episode is a drawing of its label's class, turned as the class says."""
    federation = opened(pooled(split="vinyals"), real)
    clients, turns = np.arange(12), set()
    drawn = federation.draw(clients, 1, 0, "train", 0)
    for place, client in enumerate(clients):
        shard = federation.shard(int(client))
        turned = {
            np.rot90(real.images[kind // 4, drawing], kind % 4).tobytes(): int(kind)
            for kind in shard
            for drawing in range(DRAWINGS)
        }
        episode = drawn.draw(place).draw(0)
        images, labels = (
            torch.cat([episode.support.x, episode.query.x]),
            torch.cat([episode.support.y, episode.query.y]),
        )
        raw = (255 * images[:, 0]).round().to(torch.uint8).numpy()
        found = {
            (int(label), turned[image.tobytes()]) for image, label in zip(raw, labels, strict=True)
        }
        assert len(found) == len({kind for _, kind in found}) == 5
        turns |= {kind % 4 for _, kind in found}
    assert turns == {0, 1, 2, 3}


def test_pixels_are_bytes_over_255(real) -> None:
    drawn = opened(by_alphabet(), real).draw(np.array([0]), 1, 0, "train", 0)
    assert 0 <= float(drawn.query.x.min()) < 0.5 < float(drawn.query.x.max()) <= 1
    assert torch.equal((drawn.query.x * 255).round() / 255, drawn.query.x)


# What can be wrong with the files. The archives here have Omniglot's members, all of one picture.

SIZES = {"images_background": 964, "images_evaluation": 659}
FIRST, SECOND = ("alphabet00/character01/0000_01.png", "alphabet00/character01/0000_02.png")


def picture() -> bytes:
    buffer = BytesIO()
    Image.new("1", (105, 105), 1).save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = picture()


def members(part: str) -> Iterator[str]:
    for index in range(SIZES[part]):
        alphabet, number = divmod(index, 40)
        for drawing in range(1, DRAWINGS + 1):
            character = f"alphabet{alphabet:02d}/character{number + 1:02d}"
            yield f"{part}/{character}/{index:04d}_{drawing:02d}.png"


def write(path: Path, names: Iterator[str], content: bytes = PICTURE) -> None:
    """An archive whose first member is compressed and whose others are stored."""
    with zipfile.ZipFile(path, "w") as zipped:
        for name in names:
            first = name.endswith(FIRST)
            zipped.writestr(name, content, zipfile.ZIP_DEFLATED if first else zipfile.ZIP_STORED)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder, found = tmp_path_factory.mktemp("archives"), {}
    for part in SIZES:
        write(folder / part, members(part))
        found[part] = (folder / part).read_bytes()
    return found


@pytest.fixture
def folder(tmp_path: Path, archives: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with both archives, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = tmp_path / "data"
    found.mkdir()
    for part, content in archives.items():
        (found / f"{part}.zip").write_bytes(content)
    return found


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_characters(str(folder))
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def damage(path: Path, name: str) -> None:
    """Overwrite the content of a member."""
    with zipfile.ZipFile(path) as zipped:
        info = zipped.getinfo(f"{path.stem}/{name}")
    content = bytearray(path.read_bytes())
    start = info.header_offset + 30 + len(info.filename)  # a local header is 30 bytes and the name
    content[start : start + info.compress_size] = b"\xff" * info.compress_size
    path.write_bytes(content)


def test_no_folder(tmp_path: Path) -> None:
    where = tmp_path / "nowhere"
    assert (
        refusal(where)
        == f"data.root: {where} is not a folder; point it at local copies of the data"
    )


def test_no_folder_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMETA_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"^FEDMETA_DATA: .*nowhere is not a folder"):
        read_characters(None)


@pytest.mark.parametrize("part", SIZES)
def test_no_archive(folder: Path, part: str) -> None:
    (folder / f"{part}.zip").unlink()
    assert refusal(folder).startswith(
        f"omniglot: no {part}[.]*zip in {folder} or {folder / 'omniglot'}"
    )


@pytest.mark.parametrize("part", SIZES)
def test_an_archive_cut_short(folder: Path, part: str) -> None:
    path = folder / f"{part}.zip"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert refusal(folder).startswith(
        f"{path} is not Omniglot as published (File is not a zip file)"
    )


def test_the_real_archive_cut_short(data_folder: str, folder: Path) -> None:
    real = next(found for found in Path(data_folder).glob("**/images_evaluation.*zip"))
    path = folder / "images_evaluation.zip"
    path.write_bytes(real.read_bytes()[:-1000])
    assert refusal(folder).startswith(f"{path} is not Omniglot as published")


MISSING: dict[str, tuple[Callable[[str], bool], str]] = {
    "a character": (
        lambda name: "alphabet03/character07/" in name,
        "19260 drawings of 963 characters",
    ),
    "a drawing": (lambda name: name.endswith(SECOND), "19279 drawings of 964 characters"),
}


@pytest.mark.parametrize("what", MISSING)
def test_an_archive_that_lacks_something(folder: Path, what: str) -> None:
    left_out, counted = MISSING[what]
    path = folder / "images_background.zip"
    write(path, (name for name in members("images_background") if not left_out(name)))
    message = refusal(folder)
    assert message.startswith(
        f"{path} is not Omniglot as published ({counted}); expected 964 characters"
    )
    assert "20 drawings each" in message


@pytest.mark.parametrize(
    "name", ["picture.png", "a/b/c/d/e.png", "images_background/Greek/notes/0001_01.png"]
)
def test_an_archive_of_something_else(folder: Path, name: str) -> None:
    path = folder / "images_background.zip"
    write(path, iter([name]))
    assert refusal(folder).startswith(f"{path} is not Omniglot as published ({name}")


@pytest.mark.parametrize("name", [FIRST, SECOND], ids=["compressed", "stored"])
def test_a_drawing_that_is_damaged(folder: Path, name: str) -> None:
    path = folder / "images_background.zip"
    damage(path, name)
    found = re.escape(f"{path} is not Omniglot as published (images_background/{name}: ")
    assert re.match(found, refusal(folder))


def test_a_drawing_that_is_no_picture(folder: Path) -> None:
    path = folder / "images_background.zip"
    write(path, members("images_background"), b"not a picture")
    assert refusal(folder).startswith(
        f"{path} is not Omniglot as published (images_background/{FIRST}: "
    )


# What can be wrong with the settings


def test_more_ways_than_the_smallest_alphabet_has_characters(coded) -> None:
    federation = opened(by_alphabet(ways=14), coded.characters)
    sizes = federation.examples(np.arange(50)) // 20
    smallest = int(sizes.argmin())
    assert sizes[smallest] == 14
    message = rf"^data\.ways: client {smallest} holds 14 classes, a 15-way episode is missing 1$"
    with pytest.raises(DataError, match=message):
        opened(by_alphabet(ways=15), coded.characters)


def test_more_ways_than_a_pooled_shard_has_classes(coded) -> None:
    with pytest.raises(DataError, match=r"client 0 holds 4 classes, a 5-way episode is missing 1$"):
        opened(pooled(characters=4), coded.characters)


@pytest.mark.parametrize(
    "dataset", [pooled(shots=5, queries=16), by_alphabet(5, 5, 16)], ids=["pooled", "alphabet"]
)
def test_more_examples_than_drawings(coded, dataset: Omniglot) -> None:
    with pytest.raises(
        DataError, match=r"holds 20 examples .* 5 \(shots\) \+ 16 \(queries\) = 21$"
    ):
        opened(dataset, coded.characters)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ways": 1}, "ways must be 2 or more, got 1"),
        ({"ways": 6}, r"ways must be at most data\.ways 5, got 6"),
        ({"shots": 0}, "shots must be 1 or more, got 0"),
        ({"queries": 0}, "queries must be 1 or more, got 0"),
    ],
)
def test_settings_of_evaluation_out_of_range(changes, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.evaluation\.{message}$"):
        pooled(evaluation=CharacterChanges(**changes))


def test_more_examples_in_evaluation_than_drawings(coded) -> None:
    with pytest.raises(
        DataError,
        match=r"^data\.evaluation: .*20 examples .* 2 \(shots\) \+ 19 \(queries\) = 21$",
    ):
        opened(pooled(evaluation=CharacterChanges(queries=19)), coded.characters)


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"characters": 6}, "pooled with 6 and 5"),
        ({"characters": 4}, "pooled with 4 and 5"),
        ({"federation": "alphabet", "clients": None}, "alphabet with 5 and 5"),
    ],
)
def test_kept_numbers_need_as_many_characters_as_ways(changes, got: str) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.labels: client needs .* got {got}$"):
        pooled(labels="client", **changes)


@pytest.mark.parametrize(
    ("key", "value"), [("ways", 1), ("shots", 0), ("queries", 0), ("characters", 0)]
)
def test_settings_out_of_range(key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.{key} must be \d or more, got {value}$"):
        pooled(**{key: value})


def test_pooled_needs_client_counts_and_alphabet_has_its_own() -> None:
    with pytest.raises(ConfigError, match=r"^data\.clients must be set"):
        pooled(clients=None)
    with pytest.raises(ConfigError, match=r"^data\.clients must not be set"):
        pooled(federation="alphabet")
