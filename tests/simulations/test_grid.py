"""CohortGrid keeps Flower's contract, with Flower's own strategies on top."""

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from simulations.grid import TRIED_WITH, CohortGrid


class Adder:
    """Nodes that add their number to the array they get; node 2 always fails."""

    nodes = 3

    def execute(
        self, message_type: str, work: Sequence[tuple[int, RecordDict]]
    ) -> list[RecordDict | Error]:
        return [self._answer(node, content) for node, content in work]

    def close(self) -> None: ...

    @staticmethod
    def _answer(node: int, content: RecordDict) -> RecordDict | Error:
        if node == 2:
            return Error(code=2, reason="broken")
        value = content.array_records["arrays"]["w"].numpy() + node
        record = ArrayRecord({"w": Array(value)})
        return RecordDict({"arrays": record, "metrics": MetricRecord({"num-examples": 1 + node})})


def test_flower_is_a_release_that_was_tried() -> None:
    assert version("flwr") in TRIED_WITH


def test_replies_answer_their_messages_in_node_order() -> None:
    grid = CohortGrid(Adder())
    content = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(2))})})
    messages = [Message(content, node, "train") for node in reversed(list(grid.get_node_ids()))]
    replies = list(grid.send_and_receive(messages))
    assert [reply.metadata.src_node_id for reply in replies] == [2, 3, 4]
    sent = {message.metadata.dst_node_id: message.metadata.message_id for message in messages}
    for reply in replies:
        assert reply.metadata.reply_to_message_id == sent[reply.metadata.src_node_id]
    assert [reply.has_error() for reply in replies] == [False, False, True]


def test_push_and_pull_give_each_reply_once() -> None:
    grid = CohortGrid(Adder())
    content = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(2))})})
    ids = list(grid.push_messages([Message(content, node, "train") for node in (2, 3)]))
    assert len(list(grid.pull_messages(ids))) == 2
    assert list(grid.pull_messages(ids)) == []


def test_flowers_own_fedavg_runs_on_it() -> None:
    """Two rounds from 0: each adds the mean of 0 (weight 1) and 1 (weight 2), that is 2/3."""
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=3, min_train_nodes=3)
    start = ArrayRecord({"w": Array(np.zeros(2))})
    result = strategy.start(CohortGrid(Adder()), start, num_rounds=2)
    np.testing.assert_allclose(result.arrays["w"].numpy(), [4 / 3, 4 / 3], rtol=1e-15)
