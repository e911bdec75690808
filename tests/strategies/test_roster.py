"""Who hosts whom and who is there: every client is asked of one node, and unfit nodes of none."""

import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

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
    waited: list[float | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(LocalExecutor(Path("unused")))

    def get_node_ids(self) -> list[int]:
        return list(self.answers)

    def send_and_receive(self, messages, *, timeout=None):
        sent = {message.metadata.dst_node_id: message for message in messages}
        for node, message in sent.items():
            message.metadata.__dict__["_message_id"] = f"to {node}"
        self.asked += sent
        self.waited += [timeout]
        return [
            Message(answer, reply_to=sent[node])
            for node in sent
            if (answer := self.answers[node]) is not None
        ]


def hosting(first: int, version: str = __version__) -> RecordDict:
    """What a device with one client that trains says."""
    return device(version, train=[first])


def device(version: str = __version__, own: bool = True, **hosted: Sequence[int]) -> RecordDict:
    everything = {"train": [], "val": [], "test": []} | hosted
    return RecordDict({"node": pack_roster(version, everything, own)})  # type: ignore[arg-type]


def worker(**hosted: Sequence[int]) -> RecordDict:
    """What a node without a shard of its own says."""
    return device(own=False, **hosted)


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
    node = {"version": __version__, "own": True, "train": [0, 1], "val": [], "test": []} | changes
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
    "another version, of other rosters": (
        bad(version="0.0.9", own=None),
        f"runs fedmeta 0.0.9, the server {__version__}",
    ),
    "silent": (None, "no answer within 1 s"),
    "no roster": (RecordDict(), "it gave no roster (KeyError"),
    "a split left out": (bad(val=None), "it gave no roster (KeyError"),
    "whose clients they are left out": (bad(own=None), "it gave no roster (KeyError: 'own')"),
    "no client": (bad(train=[]), "it hosts no client"),
    "a client in two splits": (bad(train=[6, 9], test=[8, 9]), "it hosts client 8 in two splits"),
    "half a run": (bad(train=[0]), "expected [start, stop, ...], got [0]"),
    "backwards": (bad(train=[5, 3]), "expected ids of 0 to"),
    "a negative id": (bad(train=[-5, 3]), "expected ids of 0 to"),
    "more than there can be": (bad(train=[0, 10**12]), "expected ids of 0 to"),
    "runs that overlap": (bad(train=[6, 9, 8, 12]), "ascending"),
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


NUMBERS = "clients of devices have numbers of their own"


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        (hosting(7), hosting(7), 7),
        (hosting(7), device(test=[7]), 7),
        (device(train=range(2, 6), val=[9]), device(train=[1, 5], test=[9]), 5),
        (worker(train=range(20), val=range(20, 23)), hosting(7), 7),
        (hosting(7), worker(train=range(20)), 7),
    ],
    ids=["two devices", "of two splits", "several", "a worker's", "claimed by a worker"],
)
def test_nobody_else_hosts_the_client_of_a_device(
    caplog: pytest.LogCaptureFixture, first: RecordDict, second: RecordDict, shared: int
) -> None:
    """Who was there first stays."""
    attendance, alone = attendance_of(first, hosting(30), second), attendance_of(first, hosting(30))
    assert attendance.now().hosts == alone.now().hosts
    reason = f"it hosts client {shared}, which node 2 hosts too: {NUMBERS}"
    assert attendance.refused == {4: reason}
    assert f"node 4 takes no part: {reason}" in caplog.text
    attendance.now()
    assert attendance._grid.asked == [2, 3, 4]


def test_workers_host_the_same_clients() -> None:
    shared = worker(train=range(20), val=range(20, 23))
    roster = attendance_of(shared, shared, hosting(30)).now()
    assert roster.assign(np.array([3, 5, 30])) == {2: [3], 3: [5], 4: [30]}


def test_when_a_device_is_gone_another_may_host_its_client() -> None:
    """It is back under another number, say. Of two that wait for it, the first takes its place."""
    attendance = attendance_of(hosting(7), hosting(7), hosting(7), hosting(8))
    nodes = attendance._grid.answers
    assert attendance.now().hosts.keys() == {2, 5}
    del nodes[5]
    attendance.now()
    assert attendance._grid.asked == [2, 3, 4, 5]
    del nodes[2]
    assert attendance.now().hosts.keys() == {3}
    assert attendance.refused == {4: f"it hosts client 7, which node 3 hosts too: {NUMBERS}"}


def test_the_size_of_a_client_is_not_what_another_node_says() -> None:
    attendance = attendance_of(sized(5, [40]), sized(5, [60]))
    attendance.now()
    assert attendance.sizes == {5: 40}


@dataclass
class Clock:
    now: float = 1000.0

    @classmethod
    def put(cls, monkeypatch: pytest.MonkeyPatch) -> "Clock":
        clock = cls()
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
        return clock


@pytest.mark.parametrize("failure", [None, Error(code=2, reason="No space left on device")])
def test_a_node_that_failed_to_answer_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, failure: Error | None
) -> None:
    """After 300 s, 600 s, 1200 s, for it may be dead and the others wait for it. The log says why."""
    clock, attendance = Clock.put(monkeypatch), attendance_of(hosting(0), failure)
    nodes, asked = attendance._grid.answers, list[float]()
    for _ in range(45):
        before = len(attendance._grid.asked)
        assert attendance.now().clients("train").tolist() == [0]
        assert attendance.refused.keys() == {3}
        if attendance._grid.asked[before:]:
            asked.append(clock.now - 1000)
        clock.now += 50
    assert asked == [0, 300, 900, 2100]
    nodes[3] = hosting(4)
    clock.now = 1000 + 4450
    assert attendance.now().clients("train").tolist() == [0]
    clock.now += 50
    assert attendance.now().clients("train").tolist() == [0, 4]
    assert attendance.refused == {}


def test_the_others_wait_less_for_a_node_that_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tenth of the time since, and never longer than for one that is new."""
    clock = Clock.put(monkeypatch)
    attendance = Attendance(Nodes({2: hosting(0), 3: None}), "", 100.0)
    attendance.now()
    for passed in (300, 600, 1200):
        clock.now += passed
        attendance._grid.answers[4 + passed] = hosting(passed)
        attendance.now()
    assert attendance._grid.waited == [100, 100, 30, 100, 60, 100, 100]
    assert attendance.refused == {3: "no answer within 100 s"}


@pytest.mark.parametrize(
    "answer", [hosting(7, version="0.0.9"), bad(train=[5, 3]), hosting(0)], ids=str
)
def test_a_node_that_cannot_take_part_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch, answer: RecordDict
) -> None:
    clock, attendance = Clock.put(monkeypatch), attendance_of(hosting(0), answer)
    attendance.now()
    clock.now += 1e6
    attendance.now()
    assert attendance._grid.asked == [2, 3]


def test_a_short_roster_of_very_many_clients_costs_nothing() -> None:
    """Ten million ids in a Python list are 300 MB and more."""
    attendance = attendance_of(worker(train=range(10_000_000)))
    tracemalloc.start()
    attendance.now()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e6


def test_very_many_hosts_of_the_same_clients_cost_as_much_as_one() -> None:
    """Ids of 8 bytes, and once more while they are put together; runs that overlap count once."""
    roster = Roster({node: ((range(node, 1_000_000),), (), ()) for node in range(50)})
    tracemalloc.start()
    assert np.array_equal(roster.clients("train"), np.arange(1_000_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 8e6
