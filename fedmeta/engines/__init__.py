"""Engines: how a block of clients is computed. Same numbers behind every door."""

from typing import Protocol

from fedmeta.engines.loop import ClientFunction, Loop, Result
from fedmeta.engines.vmap import Vmap
from fedmeta.types import Episode, Params


class Engine(Protocol):
    """Maps a pure client function over a block of clients."""

    def map(self, function: ClientFunction[Result], params: Params, episodes: Episode) -> Result:
        """``function(params, episodes[client])`` of every client, stacked ``[clients, ...]``."""


def build_engine(name: str, chunk: int) -> Engine:
    """The engine of that name."""
    return Vmap(chunk) if name == "vmap" else Loop()


ENGINES: dict[str, type[Loop] | type[Vmap]] = {"loop": Loop, "vmap": Vmap}
