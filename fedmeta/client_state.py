"""What a client keeps to itself between the rounds that it takes part in: one file per client.

A device has it on its own disk, a simulation in the run folder. The state before the latest round is
kept beside the latest: a run that is resumed from its checkpoint asks for the state before a round,
and whatever a killed process wrote later is not seen.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fedmeta.checkpoint import read_checkpoint, write_checkpoint
from fedmeta.errors import ConfigError, DataError, RunFolderError
from fedmeta.types import Params

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClientStates:
    """The states of the clients of one run on one node."""

    folder: Path

    @classmethod
    def of(cls, root: Path, run: str) -> "ClientStates":
        """Those of a run. Its name comes from a server, so it may not lead elsewhere."""
        if not re.fullmatch(r"[0-9a-f]{1,64}", run):
            raise ConfigError(f"the name of a run must be hexadecimal, got {run!r}")
        return cls(root / run)

    def read(self, clients: Sequence[int], round: int, first: Params, must: bool = False) -> Params:
        """States ``[clients, ...]`` from before the round; ``first`` where a client has none.

        Raises DataError where a client ``must`` have kept something and has not.
        """
        states = [self._read(client, round, first, must) for client in clients]
        return {name: torch.stack([state[name] for state in states]) for name in first}

    def write(self, clients: Sequence[int], round: int, states: Params) -> None:
        """Keep the states ``[clients, ...]`` from after the round, and the ones before them."""
        for position, client in enumerate(clients):
            others = [r for r in self._rounds(client) if r != round]
            before = [r for r in others if r < round]
            state = {name: values[position] for name, values in states.items()}
            header = {"client": client, "round": round}
            write_checkpoint(self._path(client, round), state, header, private=True)
            for stale in set(others) - set(before[-1:]):
                self._path(client, stale).unlink(missing_ok=True)

    def _read(self, client: int, round: int, first: Params, must: bool) -> Params:
        before = [r for r in self._rounds(client) if r < round]
        try:
            state = self._load(client, before[-1:])
        except RunFolderError as e:  # cut short by a power cut, say: no more than a round is lost
            _log.warning("client %d goes on from an earlier state: %s", client, e)
            state = self._load(client, before[-2:-1])
        if state is None and must:
            raise DataError(f"client {client} kept nothing from training")
        return first if state is None else {n: state[n].to(value) for n, value in first.items()}

    def _load(self, client: int, latest: Sequence[int]) -> Params | None:
        return read_checkpoint(self._path(client, latest[0]))[0] if latest else None

    def _rounds(self, client: int) -> list[int]:
        files = (self.folder / str(client)).glob("*.safetensors")
        return sorted(int(file.stem) for file in files if file.stem.isdigit())

    def _path(self, client: int, round: int) -> Path:
        return self.folder / str(client) / f"{round}.safetensors"
