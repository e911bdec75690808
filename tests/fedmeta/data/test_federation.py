"""What every dataset promises."""

import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmeta.data import DATASETS
from fedmeta.data.cifar10 import Cifar10
from fedmeta.data.cifar10_files import SUBSET
from fedmeta.data.federation import (
    SPLITS,
    ClientCounts,
    Clients,
    Dataset,
    Federation,
    Split,
    consecutive,
)
from fedmeta.data.omniglot import Omniglot
from fedmeta.data.omniglot_federation import OmniglotFederation
from fedmeta.data.own import OwnClasses, OwnValues
from fedmeta.data.shard import Shard, write_shard
from fedmeta.data.sinusoid import Sinusoid
from fedmeta.errors import ConfigError
from fedmeta.types import Episode

COUNTS = ClientCounts(train=100_000, val=300, test=700)
TOTAL = 101_000
SHOTS, QUERIES = 2, 3
CPU, DTYPE = torch.device("cpu"), torch.float64

quick = settings(derandomize=True, deadline=None, max_examples=25)
seeds = st.integers(0, 2**31)
rounds = st.integers(0, 100_000)
cohorts = st.lists(st.integers(0, TOTAL - 1), min_size=1, max_size=6, unique=True)


SINES = Sinusoid(shots=SHOTS, queries=QUERIES, clients=COUNTS, examples=8)
GLYPHS = Omniglot(
    federation="pooled",
    ways=5,
    shots=SHOTS,
    queries=QUERIES,
    split="maml",
    characters=9,
    clients=COUNTS,
)
OWN_COUNTS = ClientCounts(train=7, val=2, test=3)
PHOTOGRAPHS = Cifar10(
    partition="classes",
    classes=10,
    images=6 * OWN_COUNTS.train,
    ways=3,
    shots=SHOTS,
    queries=QUERIES,
    clients=OWN_COUNTS,
)
OWN_CLASSES = OwnClasses(ways=3, shots=SHOTS, queries=QUERIES, shape_of_inputs=[1, 2, 2])
OWN_VALUES = OwnValues(shots=SHOTS, queries=QUERIES, shape_of_inputs=[2])
CASES: dict[str, Dataset] = {
    "cifar10": PHOTOGRAPHS,
    "omniglot": GLYPHS,
    "omniglot, own labels": replace(GLYPHS, characters=5, labels="client"),
    "sinusoid": SINES,
    "sinusoid, unequal": replace(SINES, least_examples=6),
    "own classes": OWN_CLASSES,
    "own values": OWN_VALUES,
}
"""A new dataset needs its line here."""
REGISTERED = [name for name, case in CASES.items() if isinstance(case, Omniglot | Sinusoid)]
"""Those whose clients are made when they are sampled; others are all there from the start."""


def shard(dataset: OwnClasses | OwnValues, client: int, split: Split) -> Shard:
    """Of 6 to 8 examples, or 4 classes of as many; no two examples of a client are alike."""
    count = 6 + client % 3
    if isinstance(dataset, OwnValues):
        x = torch.arange(2.0 * count, dtype=DTYPE).reshape(count, 2) + client
        return Shard("own_values", client, split, x, x[:, :1] ** 2)
    pixels = torch.arange(4 * count)[:, None, None, None] + torch.tensor([[[0, 1], [client, 3]]])
    y = torch.arange(4).repeat_interleave(count)
    return Shard("own_classes", client, split, pixels.to(torch.uint8), y, ("a", "b", "c", "d"))


def photographs(folder: Path) -> Path:
    """Noise: 42 images of a class for training clients, 12 for those of validation, 18 to test."""
    arrays, generator = {}, np.random.default_rng(0)
    for part, count in (("train", 54), ("test", 18)):
        arrays[f"x_{part}"] = generator.integers(0, 256, (10 * count, 32, 32, 3), np.uint8)
        arrays[f"y_{part}"] = np.arange(10, dtype=np.uint8).repeat(count)
    np.savez(folder / SUBSET, **arrays)
    return folder


@dataclass(frozen=True)
class Opener:
    """Opens the federation of a dataset with a seed."""

    dataset: Dataset
    counts: ClientCounts
    open: Callable[[int], Federation]

    def __call__(self, seed: int) -> Federation:
        return self.open(seed)

    @property
    def total(self) -> int:
        return sum(getattr(self.counts, split) for split in SPLITS)

    def among(self, clients: Sequence[int]) -> Clients:
        """Clients of the federation, each once, from any numbers."""
        return np.array(list(dict.fromkeys(client % self.total for client in clients)))


@pytest.fixture(scope="session", params=CASES)
def opens(request: pytest.FixtureRequest, coded, tmp_path_factory) -> Opener:
    """Opens the federation of a dataset with a seed."""
    dataset = CASES[request.param]
    if isinstance(dataset, OwnClasses | OwnValues):
        folder = tmp_path_factory.mktemp("shards")
        for split, ids in consecutive(OWN_COUNTS).items():
            for client in ids:
                write_shard(shard(dataset, client, split), folder / f"{client}.safetensors")
        dataset = replace(dataset, root=str(folder))
        return Opener(dataset, OWN_COUNTS, lambda seed: dataset.open(seed, CPU, DTYPE))

    if isinstance(dataset, Cifar10):
        dataset = replace(dataset, root=str(photographs(tmp_path_factory.mktemp("photographs"))))
        dealt = cache(lambda seed: dataset.open(seed, CPU, DTYPE))
        return Opener(dataset, OWN_COUNTS, lambda seed: dealt(seed % 3))  # dealing takes its time

    def openly(seed: int) -> Federation:
        if isinstance(dataset, Omniglot):
            return OmniglotFederation(dataset, coded.characters, seed, CPU, DTYPE)
        return dataset.open(seed, CPU, DTYPE)

    return Opener(dataset, COUNTS, openly)


