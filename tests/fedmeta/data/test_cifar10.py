"""CIFAR-10 of few images: who holds which, from images whose pixels tell which one they are."""

import logging
import os
import socket
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fedmeta.adapting import adapt
from fedmeta.config import load
from fedmeta.data.cifar10 import Cifar10
from fedmeta.data.cifar10_federation import shards
from fedmeta.data.cifar10_files import ARCHIVE, CLASSES, FOLDERS, SHAPE, SUBSET, Images, Parts
from fedmeta.data.classes import ClassChanges, HeldClasses
from fedmeta.data.federation import SPLITS, ClientCounts
from fedmeta.data.own import OwnClasses
from fedmeta.data.partitions import by_classes, by_dirichlet
from fedmeta.data.shard import Shard, fit, read_shards, write_shard
from fedmeta.errors import ConfigError, DataError
from fedmeta.initial import first_params
from fedmeta.types import Episode
from tests.simulations.conftest import CONFIGS
from tests.simulations.test_cli import fedmeta

CPU, DTYPE = torch.device("cpu"), torch.float64
quick = settings(
    derandomize=True, deadline=None, max_examples=5, phases=[Phase.generate]
)  # shrinking deals hundreds of times
seeds = st.integers(0, 2**31)
TRAIN, TEST = 120, 60
"""Images of each class in the training set and in the test set."""


def coded(per_class: int, part: int) -> Images:
    """Classes take turns; the first pixels read: part, class, number within the class."""
    y = np.tile(np.arange(len(CLASSES)), per_class)
    x = np.zeros((len(y), *SHAPE), np.uint8)
    x[:, 0, 0, 0], x[:, 0, 0, 1], x[:, 0, 0, 2] = part, y, np.arange(len(y)) // len(CLASSES)
    return Images(x, y)


PARTS = Parts(coded(TRAIN, 0), coded(TEST, 1))
COUNTS = ClientCounts(train=10, val=10, test=10)


def cifar10(**changes: object) -> Cifar10:
    given = {
        "partition": "classes", "ways": 5, "shots": 5, "queries": 5, "clients": COUNTS,
    } | changes  # fmt: skip
    return Cifar10(**given)  # type: ignore


DIRICHLET = cifar10(partition="dirichlet", ways=2, shots=2, queries=1, images=60)
EVERY = replace(DIRICHLET, shots=1, ways=2, alpha=1e3)
"""Of so great an alpha every client has of every class what an episode needs."""


def made(dataset: Cifar10, seed: int = 0) -> list[Shard]:
    return shards(dataset, PARTS, seed)


def opened(dataset: Cifar10, seed: int = 0) -> HeldClasses:
    return dataset.hold(made(dataset, seed), CPU, DTYPE)


def images(shard: Shard) -> list[tuple[int, ...]]:
    """Part, class and number of each image."""
    return [tuple(code) for code in shard.x[:, 0, 0, :3].tolist()]


# Shards


@pytest.mark.parametrize("dataset", [cifar10(), DIRICHLET], ids=["classes", "dirichlet"])
@given(seed=seeds)
@quick
def test_no_image_is_in_two_shards_and_no_split_has_anothers(dataset: Cifar10, seed: int) -> None:
    """Train has the first images of the training set, val those that follow, test the test set's."""
    first = dataset.images
    allowed = {"train": (0, 0, first), "val": (0, first, 2 * first), "test": (1, 0, first)}
    every = []
    for shard in made(dataset, seed):
        part, begin, end = allowed[shard.split]
        held = images(shard)
        assert all(p == part and begin <= number < end for p, _, number in held)
        assert [CLASSES[c] for _, c, _ in held] == [shard.classes[y] for y in shard.y.tolist()]
        every += held
    assert len(every) == len(set(every))


