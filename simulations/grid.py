"""Flower's Grid over our own executors: a message per node, answered in this process or by Ray.

The two imports from ``flwr.supercore`` are the only private names of Flower that fedmeta needs.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol
from uuid import uuid4

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

TRIED_WITH = ("1.41.0",)
"""flwr releases on which tests/simulations/test_grid.py has passed."""
_SUPERLINK, _FIRST_NODE = 1, 2


class Executor(Protocol):
    """Plays the nodes of a simulation."""

    @property
    def nodes(self) -> int:
        """How many nodes there are."""

    def execute(
        self, message_type: str, work: Sequence[tuple[int, RecordDict]]
    ) -> list[RecordDict | Error]:
        """The answers to (node, content) pairs, in their order."""

    def close(self) -> None:
        """Give back what was taken."""


class CohortGrid(Grid):
    """Sends a round's messages to an executor in one go."""

    def __init__(self, executor: Executor) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, _SUPERLINK
        self._executor, self._run = executor, Run.create_empty(1)
        self._inbox: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """Which run messages belong to."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run messages belong to."""
        return self._run

    def get_node_ids(self) -> Iterable[int]:
        """Ids in worker order, the same in every run."""
        return range(_FIRST_NODE, _FIRST_NODE + self._executor.nodes)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Deprecated by Flower, and abstract all the same."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Answered at once; the replies wait to be pulled."""
        sent = list(messages)
        for reply in self.send_and_receive(sent):
            self._inbox[reply.metadata.reply_to_message_id] = reply
        return [message.metadata.message_id for message in sent]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that were not pulled yet."""
        return [self._inbox.pop(id) for id in list(message_ids) if id in self._inbox]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Replies in node order. A simulation waits as long as the work takes, whatever the timeout."""
        sent = sorted(messages, key=lambda message: message.metadata.dst_node_id)
        if not sent:
            return []
        for message in sent:  # replies copy it, and Flower sets it on its own way out only
            message.metadata.__dict__["_message_id"] = str(uuid4())
        answers = self._executor.execute(
            sent[0].metadata.message_type,
            [(message.metadata.dst_node_id - _FIRST_NODE, message.content) for message in sent],
        )
        return [
            Message(answer, reply_to=message) for answer, message in zip(answers, sent, strict=True)
        ]
