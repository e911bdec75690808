"""The engines that a search may choose from, by name."""

from collections.abc import Callable
from typing import Any

from torch.fx import GraphModule

from fedmeta.engines.channels_last import ChannelsLast, has_images
from fedmeta.engines.compiled import Compiled
from fedmeta.engines.loop import Loop
from fedmeta.engines.lowrank import Lowrank
from fedmeta.engines.products import by_onednn, has_products
from fedmeta.engines.recorded import Recorded
from fedmeta.engines.vmap import Vmap
from fedmeta.settings import EngineSettings

CANDIDATES: dict[str, Any] = {
    "vmap": Vmap,
    "recorded": Recorded,
    "channels_last": ChannelsLast,
    "lowrank": Lowrank,
}
VARIANTS: dict[str, tuple[Callable[[Recorded], Recorded], int]] = {
    "onednn": (by_onednn, 1),
    "compiled": (Compiled.like, 3),
}
"""What may make programs faster still, and how many kinds of them it is tried with, the fastest first."""
NEEDS: dict[str, tuple[Callable[[GraphModule], bool], str]] = {
    "channels_last": (has_images, "has no image to lay out"),
    "onednn": (has_products, "has no product to compute"),
}


def build(name: str, chunk: int | None) -> Any:
    """An engine by name, such as ``lowrank`` or ``lowrank + onednn + compiled``."""
    kind, *variants = name.split(" + ")
    engine = {"loop": Loop, **CANDIDATES}[kind].of(EngineSettings(chunk=chunk))
    for variant in variants:
        engine = VARIANTS[variant][0](engine)
    return engine


def programs(engine: Any) -> list[GraphModule]:
    """Those that an engine replays operation by operation."""
    runs = [program.run for program in getattr(engine, "programs", ())]
    return [run for run in runs if isinstance(run, GraphModule)]
