"""What travels comes out as it went in, and data from outside is data, never code."""

import io
import os
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as Proto
from torch import Tensor

from fedmeta.evaluation import Scores
from fedmeta.packing import pack_params, unpack_params
from fedmeta.replies import Replies
from fedmeta.types import Params
from fedmeta.wire import (
    Work,
    pack_replies,
    pack_roster,
    pack_scores,
    pack_work,
    runs,
    size,
    unpack_replies,
    unpack_runs,
    unpack_scores,
    unpack_work,
)

TENSORS = {
    "matrix": torch.arange(6.0).reshape(2, 3),
    "scalar": torch.tensor(-1.5),
    "empty": torch.zeros(0, 4),
    "double": torch.tensor([1 / 3, 1e300], dtype=torch.float64),
    "scalar double": torch.tensor(1 / 3, dtype=torch.float64),
    "integers": torch.tensor([2**62, -1]),
    "scalar integer": torch.tensor(7),
    "flags": torch.tensor([True, False]),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "strided": torch.arange(9.0)[::3],
    "special": torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0]),
}


def travel(content: RecordDict) -> RecordDict:
    """Through Flower's own encoding into bytes and out again, as between two machines."""
    return recorddict_from_proto(Proto.FromString(recorddict_to_proto(content).SerializeToString()))


def same(a: Params, b: Params) -> bool:
    """Equal keys, dtypes, shapes and bits."""
    return list(a) == list(b) and all(
        a[k].dtype == b[k].dtype
        and a[k].shape == b[k].shape
        and a[k].numpy().tobytes() == b[k].numpy().tobytes()
        for k in a
    )


def replies(**changes: object) -> Replies:
    deltas = {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "rate": torch.tensor([0.1, 0.2])}
    columns = {"examples": torch.tensor([5, 6]), "loss": torch.tensor([0.1, 0.2])}
    return replace(Replies([7, 3], deltas, columns, {9: "DataError: 9"}), **changes)  # type: ignore


@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS.keys())
def test_params_come_back_to_the_bit(tensor: Tensor) -> None:
    content = travel(RecordDict({"params": pack_params({"layer.w": tensor})}))
    assert same(unpack_params(content.array_records["params"]), {"layer.w": tensor})


def test_the_order_of_params_is_kept() -> None:
    assert same(unpack_params(pack_params(TENSORS)), TENSORS)
    assert unpack_params(pack_params({})) == {}


def test_packing_takes_values_off_the_graph_and_out_of_reach() -> None:
    """A later change of the tensor must not reach a message already packed."""
    weights = torch.ones(2, requires_grad=True)
    record = pack_params({"w": 2 * weights})
    assert unpack_params(record)["w"].tolist() == [2.0, 2.0]
    plain = torch.ones(2)
    record = pack_params({"w": plain})
    plain.zero_()
    assert unpack_params(record)["w"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("weight", ["", "examples"])
@pytest.mark.parametrize("clients", [[], [4], [9, 0, 2**40]])
def test_work_comes_back(clients: list[int], weight: str) -> None:
    work = Work("name: größe\n", 12, clients, weight, run="0af3")
    content = travel(pack_work(pack_params(TENSORS), work))
    assert unpack_work(content) == work
    assert same(unpack_params(content.array_records["params"]), TENSORS)


def test_work_shares_the_record_of_the_params() -> None:
    params = pack_params(TENSORS)
    assert pack_work(params, Work("", 1, [2]))["params"] is params


@pytest.mark.parametrize("summed", [False, True])
def test_replies_come_back(summed: bool) -> None:
    """Columns come as float64: 0.1 in float32 is another number than 0.1, and stays that number."""
    sent = replies(summed=summed)
    found = unpack_replies(travel(pack_replies(sent)))
    assert (found.clients, found.failures, found.summed) == ([7, 3], {9: "DataError: 9"}, summed)
    assert same(found.deltas, sent.deltas)
    assert same(found.columns, {name: values.double() for name, values in sent.columns.items()})


def test_a_reply_of_failures_alone_comes_back() -> None:
    sent = Replies([], {}, {}, {9: "DataError: 9", 4: "ValueError: 4"})
    assert unpack_replies(travel(pack_replies(sent))) == sent


def test_a_reply_without_failures_comes_back() -> None:
    assert unpack_replies(travel(pack_replies(replies(failures={})))).failures == {}


def test_scores_come_back() -> None:
    curves = {"loss": torch.rand(2, 3, generator=torch.Generator().manual_seed(0)).double()}
    found = unpack_scores(travel(pack_scores(Scores([7, 3], curves))))
    assert found.clients == [7, 3]
    assert same(found.curves, curves)


class Order:
    """What an attacker sends: unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def as_npy(folder: Path) -> bytes:
    """An .npy file with an object array."""
    file = io.BytesIO()
    np.save(file, np.array([Order(folder)], dtype=object), allow_pickle=True)
    return file.getvalue()


def as_pickle(folder: Path) -> bytes:
    """A bare pickle, which ``np.load`` also knows."""
    return pickle.dumps(Order(folder))


@pytest.mark.parametrize("attack", [as_npy, as_pickle])
def test_a_pickle_in_a_record_is_refused_and_not_run(attack: object, tmp_path: Path) -> None:
    folder = tmp_path / "made by the attacker"
    data: bytes = attack(folder)  # type: ignore[operator]
    entry = Array(dtype="uint8", shape=(1,), stype="numpy.ndarray", data=data)
    sent = ArrayRecord({**pack_params({"w": torch.zeros(1)}), "numbers": entry})
    content = travel(RecordDict({"params": sent}))
    with pytest.raises(ValueError, match="pickle"):
        unpack_params(content.array_records["params"])
    assert not folder.exists()
    np.load(io.BytesIO(data), allow_pickle=True)  # so the attack itself works
    assert folder.exists()


def test_nothing_that_is_sent_is_a_pickle() -> None:
    """Every array is an .npy file of bytes that loads without pickle."""
    for array in pack_params(TENSORS).values():
        assert array.data.startswith(b"\x93NUMPY")
        assert np.load(io.BytesIO(array.data), allow_pickle=False).dtype == np.uint8


def test_many_tensors_are_few_arrays() -> None:
    """Flower's own bytes for an array outweigh those of a small layer."""
    assert len(pack_params(TENSORS)) == len(pack_params({})) == 2


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([7], [range(7, 8)]),
        ([0, 1, 2], [range(3)]),
        ([1, 3, 5], [range(1, 2), range(3, 4), range(5, 6)]),
        (range(4, 9), [range(4, 9)]),
        ((), []),
    ],
)
def test_runs_are_ranges_of_consecutive_ids(ids: Sequence[int], expected: list[range]) -> None:
    assert runs(ids) == expected
    assert [i for run in expected for i in run] == list(ids)


