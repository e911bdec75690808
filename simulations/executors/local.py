"""All clients in this process: starts at once."""

from collections.abc import Sequence
from pathlib import Path

from flwr.app import Error, RecordDict

from fedmeta.errors import FedmetaError
from fedmeta.host import Host
from fedmeta.node import answer


class LocalExecutor:
    """One node that hosts every client."""

    nodes = 1

    def __init__(self, states: Path) -> None:
        self._host = Host(states, trusted=True)

    def execute(
        self, message_type: str, work: Sequence[tuple[int, RecordDict]]
    ) -> list[RecordDict | Error]:
        """Answer one after the other; bad input stops the run, anything else is a node's failure."""
        return [self._answer(message_type, content) for _, content in work]

    def close(self) -> None:
        """Nothing was taken."""

    def _answer(self, message_type: str, content: RecordDict) -> RecordDict | Error:
        try:
            return answer(message_type, content, self._host)
        except FedmetaError:
            raise
        except Exception as e:
            return Error(code=2, reason=f"{type(e).__name__}: {e}")
