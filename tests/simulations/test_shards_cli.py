"""``fedmeta shards``: from a dataset, a folder of pictures or a table to files that devices hold."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedmeta.config import load
from fedmeta.data.omniglot_files import read_characters
from fedmeta.data.shard import read_shard, read_shards
from fedmeta.host import Host
from fedmeta.initial import first_params
from fedmeta.node import answer
from fedmeta.packing import pack_params
from fedmeta.wire import Work, pack_work, unpack_replies
from tests.simulations.conftest import CONFIGS, SMALL
from tests.simulations.test_cli import QUICKSTART, fedmeta, refused

OWN = """
name: mine
rounds: 2
data: {name: DATA}
model: {name: mlp, hidden: [6]}
learner: {name: sgd, lr: 0.02, epochs: 1, batch_size: 4}
strategy: {name: fedavg}
cohort: {clients: 1}
evaluation: {every: 1, steps: 1, clients: 1}
"""
PICTURES = "own_classes, ways: 2, shots: 1, queries: 1, shape_of_inputs: [1, 4, 6]"
ROWS = "own_values, shots: 1, queries: 2, shape_of_inputs: [2]"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and a terminal wide enough for every row."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def config(data: str) -> str:
    Path("mine.yaml").write_text(OWN.replace("DATA", data))
    return "mine.yaml"


def pictures() -> str:
    for name in ("cat", "dog"):
        for i in range(3):
            Path("photos", name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 6), 40 * i, np.uint8)).save(f"photos/{name}/{i}.png")
    return "photos"


def table() -> str:
    Path("rows.csv").write_text("a,target,b\n1,10,2\n3,20,4\n5,30,6\n")
    return "rows.csv"


def files() -> list[str]:
    return sorted(path.name for path in Path().rglob("*.safetensors"))


def test_shards_of_a_dataset(here: Path) -> None:
    """The clients that were named, one file each, with what the federation holds for them."""
    result = fedmeta("shards", QUICKSTART, *SMALL, "--clients", "0,3,34", "--out", "there")
    assert result.exit_code == 0, result.output
    assert files() == ["client-0.safetensors", "client-3.safetensors", "client-34.safetensors"]
    federation = load(Path(QUICKSTART), SMALL).data.open(0, torch.device("cpu"), torch.float64)
    for shard in read_shards(here / "there"):
        whole = federation.take(shard.client, "sinusoid")
        assert torch.equal(shard.x, whole.x)
        assert torch.equal(shard.y, whole.y)
        assert (shard.split, len(shard.y)) == ("val" if shard.client == 34 else "train", 40)
    words = next(line.split() for line in result.output.splitlines() if "client-34" in line)
    assert [w for w in words if w != "│"] == [
        "client-34.safetensors",
        "34",
        "val",
        "40",
        "1",
        "values",
    ]
    assert "folder: there" in result.output


def test_shards_lie_in_the_folder_shards_if_none_is_named(here: Path) -> None:
    assert fedmeta("shards", QUICKSTART, *SMALL, "--clients", " 2, 2").exit_code == 0
    path = here / "shards" / "client-2.safetensors"
    assert files() == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_shard_of_pictures(here: Path) -> None:
    words = ("--from-folder", pictures(), "--client", "4", "--split", "test")
    result = fedmeta("shards", config(PICTURES), *words)
    assert result.exit_code == 0, result.output
    shard = read_shard(here / "shards" / "client-4.safetensors")
    assert (shard.dataset, shard.client, shard.split) == ("own_classes", 4, "test")
    assert shard.classes == ("cat", "dog")
    assert shard.x[:, 0, 0, 0].tolist() == [0, 40, 80] * 2
    assert "2: cat, dog" in result.output


def test_a_shard_of_inverted_pictures(here: Path) -> None:
    words = ("--from-folder", pictures(), "--invert")
    assert fedmeta("shards", config(PICTURES), *words).exit_code == 0
    shard = read_shard(here / "shards" / "client-0.safetensors")
    assert shard.split == "train"
    assert shard.x[:3, 0, 0, 0].tolist() == [255, 215, 175]


def test_many_classes_are_counted_and_few_are_named(here: Path) -> None:
    pictures()
    for name in "abc":
        Path("photos", name).mkdir()
        for i in range(3):
            Image.fromarray(np.full((4, 6), i, np.uint8)).save(f"photos/{name}/{i}.png")
    result = fedmeta("shards", config(PICTURES), "--from-folder", "photos")
    assert "5: a, b, c and 2 more" in result.output


@pytest.mark.parametrize("target", [None, "b"])
def test_a_shard_of_a_table(here: Path, target: str | None) -> None:
    words = ("--target", target) if target else ()
    result = fedmeta("shards", config(ROWS), "--from-csv", table(), *words)
    assert result.exit_code == 0, result.output
    shard = read_shard(here / "shards" / "client-0.safetensors")
    assert shard.y.flatten().tolist() == ([2, 4, 6] if target else [10, 20, 30])
    assert shard.x[0].tolist() == ([1, 10] if target else [1, 2])


def test_a_shard_that_was_written_is_trained_on(here: Path) -> None:
    """From the photographs to a reply to a server."""
    path = config(PICTURES)
    assert fedmeta("shards", path, "--from-folder", pictures(), "--client", "9").exit_code == 0
    experiment = load(Path(path))
    work = Work(experiment.to_yaml(), 1, [9], run="0af3")
    content = pack_work(pack_params(first_params(experiment)[0]), work)
    host = Host(here / "states", here / "shards" / "client-9.safetensors")
    reply = unpack_replies(answer("train", content, host))
    assert (reply.clients, reply.failures) == ([9], {})
    assert reply.columns["examples"].tolist() == [6]


def test_shards_of_real_characters(here: Path) -> None:
    if not (folder := os.environ.get("FEDMETA_DATA")):
        pytest.skip("FEDMETA_DATA is not set: it names the folder that holds the real data")
    result = fedmeta("shards", str(CONFIGS / "omniglot_alphabet.yaml"), "--clients", "0,30")
    assert result.exit_code == 0, result.output
    characters = read_characters(folder)
    for shard in read_shards(here / "shards"):
        alphabet = " ".join(shard.classes[0].split()[:-1])
        which = characters.alphabets == alphabet
        assert shard.counts == [20] * which.sum()
        assert (shard.x.numpy() == characters.images[which].reshape(-1, 1, 28, 28)).all()
    assert "and " in result.output


def test_what_exists_is_not_written_over(here: Path) -> None:
    """And nothing else is written either."""
    assert fedmeta("shards", QUICKSTART, *SMALL, "--clients", "3").exit_code == 0
    before = (here / "shards" / "client-3.safetensors").read_bytes()
    line = refused(fedmeta("shards", QUICKSTART, *SMALL, "--clients", "2,3", "seed=1"))
    assert "--out: shards/client-3.safetensors exists already; choose another folder" in line
    assert files() == ["client-3.safetensors"]
    assert (here / "shards" / "client-3.safetensors").read_bytes() == before


BAD: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "no source": (
        (QUICKSTART,),
        ["give one of --clients, --from-folder, --from-csv, got none"],
    ),
    "two sources": (
        (QUICKSTART, "--clients", "0", "--from-csv", "rows.csv"),
        ["give one of --clients, --from-folder, --from-csv, got --clients and --from-csv"],
    ),
    "three sources": (
        (QUICKSTART, "--clients", "0", "--from-csv", "rows.csv", "--from-folder", "photos"),
        ["got --clients and --from-folder and --from-csv"],
    ),
    "an unknown client": (
        (QUICKSTART, *SMALL, "--clients", "0,42"),
        ["--clients: 42 is not in the federation; there are train 0 to 29, val 30 to 34, "
        "test 35 to 41"],
    ),
    "no number": (
        (QUICKSTART, "--clients", "0,one"),
        ["--clients must be numbers such as 0,1,2, got '0,one'"],
    ),
    "a negative client": (
        (QUICKSTART, "--clients=-1"),
        ["--clients must be numbers such as 0,1,2, got '-1'"],
    ),
    "no clients": (
        (QUICKSTART, "--clients", ""),
        ["--clients must be numbers such as 0,1,2, got ''"],
    ),
    "an unknown split": (
        ("mine.yaml", "--from-csv", "rows.csv", "--split", "trian"),
        ["--split must be one of train, val, test, got 'trian'"],
    ),
    "no config": (("no.yaml", "--clients", "0"), ["no.yaml: cannot read the config"]),
    "a bad override": (
        (QUICKSTART, "data.exmaples=3", "--clients", "0"),
        ["data.exmaples", "did you mean examples?"],
    ),
    "a table that is not there": (
        ("mine.yaml", "--from-csv", "no.csv"),
        ["no.csv: cannot be read as a table"],
    ),
    "a column that is not there": (
        ("mine.yaml", "--from-csv", "rows.csv", "--target", "price"),
        ["rows.csv: has no one column 'price', its columns are a, target, b"],
    ),
    "a folder that is not there": (
        (str(CONFIGS / "omniglot_maml.yaml"), "--from-folder", "no"),
        ["--from-folder no: there is no such folder"],
    ),
    "pictures for numbers": (
        (QUICKSTART, "--from-folder", "photos"),
        ["--from-folder: the experiment wants inputs [1], not pictures"],
    ),
    "a table for another experiment": (
        (QUICKSTART, "--from-csv", "rows.csv"),
        ["inputs [2] with 1 values; the experiment is of 'sinusoid', inputs [1] with 1 values"],
    ),
    "too few rows": (
        ("mine.yaml", "data.queries=5", "--from-csv", "rows.csv"),
        ["client 0 holds 3 examples, an episode needs 1 (shots) + 5 (queries) = 6"],
    ),
    "a client that no file can hold": (
        ("mine.yaml", "--from-csv", "rows.csv", "--client", "300000000"),
        ["--client must be 0 to 299,999,999, got 300000000"],
    ),
    "a folder that cannot be made": (
        ("mine.yaml", "--from-csv", "rows.csv", "--out", "rows.csv"),
        ["rows.csv/client-0.safetensors: cannot be written"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_leaves_no_file(
    arguments: tuple[str, ...], words: list[str]
) -> None:
    config(ROWS)
    table()
    line = refused(fedmeta("shards", *arguments))
    assert all(word in line for word in words), line
    assert files() == []