def test_every_dataset_is_here() -> None:
    assert {type(dataset) for dataset in CASES.values()} == set(DATASETS.values())


def same(a: Episode, b: Episode) -> bool:
    pairs = zip([*a.support, *a.query], [*b.support, *b.query], strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


def test_the_splits_share_no_client_and_leave_none_out(opens) -> None:
    ids = [client for split in SPLITS for client in opens(0).clients(split)]
    assert sorted(ids) == list(range(opens.total))
    assert {split: len(opens(0).clients(split)) for split in SPLITS} == vars(opens.counts)


@pytest.mark.parametrize("opens", REGISTERED, indirect=True)
def test_registered_clients_cost_nothing_until_they_are_sampled(opens) -> None:
    """Opening a hundred thousand takes less than one number for each of them would."""
    opens(0)
    tracemalloc.start()
    federation = opens(0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * TOTAL
    first_and_last = np.array([0, TOTAL - 1])
    assert federation.draw(first_and_last, 1, 0, "train", 1).support.y.shape[0] == 2


@given(seed=seeds, round=rounds, clients=cohorts, draws=st.integers(1, 3))
@quick
def test_the_same_address_gives_the_same_episode(opens, seed, round, clients, draws) -> None:
    """From two federations opened apart: as on two nodes, or before and after a crash."""
    ids = opens.among(clients)
    one, other = (opens(seed).draw(ids, draws, seed, "train", round) for _ in range(2))
    assert same(one, other)


@given(seed=seeds, round=rounds, clients=cohorts)
@quick
def test_another_address_gives_another_episode(opens, seed, round, clients) -> None:
    """Four draws a client: of 6 P 5 = 720 or more orders, four repeat at once in 1 of 10^11."""
    federation, ids = opens(seed), opens.among(clients)
    drawn = federation.draw(ids, 4, seed, "train", round)
    assert not same(drawn, federation.draw(ids, 4, seed, "train", round + 1))
    assert not same(drawn, federation.draw(ids, 4, seed, "evaluate", round))
    assert not same(drawn, federation.draw(ids, 4, seed + 1, "train", round))


@pytest.mark.parametrize("opens", ["cifar10", *REGISTERED], indirect=True)
@given(seed=seeds, round=rounds, clients=cohorts)
@quick
def test_another_seed_gives_clients_other_shards(opens, seed, round, clients) -> None:
    ids = opens.among(clients)
    drawn = opens(seed).draw(ids, 4, seed, "train", round)
    assert not same(drawn, opens(seed + 1).draw(ids, 4, seed, "train", round))


@given(seed=seeds, round=rounds, clients=cohorts, draws=st.integers(1, 3))
@quick
def test_a_client_draws_the_same_whoever_else_draws(opens, seed, round, clients, draws) -> None:
    federation, ids = opens(seed), opens.among(clients)
    together = federation.draw(ids, draws, seed, "train", round)
    for place, client in enumerate(ids):
        alone = federation.draw(np.array([client]), draws, seed, "train", round)
        assert same(together.draw(place), alone.draw(0))


@given(seed=seeds, round=rounds, client=st.integers(0, TOTAL - 1))
@quick
def test_the_draws_of_a_client_differ_from_one_another(opens, seed, round, client) -> None:
    drawn = opens(seed).draw(opens.among([client]), 4, seed, "train", round).draw(0)
    assert not all(same(drawn.draw(0), drawn.draw(other)) for other in (1, 2, 3))


@given(seed=seeds, round=rounds, clients=cohorts)
@quick
def test_support_and_query_share_no_example(opens, seed, round, clients) -> None:
    """Nor does an example come twice. In no federation do two examples have equal inputs."""
    ids = opens.among(clients)
    drawn = opens(seed).draw(ids, 2, seed, "train", round)
    for place in range(len(ids)):
        for index in range(2):
            episode = drawn.draw(place).draw(index)
            examples = torch.cat([episode.support.x, episode.query.x]).flatten(1)
            assert len(torch.unique(examples, dim=0)) == len(examples)


@given(seed=seeds, clients=cohorts, draws=st.integers(1, 3))
@quick
def test_shapes(opens, seed, clients, draws) -> None:
    federation, ids = opens(seed), opens.among(clients)
    drawn = federation.draw(ids, draws, seed, "train", 0)
    each = drawn.support.x.shape[2] // SHOTS  # examples per shot: ways, or 1
    for part, count in ((drawn.support, SHOTS), (drawn.query, QUERIES)):
        assert part.x.shape[:3] == part.y.shape[:3] == (len(ids), draws, count * each)
        assert part.x.shape[3:] == opens.dataset.input_shape
        assert part.x.dtype == DTYPE
    held: Clients = federation.examples(ids)
    assert held.shape == (len(ids),)
    assert (held >= (SHOTS + QUERIES) * each).all()


@given(seed=seeds, clients=cohorts)
@quick
def test_lengths_are_those_of_the_episodes(opens, seed, clients) -> None:
    federation, ids = opens(seed), opens.among(clients)
    for purpose in ("train", "evaluate"):
        drawn = federation.draw(ids, 1, seed, purpose)
        length = drawn.support.y.shape[2] + drawn.query.y.shape[2]
        assert federation.lengths(ids, purpose).tolist() == [length] * len(ids)


def test_consecutive() -> None:
    assert consecutive(ClientCounts(3, 2, 4)) == {
        "train": range(0, 3),
        "val": range(3, 5),
        "test": range(5, 9),
    }


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_has_a_client(split: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^data\.clients\.{split} must be 1 to 100,000,000, got 0$"
    ):
        ClientCounts(**({"train": 1, "val": 1, "test": 1} | {split: 0}))
