"""Who hosts whom: every client is asked of one node, and nodes of another version of none."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, RecordDict

from fedmeta import __version__
from fedmeta.config import Experiment
from fedmeta.errors import FedmetaError
from simulations.executors.local import LocalExecutor
from simulations.grid import CohortGrid
from strategies.roster import Roster, take_roster

ALL = (range(0, 10), range(10, 13), range(13, 15))


@dataclass
class Nodes:
    """Nodes that answer a query as they are told."""

    answers: Sequence[RecordDict | Error]

    @property
    def nodes(self) -> int:
        return len(self.answers)

    def execute(
        self, message_type: str, work: Sequence[tuple[int, RecordDict]]
    ) -> list[RecordDict | Error]:
        return [self.answers[node] for node, _ in work]

    def close(self) -> None:
        """Nothing was taken."""


def hosting(first: int, version: str = __version__) -> RecordDict:
    """What a device with one client for each split says."""
    spans = {"train": [first, first + 1], "val": [8, 8], "test": [9, 9]}
    return RecordDict({"node": ConfigRecord({"version": version, **spans})})


def roster_of(*answers: RecordDict | Error) -> Roster:
    return take_roster(CohortGrid(Nodes(answers)), "", 1.0)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10])
def test_twin_nodes_share_clients_in_equal_consecutive_blocks(count: int) -> None:
    chosen = np.arange(10)[-count:]
    assigned = Roster({5: ALL, 2: ALL, 9: ALL}).assign(chosen)
    blocks = [assigned[node] for node in sorted(assigned)]
    assert [client for block in blocks for client in block] == chosen.tolist()
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1
    assert len(blocks) == min(count, 3)


def test_devices_get_their_own_clients() -> None:
    spans = {node: (range(c, c + 1), range(0), range(0)) for node, c in {4: 1, 3: 0, 8: 2}.items()}
    assert Roster(spans).assign(np.array([0, 2])) == {3: [0], 8: [2]}


def test_devices_and_workers_mix() -> None:
    """Nodes 2 and 3 host 0 to 3 together, node 4 hosts 4 and 5 alone."""
    shared, own = (range(4), range(0), range(0)), (range(4, 6), range(0), range(0))
    assigned = Roster({2: shared, 3: shared, 4: own}).assign(np.array([0, 1, 3, 4, 5]))
    assert assigned == {2: [0, 1], 3: [3], 4: [4, 5]}


def test_the_clients_of_a_split_are_counted_once() -> None:
    own = (range(20, 22), range(22, 23), range(0))
    roster = Roster({2: ALL, 3: ALL, 4: own})
    assert roster.clients("train").tolist() == [*range(10), 20, 21]
    assert roster.clients("val").tolist() == [10, 11, 12, 22]
    assert roster.clients("test").tolist() == [13, 14]


def test_every_node_is_asked() -> None:
    roster = roster_of(hosting(0), hosting(3), hosting(5))
    assert roster.clients("train").tolist() == [0, 3, 5]
    assert [spans[0].start for _, spans in sorted(roster.hosts.items())] == [0, 3, 5]


def test_a_worker_hosts_the_whole_federation(
    tmp_path: Path, quickstart: Callable[..., Experiment]
) -> None:
    """The counts of the config, one split after the other."""
    overrides = [f"data.clients.{split}" for split in ("train=30", "val=5", "test=7")]
    yaml = quickstart(*overrides).to_yaml()
    (spans,) = take_roster(CohortGrid(LocalExecutor(tmp_path)), yaml, 1.0).hosts.values()
    assert spans == (range(0, 30), range(30, 35), range(35, 42))


def test_another_version_stops_the_run() -> None:
    with pytest.raises(FedmetaError, match=rf"node 3 runs fedmeta 0\.0\.9, .* {__version__}"):
        roster_of(hosting(0), hosting(1, version="0.0.9"))


def test_a_node_that_cannot_open_its_data_stops_the_run() -> None:
    with pytest.raises(FedmetaError, match="node 3 cannot take part: no such shard"):
        roster_of(hosting(0), Error(code=2, reason="no such shard"))


def test_a_federation_without_nodes_stops_the_run() -> None:
    with pytest.raises(FedmetaError, match="no node is connected"):
        roster_of()