def test_the_size_of_a_message_is_that_of_its_arrays_texts_and_numbers() -> None:
    """An .npy file has a header of 128 bytes; numbers are 8 bytes, texts their letters."""
    params = pack_params({"a": torch.zeros(5), "b": torch.zeros(2, 2, dtype=torch.float64)})
    work = Work("name: x\n", 3, [4, 5, 6], "examples", run="0af3")
    layout = '[["a", "<f4", [5]], ["b", "<f8", [2, 2]]]'
    numbers = 128 + len(layout) + 128 + 5 * 4 + 4 * 8
    assert size(pack_work(params, work)) == numbers + 8 + 4 * 8 + 2 * 8 + len("examples") + 4
    assert size(RecordDict()) == 0


@pytest.mark.parametrize("ids", [[], [3], [0, 1, 2, 7, 9, 10], range(100_000)])
def test_a_roster_says_who_is_hosted_in_few_numbers(ids: Sequence[int]) -> None:
    hosted = {"train": ids, "val": [], "test": [2**40]}
    node = travel(RecordDict({"node": pack_roster("1.2", hosted)})).config_records["node"]  # type: ignore
    assert node["version"] == "1.2"
    found = {split: list(node[split]) for split in hosted}  # type: ignore[call-overload]
    assert (found["val"], found["test"]) == ([], [2**40, 2**40 + 1])
    pairs = zip(found["train"][::2], found["train"][1::2], strict=True)
    assert [i for start, stop in pairs for i in range(start, stop)] == list(ids)
    assert len(found["train"]) <= 6


@pytest.mark.parametrize("own", [False, True])
def test_a_roster_says_whose_clients_they_are(own: bool) -> None:
    hosted = {"train": [3], "val": [], "test": []}
    node = travel(RecordDict({"node": pack_roster("1.2", hosted, own)})).config_records["node"]  # type: ignore
    assert node["own"] is own


@pytest.mark.parametrize("edges", [[], [0, 3], [0, 1, 4, 9], [0, 3, 3, 4], [5, 100_000_005]])
def test_runs_come_back(edges: list[int]) -> None:
    assert [edge for run in unpack_runs(edges) for edge in (run.start, run.stop)] == edges


@pytest.mark.parametrize(
    ("edges", "reason"),
    [
        ([0, 5, 4, 9], "ascending"),
        ([0, 5, 0, 5], "ascending"),
        ([6, 9, 0, 3], "ascending"),
        ([0, 0], "ascending"),
        ([0, 3, 5], r"expected \[start, stop, ...\], got \[0, 3, 5\]"),
        ([0, 300_000_001], "ids of 0 to 300000000,"),
        ([0, 100_000_001], "at most 100000000 clients of a split, got 100000001"),
        ([0, 60_000_000, 70_000_000, 120_000_000], "at most 100000000 clients of a split"),
    ],
)
def test_runs_that_no_node_would_send_are_refused(edges: list[int], reason: str) -> None:
    """A short message could otherwise name one client very often."""
    with pytest.raises(ValueError, match=reason):
        unpack_runs(edges)
