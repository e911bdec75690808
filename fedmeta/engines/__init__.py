"""Engines: how a block of clients is computed. Same numbers behind every door."""

from typing import Protocol

from fedmeta.engines.loop import ClientFunction, Each, Loop, Result
from fedmeta.engines.vmap import Vmap
from fedmeta.settings import EngineSettings
from fedmeta.types import Params


class Engine(Protocol):
    """Maps a pure client function over a block of clients.

    ``each`` is any nest of tensors ``[clients, ...]``: the episodes, and what else differs.
    """

    @classmethod
    def of(cls, settings: EngineSettings) -> "Engine":
        """The engine with these settings."""

    def map(self, function: ClientFunction[Each, Result], params: Params, each: Each) -> Result:
        """``function(params, each[client])`` of every client, stacked ``[clients, ...]``."""


ENGINES: dict[str, type[Engine]] = {"loop": Loop, "vmap": Vmap}