@given(seed=seeds)
@quick
def test_ten_clients_of_five_classes_have_ten_images_of_each(seed: int) -> None:
    """5 of 10 clients hold a class, so its 50 images are 10 for each of them; none is left."""
    found = made(cifar10(), seed)
    assert [(s.client, s.split) for s in found] == [(c, SPLITS[c // 10]) for c in range(30)]
    assert all(shard.counts == [10] * 5 for shard in found)
    for split in SPLITS:
        holders = Counter(name for s in found if s.split == split for name in s.classes)
        assert holders == dict.fromkeys(CLASSES, 5)


def test_clients_of_a_split_have_as_many_images_as_those_that_train() -> None:
    """8 training clients share 16 images of a class, so 4 others share 8 and 12 share 24: 2 each."""
    clients = ClientCounts(train=8, val=4, test=12)
    found = made(cifar10(classes=10, shots=1, queries=1, images=16, clients=clients))
    assert [len(shard.y) for shard in found] == [20] * 24
    assert Counter(shard.split for shard in found) == {"train": 8, "val": 4, "test": 12}


@given(
    seed=seeds,
    clients=st.integers(1, 12),
    per_class=st.integers(12, 20),
    alpha=st.sampled_from([0.05, 1, 50]),
)
@quick
def test_a_dirichlet_division_gives_away_every_image_once(seed, clients, per_class, alpha) -> None:
    labels = np.tile(np.arange(10), per_class)
    rows = by_dirichlet(labels, clients, float(alpha), seed)
    assert len(rows) == clients
    assert sorted(np.concatenate(rows)) == list(range(len(labels)))


def test_the_smaller_alpha_the_fewer_classes_a_client_has_most_of() -> None:
    """The greatest class of a client: 1/10 of its images where all are alike, nearly all where each
    class goes to one client or two."""

    def greatest(alpha: float) -> float:
        labels = np.tile(np.arange(10), 100)
        each = [np.bincount(labels[r]) for r in by_dirichlet(labels, 10, alpha, 1) if len(r)]
        return float(np.mean([counts.max() / counts.sum() for counts in each]))

    assert greatest(1e5) < 0.11
    assert 0.2 < greatest(0.5) < 0.6
    assert greatest(0.01) > 0.7


@given(seed=seeds, clients=st.integers(1, 23), classes=st.integers(1, 10))
@quick
def test_a_division_by_classes_gives_so_many_to_each_and_shares_them_evenly(
    seed, clients, classes
) -> None:
    labels = np.tile(np.arange(10), 30)
    rows = by_classes(labels, clients, classes, seed)
    sizes: dict[int, list[int]] = {}
    for held in rows:
        kinds, counts = np.unique(labels[held], return_counts=True)
        assert len(kinds) == classes
        for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True):
            sizes.setdefault(kind, []).append(count)
    for counts in sizes.values():
        assert sum(counts) == 30
        assert max(counts) - min(counts) <= 1
    if clients % 10 == 0:
        assert {len(counts) for counts in sizes.values()} == {clients * classes // 10}


def test_every_seed_and_every_split_deals_other_classes_and_images() -> None:
    """Ten classes are dealt in one of 10! orders, so two of 12 are alike with a chance of 2e-5."""
    sets, firsts = set(), set()
    for seed in range(4):
        found = made(cifar10(), seed)
        for begin in (0, 10, 20):
            sets.add(tuple(shard.classes for shard in found[begin : begin + 10]))
            firsts.add(tuple(number for _, _, number in images(found[begin])))
    assert len(sets) == len(firsts) == 12


@pytest.mark.parametrize("dataset", [cifar10(), DIRICHLET], ids=["classes", "dirichlet"])
def test_shards_are_a_function_of_the_seed_alone(dataset: Cifar10) -> None:
    """Whatever was drawn before; and they draw nothing from anybody's generator."""
    first = [shard.header() for shard in made(dataset, 5)]
    np.random.seed(3)
    torch.manual_seed(4)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert [shard.header() for shard in made(dataset, 5)] == first
    assert [shard.header() for shard in made(dataset, 6)] != first
    assert np.random.get_state()[1].tolist() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_a_partition_sends_nothing_and_warns_of_nothing(monkeypatch) -> None:
    """Two clients of three classes leave six to nobody, of which the partitioner would warn."""

    def refuse(*_: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with warnings.catch_warnings(action="error"):
        rows = by_classes(np.tile(np.arange(10), 6), 2, 3, 0)
    assert sorted(len(held) for held in rows) == [12, 12]


# Who takes part


def test_what_is_too_little_for_an_episode_is_left_out_and_said(caplog) -> None:
    """Shards hold whole classes as they were dealt, and ids keep their numbers."""
    with caplog.at_level(logging.WARNING):
        found = made(replace(DIRICHLET, shots=4, queries=4, alpha=0.3))
    assert all(len(s.classes) >= 2 and min(s.counts) >= 8 for s in found)
    numbers = [s.client for s in found]
    assert numbers == sorted(set(numbers))
    for split, begin in zip(SPLITS, (0, 10, 20), strict=True):
        there = [s for s in found if s.split == split]
        assert all(begin <= s.client < begin + 10 for s in there)
        used = sum(len(s.y) for s in there)
        assert (
            f"cifar10: {10 - len(there)} of 10 {split} clients are left out, without 2 classes of 8 "
            f"images; {used} of 600 images take part"
        ) in caplog.messages


def test_where_all_take_part_nothing_is_said(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(made(cifar10())) == len(made(EVERY)) == 30
    assert caplog.messages == []


def test_held_out_images_are_asked_of_training_clients_alone() -> None:
    """10 of each class: 4 + 4 and 2 held out, or 8 and 2 of an evaluation, are just enough."""
    fits = cifar10(shots=4, queries=4, held_out=2, evaluation=ClassChanges(queries=2))
    federation = opened(fits)
    assert len(federation.clients("train")) == 10
    assert federation.lengths(np.array([0]), "evaluate").tolist() == [30]
    with pytest.raises(DataError, match=r"10 train clients has 5 classes with 11 images each"):
        opened(replace(fits, held_out=3))
    opened(replace(fits, evaluation=ClassChanges(shots=8, queries=2)))
    with pytest.raises(DataError, match=r"10 train clients has 5 classes with 11 images each"):
        opened(replace(fits, evaluation=ClassChanges(shots=9, queries=1)))


# Episodes


@pytest.mark.parametrize(
    "dataset",
    [
        cifar10(), cifar10(labels="client"), cifar10(labels="class", ways=3), DIRICHLET,
        replace(DIRICHLET, labels="class", evaluation=ClassChanges(shots=1, queries=2)),
        cifar10(shots=3, queries=3, held_out=3, evaluation=ClassChanges(ways=4)),
    ],
    ids=["classes", "client labels", "class labels", "dirichlet", "dirichlet class", "held out"],
)  # fmt: skip
@given(seed=seeds, place=st.integers(0, 99), beside=st.integers(0, 99), round=st.integers(0, 9))
@quick
def test_a_device_draws_what_the_federation_would_draw_for_it(
    tmp_path_factory, dataset, seed, place, beside, round
) -> None:
    """Through a file, whoever is held beside it."""
    federation = opened(dataset, seed)
    ids = [client for split in SPLITS for client in federation.clients(split)]
    client, other = ids[place % len(ids)], ids[beside % len(ids)]
    folder = tmp_path_factory.mktemp("shards")
    for number in {client, other}:
        write_shard(federation.take(number, "cifar10"), folder / f"{number}.safetensors")
    found = read_shards(folder)
    fit(found, dataset, "cifar10")
    held = dataset.hold(found, CPU, DTYPE)
    purposes = ("train", "evaluate") if client in federation.clients("train") else ("evaluate",)
    for purpose in purposes:
        where = (np.array([client]), 2, seed, purpose, round)
        assert equal(held.draw(*where), federation.draw(*where))


def equal(a: Episode, b: Episode) -> bool:
    pairs = zip([*a.support, *a.query], [*b.support, *b.query], strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_an_episode_of_fifty_images_is_the_whole_client() -> None:
    """Bytes are seen as 0 to 1."""
    federation = opened(cifar10())
    shard = federation.take(4, "cifar10")
    drawn = federation.draw(np.array([4]), 1, 0, "train").draw(0).draw(0)
    x = torch.cat([drawn.support.x, drawn.query.x])
    assert x.shape == (50, *SHAPE)
    codes = (255 * x[:, 0, 0, :3]).round().to(torch.uint8).tolist()
    assert sorted(map(tuple, codes)) == sorted(images(shard))


def test_episodes_of_unequal_clients_have_one_shape() -> None:
    federation = opened(DIRICHLET)
    clients = np.array(federation.clients("train"))
    assert len(set(federation.examples(clients).tolist())) > 1
    assert federation.draw(clients, 2, 0, "train").query.x.shape == (len(clients), 2, 2, *SHAPE)


@given(seed=seeds)
@quick
def test_a_class_has_its_number_in_the_dataset_on_every_client(seed: int) -> None:
    dataset = cifar10(labels="class", ways=3)
    federation = opened(dataset, seed)
    for split in SPLITS:
        drawn = federation.draw(np.array(federation.clients(split)), 3, seed, "evaluate")
        for part in drawn:
            codes = (255 * part.x[..., 0, 0, 1]).round().long()
            assert torch.equal(part.y, codes)
            assert all(len(set(row.tolist())) == 3 for row in part.y.flatten(0, 1))
    assert (dataset.outputs, dataset.lasting) == (10, True)
    assert (cifar10().outputs, cifar10().lasting) == (5, False)


def test_a_class_that_the_dataset_has_not_has_no_number() -> None:
    shard = made(cifar10())[0]
    odd = replace(shard, classes=("zebra", *shard.classes[1:]))
    with pytest.raises(
        DataError, match=r"^data\.labels: client 0 holds a class 'zebra'; .*, truck$"
    ):
        cifar10(labels="class").hold([odd], CPU, DTYPE)
    cifar10().hold([odd], CPU, DTYPE)


def test_classes_of_ones_own_are_not_shared() -> None:
    with pytest.raises(ConfigError, match=r"^data\.labels: class needs a dataset whose clients"):
        OwnClasses(ways=2, shots=1, queries=1, labels="class", shape_of_inputs=[1, 2, 2])


# From a config to files that devices hold

CONFIG = str(CONFIGS / "cifar10_classes.yaml")


def test_shards_of_the_ready_config_are_those_of_the_federation(tmp_path: Path) -> None:
    """10 train, 10 val and 20 test clients: 50 + 50 images of a class to train on, 100 to test."""
    arrays = {}
    for part, images in (("train", coded(100, 0)), ("test", coded(100, 1))):
        arrays |= {
            f"x_{part}": np.moveaxis(images.x, 1, -1),
            f"y_{part}": images.y.astype(np.uint8),
        }
    np.savez(tmp_path / SUBSET, **arrays)
    overrides = [f"data.root={tmp_path}"]
    result = fedmeta(
        "shards", CONFIG, *overrides, "--clients", "0,12,39", "--out", str(tmp_path / "out")
    )
    assert result.exit_code == 0, result.output
    federation = load(Path(CONFIG), overrides).data.open(0, CPU, DTYPE)
    found = read_shards(tmp_path / "out")
    assert [(s.client, s.split, s.counts) for s in found] == [
        (0, "train", [10] * 5), (12, "val", [10] * 5), (39, "test", [10] * 5),
    ]  # fmt: skip
    for shard in found:
        assert shard.header() == federation.take(shard.client, "cifar10").header()


def test_a_head_of_all_classes_is_not_cut_to_those_of_a_shard() -> None:
    """A personal model would take its first outputs for the shard's classes, whatever they are."""
    experiment = load(Path(CONFIG), ["data.labels=class"])
    travels, _ = first_params(experiment)
    with pytest.raises(ConfigError, match=r"^data\.labels: a personal model .*, got class$"):
        adapt(experiment, travels, made(cifar10())[0])


# Settings and files that do not fit


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 0}, r"^data\.images must be 1 or more, got 0$"),
        ({"alpha": 0.0}, r"^data\.alpha must be a number above 0, got 0\.0$"),
        ({"alpha": float("inf")}, r"^data\.alpha must be a number above 0, got inf$"),
        ({"classes": 11}, r"^data\.classes must be 1 to 10, got 11$"),
        ({"classes": 4}, r"^data\.ways must be at most the 4 classes of a client, got 5$"),
        ({"partition": "dirichlet", "ways": 11}, r"most the 10 classes of a client, got 11$"),
        ({"labels": "client", "ways": 4}, r"^data\.labels: client needs .* classes with 5 and 4$"),
        ({"labels": "client", "partition": "dirichlet"}, r"^data\.labels: .* dirichlet with 5"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cifar10(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"images": 121},
            r"^data\.images must be at most the 120 of a class that the training set .*, got 121$",
        ),
        (
            {"clients": ClientCounts(10, 20, 10)},
            r"^data\.clients\.val must be at most 14, got 20: the training set at hand has 70 images "
            r"of a class for them, 100 are needed$",
        ),
        (
            {"images": 120},
            r"^data\.clients\.val must be at most 0, got 10: the training set at hand has 0 images",
        ),
        (
            {"clients": ClientCounts(10, 10, 13)},
            r"^data\.clients\.test must be at most 12, got 13: the test set at hand has 60 images of "
            r"a class for them, 65 are needed$",
        ),
        (
            {"clients": ClientCounts(150, 10, 10)},
            r"^data\.clients\.train: 150 clients are too many for 500 images$",
        ),
        (
            {"queries": 6},
            r"^data: none of the 10 train clients has 5 classes with 11 images each, as an episode "
            r"needs; ask for fewer .* or for clients in multiples of 10$",
        ),
        (
            {"partition": "dirichlet", "ways": 8},
            r"^data: none of the 10 train clients has 8 classes with 10 .* or for a greater alpha$",
        ),
    ],
)  # fmt: skip
def test_more_than_there_is(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        made(cifar10(**changes))


def test_as_many_clients_as_a_message_allows() -> None:
    """14 val clients need 50 x 14 / 10 = 70 of the 70 that follow, 12 test clients the 60 there are."""
    made(cifar10(shots=1, queries=1, clients=ClientCounts(10, 14, 12)))
    with pytest.raises(DataError, match=r"at most 14, got 15"):
        made(cifar10(shots=1, queries=1, clients=ClientCounts(10, 15, 12)))


# The real images


def test_the_real_images() -> None:
    """Of the training images at hand, every channel's mean and spread are the published ones."""
    folder = os.environ.get("FEDMETA_DATA", "")
    files = [Path(folder, inner, name) for inner in FOLDERS for name in (ARCHIVE, SUBSET)]
    if not folder or not any(file.is_file() for file in files):
        pytest.skip("FEDMETA_DATA does not name a folder that holds CIFAR-10")
    dataset = cifar10(root=folder)
    federation = dataset.open(0, CPU, DTYPE)
    drawn = federation.draw(np.array(federation.clients("train")), 1, 0, "train")
    pixels = torch.cat([part.x.flatten(0, 2) for part in drawn]).transpose(0, 1).flatten(1)
    assert pixels.shape == (3, 500 * 32 * 32)
    assert pixels.mean(dim=1).tolist() == pytest.approx([0.491, 0.482, 0.447], abs=0.02)
    assert pixels.std(dim=1).tolist() == pytest.approx([0.247, 0.243, 0.262], abs=0.02)
