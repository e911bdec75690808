"""Engines: how a block of clients is computed. Same numbers behind every door."""

from typing import Protocol

from fedmeta.engines.blocks import ClientFunction, Each, Result
from fedmeta.engines.channels_last import ChannelsLast
from fedmeta.engines.compiled import Compiled
from fedmeta.engines.loop import Loop
from fedmeta.engines.lowrank import Lowrank
from fedmeta.engines.planner import Planner
from fedmeta.engines.recorded import Recorded
from fedmeta.engines.vmap import Vmap
from fedmeta.settings import EngineSettings
from fedmeta.types import Params


class Engine(Protocol):
    """Computes a pure client function for a block of clients.

    ``each`` is any nest of tensors ``[clients, ...]``: the episodes, and what else differs.
    """

    @classmethod
    def of(cls, settings: EngineSettings) -> "Engine":
        """The engine with these settings."""

    def map(self, function: ClientFunction[Each, Result], params: Params, each: Each) -> Result:
        """``function(params, each[client])`` of every client, stacked ``[clients, ...]``."""

    def total(
        self, function: ClientFunction[Each, tuple[Params, Result]], params: Params, each: Each
    ) -> tuple[Params, Result]:
        """Of functions that give two things: the sum of the first over clients, the second stacked."""


ENGINES: dict[str, type[Engine]] = {
    "auto": Planner,
    "loop": Loop,
    "vmap": Vmap,
    "recorded": Recorded,
    "lowrank": Lowrank,
    "channels_last": ChannelsLast,
    "compiled": Compiled,
}
"""Every engine gives the numbers of the loop, for every learner with every model."""
