"""The readable engine: one client after the other. Every other engine must equal it."""

from dataclasses import dataclass

from fedmeta.engines.blocks import ClientFunction, Each, Result, add, client, clients_in, stack
from fedmeta.settings import EngineSettings
from fedmeta.types import Params


@dataclass(frozen=True)
class Loop:
    """Runs clients one by one."""

    @classmethod
    def of(cls, settings: EngineSettings) -> "Loop":
        """Nothing to set."""
        return cls()

    def map(self, function: ClientFunction[Each, Result], params: Params, each: Each) -> Result:
        """``function(params, each[client])`` of every client, stacked ``[clients, ...]``."""
        return stack([function(params, client(each, c)) for c in range(clients_in(each))])

    def total(
        self, function: ClientFunction[Each, tuple[Params, Result]], params: Params, each: Each
    ) -> tuple[Params, Result]:
        """Of functions that give two things: the sum of the first over clients, the second stacked."""
        sums, rest = zip(
            *(function(params, client(each, c)) for c in range(clients_in(each))), strict=True
        )
        return add(sums), stack(rest)
