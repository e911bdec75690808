"""Who hosts whom and who is there: every client is asked of one node, and unfit nodes of none."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Error, Message, RecordDict

from fedmeta import __version__
from fedmeta.config import Experiment
from fedmeta.errors import FedmetaError
from fedmeta.wire import pack_roster, runs
from simulations.executors.local import LocalExecutor
from simulations.grid import CohortGrid
from strategies import roster as module
from strategies.roster import Attendance, Roster, check_somebody

ALL = ((range(0, 10),), (range(10, 13),), (range(13, 15),))


@dataclass
class Nodes(CohortGrid):
    """Nodes that answer a query as they are told; None: not at all. Any of them may go and come."""

    answers: dict[int, RecordDict | Error | None]
    asked: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(LocalExecutor(Path("unused")))

    def get_node_ids(self) -> list[int]:
        return list(self.answers)

    def send_and_receive(self, messages, *, timeout=None):
        sent = {message.metadata.dst_node_id: message for message in messages}
        for node, message in sent.items():
            message.metadata.__dict__["_message_id"] = f"to {node}"
        self.asked += sent
        return [
            Message(answer, reply_to=sent[node])
            for node in sent
            if (answer := self.answers[node]) is not None
        ]


def hosting(first: int, version: str = __version__) -> RecordDict:
    """What a device with one client that trains says."""
    hosted = {"train": [first], "val": [], "test": []}
    return RecordDict({"node": pack_roster(version, hosted)})


def attendance_of(*answers: RecordDict | Error | None) -> Attendance:
    return Attendance(Nodes(dict(enumerate(answers, start=2))), "", 1.0)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10])
def test_twin_nodes_share_clients_in_equal_consecutive_blocks(count: int) -> None:
    chosen = np.arange(10)[-count:]
    assigned = Roster({5: ALL, 2: ALL, 9: ALL}).assign(chosen)
    blocks = [assigned[node] for node in sorted(assigned)]
    assert [client for block in blocks for client in block] == chosen.tolist()
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1
    assert len(blocks) == min(count, 3)


def test_devices_get_their_own_clients() -> None:
    """Client 9 is nobody's."""
    spans = {node: ((range(c, c + 1),), (), ()) for node, c in {4: 1, 3: 0, 8: 2}.items()}
    assert Roster(spans).assign(np.array([0, 2, 9])) == {3: [0], 8: [2]}


def test_devices_and_workers_mix() -> None:
    """Nodes 2 and 3 host 0 to 3 together, node 4 hosts 4, 5 and 9 alone."""
    shared, own = ((range(4),), (), ()), ((range(4, 6), range(9, 10)), (), ())
    assigned = Roster({2: shared, 3: shared, 4: own}).assign(np.array([0, 1, 3, 4, 5, 9]))
    assert assigned == {2: [0, 1], 3: [3], 4: [4, 5, 9]}


def test_the_clients_of_a_split_are_counted_once() -> None:
    own = ((range(20, 22),), (range(22, 23),), ())
    roster = Roster({2: ALL, 3: ALL, 4: own})
    assert roster.clients("train").tolist() == [*range(10), 20, 21]
    assert roster.clients("val").tolist() == [10, 11, 12, 22]
    assert roster.clients("test").tolist() == [13, 14]
    assert Roster({}).clients("val").tolist() == []


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([], []),
        ([4], [range(4, 5)]),
        ([0, 1, 2, 5, 7, 8], [range(3), range(5, 6), range(7, 9)]),
        (range(100_000), [range(100_000)]),
        (range(0), []),
    ],
)
def test_ids_travel_as_runs(ids, expected: list[range]) -> None:
    assert runs(ids) == expected


def test_every_node_is_asked_once() -> None:
    attendance = attendance_of(hosting(0), hosting(3), hosting(5))
    assert attendance.now().clients("train").tolist() == [0, 3, 5]
    assert attendance.now() is attendance.now()
    assert attendance._grid.asked == [2, 3, 4]


def test_the_log_says_what_a_node_hosts_and_allows(caplog: pytest.LogCaptureFixture) -> None:
    answer = hosting(4)
    answer["limits"] = ConfigRecord({"max-steps": 20, "learners": "maml, reptile"})
    with caplog.at_level("INFO"):
        attendance_of(answer).now()
    assert "node 2 takes part: 1 train clients, max-steps 20, learners maml, reptile" in caplog.text


def test_who_goes_is_not_asked_for_work_and_who_comes_is() -> None:
    """And who went is known: those that cannot be scored are counted."""
    attendance = attendance_of(hosting(0), hosting(3))
    nodes = attendance._grid.answers
    attendance.now()
    del nodes[2]
    nodes[7] = hosting(8)
    assert attendance.now().clients("train").tolist() == [3, 8]
    assert attendance.everyone.clients("train").tolist() == [0, 3, 8]
    nodes[2] = hosting(9)  # back, with the shard of another client
    assert attendance.now().clients("train").tolist() == [3, 8, 9]


