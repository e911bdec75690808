"""Engines: how a block of clients is computed. Same numbers behind every door."""

from typing import Protocol

from fedmeta.engines.loop import ClientFunction, Loop, Result
from fedmeta.engines.vmap import Vmap
from fedmeta.settings import EngineSettings
from fedmeta.types import Episode, Params


class Engine(Protocol):
    """Maps a pure client function over a block of clients."""

    @classmethod
    def of(cls, settings: EngineSettings) -> "Engine":
        """The engine with these settings."""

    def map(self, function: ClientFunction[Result], params: Params, episodes: Episode) -> Result:
        """``function(params, episodes[client])`` of every client, stacked ``[clients, ...]``."""


ENGINES: dict[str, type[Engine]] = {"loop": Loop, "vmap": Vmap}
