"""fedmeta: each engine with the chunk that suits it best, and the one that ``auto`` takes."""

from functools import partial
from typing import Any

import torch

from benchmarks.ours import engine_work, mean
from benchmarks.peers.serve import Prepare, Prepared, seconds, serve
from benchmarks.work import Job
from fedmeta.engines.loop import Loop
from fedmeta.engines.memory import keep_freed_memory
from fedmeta.engines.search import begin, search
from fedmeta.settings import EngineSettings

GEMM = 1024


def engine(name: str, job: Job) -> Prepared:
    """One of fedmeta's engines."""
    work, settings = engine_work(job), EngineSettings()
    if name == "auto":
        plan, chosen = search(work, settings)
        note = str(plan)
    elif name == "loop":
        chosen, note = Loop(), "one client after the other"
    else:
        found = begin(work, settings).fastest_chunk(name)
        chosen, note = found.engine, f"{found.chunk} clients at once"
    return Prepared(
        lambda: work.run(chosen), lambda found: mean(found[0], job.work.clients), lambda: note
    )


def gemm(job: Job) -> Prepared:
    """One product of two matrices, by MKL or oneDNN: how fast this machine can be at this moment."""
    a, b = torch.randn(GEMM, GEMM), torch.randn(GEMM, GEMM)
    products: tuple[Any, ...] = (torch.mm, torch.ops.fedmeta.multiply)
    product = min(products, key=lambda product: seconds(lambda: product(a, b)))
    return Prepared(lambda: product(a, b), lambda found: {})


def variants() -> dict[str, Prepare]:
    """All that can be asked for."""
    names = ("auto", "loop", "vmap", "recorded", "channels_last", "lowrank")
    return {"gemm": gemm} | {name: partial(engine, name) for name in names}


if __name__ == "__main__":
    keep_freed_memory()  # as a node does
    serve(variants(), ["torch"])