def test_waiting_ends_with_enough_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third node appears while the others are waited with."""
    attendance = attendance_of(hosting(0), hosting(3))
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            attendance._grid.answers[4] = hosting(5)

    monkeypatch.setattr(module.time, "sleep", sleep)
    roster = attendance.wait(
        lambda roster: "" if len(roster.clients("train")) == 3 else "more", 1000.0
    )
    assert (roster.clients("train").tolist(), len(looks)) == ([0, 3, 5], 3)


def test_waiting_ends_with_the_time() -> None:
    roster = attendance_of(hosting(0)).wait(lambda roster: "more", 0.0)
    assert roster.clients("train").tolist() == [0]


def test_a_worker_hosts_the_whole_federation(
    tmp_path: Path, quickstart: Callable[..., Experiment]
) -> None:
    """The counts of the config, one split after the other."""
    overrides = [f"data.clients.{split}" for split in ("train=30", "val=5", "test=7")]
    yaml = quickstart(*overrides).to_yaml()
    (spans,) = Attendance(CohortGrid(LocalExecutor(tmp_path)), yaml, 1.0).now().hosts.values()
    assert spans == ((range(0, 30),), (range(30, 35),), (range(35, 42),))


def bad(**changes: object) -> RecordDict:
    node = {"version": __version__, "train": [0, 1], "val": [], "test": []} | changes
    return RecordDict({"node": ConfigRecord({k: v for k, v in node.items() if v is not None})})  # type: ignore


def sized(client: int, sizes: object) -> RecordDict:
    """What a device with one client that trains says of its shard."""
    answer = hosting(client)
    answer["sizes"] = ConfigRecord({"train": sizes})  # type: ignore[dict-item]
    return answer


UNFIT: dict[str, tuple[RecordDict | Error | None, str]] = {
    "another version": (
        hosting(1, version="0.0.9"),
        f"runs fedmeta 0.0.9, the server {__version__}",
    ),
    "cannot open its data": (Error(code=2, reason="no such shard"), "no such shard"),
    "silent": (None, "no answer within 1 s"),
    "no roster": (RecordDict(), "it gave no roster (KeyError"),
    "a split left out": (bad(val=None), "it gave no roster (KeyError"),
    "no client": (bad(train=[]), "it hosts no client"),
    "half a run": (bad(train=[0]), "expected [start, stop, ...], got [0]"),
    "backwards": (bad(train=[5, 3]), "expected ids of 0 to"),
    "a negative id": (bad(train=[-5, 3]), "expected ids of 0 to"),
    "more than there can be": (bad(train=[0, 10**12]), "expected ids of 0 to"),
    "no numbers": (bad(train=["a", "b"]), "it gave no roster (TypeError"),
    "no list": (bad(train="everything"), "it gave no roster (ValueError"),
    "two sizes of one shard": (sized(7, [4, 5]), "no size for each of its 1 train clients"),
    "sizes that are no list": (sized(7, 4), "no size for each of its 1 train clients"),
    "an empty shard": (sized(7, [0]), "a shard size that is not a whole number above 0"),
    "half an example": (sized(7, [0.5]), "a shard size that is not a whole number above 0"),
    "a size in words": (sized(7, ["many"]), "a shard size that is not a whole number above 0"),
}


@pytest.mark.parametrize(("answer", "reason"), UNFIT.values(), ids=UNFIT.keys())
def test_an_unfit_node_takes_no_part_and_is_named(
    caplog: pytest.LogCaptureFixture, answer: RecordDict | Error | None, reason: str
) -> None:
    attendance = attendance_of(hosting(0), answer, hosting(5))
    assert attendance.now().clients("train").tolist() == [0, 5]
    assert attendance.refused.keys() == {3}
    assert reason in attendance.refused[3]
    assert f"node 3 takes no part: {attendance.refused[3]}" in caplog.text
    attendance.now()
    assert attendance._grid.asked == [2, 3, 4]


def test_a_federation_of_unfit_nodes_stops_the_run() -> None:
    attendance = attendance_of(Error(code=2, reason="no such shard"))
    attendance.now()
    with pytest.raises(FedmetaError, match="node 2 cannot take part: no such shard"):
        check_somebody(attendance)


def test_a_federation_without_nodes_stops_the_run() -> None:
    attendance = attendance_of()
    attendance.now()
    with pytest.raises(FedmetaError, match="no node is connected"):
        check_somebody(attendance)


def test_sizes_are_those_that_nodes_give() -> None:
    """Who gives none is sampled as if it had one example; who comes back says it anew."""
    attendance = attendance_of(sized(5, [40]), sized(8, []), hosting(3))
    assert attendance.now().clients("train").tolist() == [3, 5, 8]
    assert attendance.sizes == {5: 40}
    nodes = attendance._grid.answers
    del nodes[2]
    attendance.now()
    nodes[2] = sized(5, [60])
    attendance.now()
    assert attendance.sizes == {5: 60}


@pytest.mark.parametrize("sampling", ["size", "uniform"])
def test_only_who_samples_by_size_asks_for_sizes(
    tmp_path: Path, quickstart: Callable[..., Experiment], sampling: str
) -> None:
    shards = ("data.least_examples=20", "data.clients.train=9", f"cohort.sampling={sampling}")
    experiment = quickstart(*shards)
    attendance = Attendance(CohortGrid(LocalExecutor(tmp_path)), experiment.to_yaml(), 1.0)
    attendance.now()
    federation = experiment.data.open(experiment.seed, torch.device("cpu"), torch.float32)
    held = federation.examples(np.arange(9)).tolist()
    assert len(set(held)) > 1
    expected = dict(enumerate(held)) if sampling == "size" else {}
    assert attendance.sizes == expected
