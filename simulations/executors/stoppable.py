"""A run that ends when somebody else wants it to: a file in its folder says so."""

from collections.abc import Sequence
from pathlib import Path

from flwr.app import Error, RecordDict

from fedmeta.errors import FedmetaError
from simulations.grid import Executor


class StoppedError(FedmetaError):
    """Somebody wants the run to end."""


class Stoppable:
    """An executor that looks for the file before every message, so a run ends within a round.

    Recorders only watch and could not do it. The checkpoint of the round before stays.
    """

    def __init__(self, executor: Executor, file: Path) -> None:
        self._executor, self._file = executor, file

    @property
    def nodes(self) -> int:
        """How many nodes there are."""
        return self._executor.nodes

    def execute(
        self, message_type: str, work: Sequence[tuple[int, RecordDict]]
    ) -> list[RecordDict | Error]:
        """The answers. Raises StoppedError with what the file says, where it is there."""
        if self._file.exists():
            raise StoppedError(self._file.read_text().strip())
        return self._executor.execute(message_type, work)

    def close(self) -> None:
        """Close what is inside."""
        self._executor.close()
