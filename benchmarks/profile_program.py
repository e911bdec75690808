"""Where the time of a recorded program goes: its operations, what each takes, and how fast it computes.

    python -m benchmarks.profile_program strided-maml channels_last --clients 1

The rate of a product or convolution is to be held against the one that the machine reaches with a large
product of matrices, which is printed first. Operations are timed one by one, so caches are colder for them
than within the program.
"""

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.ours import engine_work, make_job
from benchmarks.peers.fedmeta_engines import gemm
from benchmarks.work import WORKS
from fedmeta.engines.candidates import build
from fedmeta.engines.memory import keep_freed_memory

REPEATS = 5


class Profile(Interpreter):
    """Runs a program and adds up what its operations take."""

    def __init__(self, program: GraphModule) -> None:
        super().__init__(program)
        self.nanoseconds = Counter[str]()
        self.flops = Counter[str]()
        self.calls = Counter[str]()

    def run_node(self, n: Node) -> Any:
        """One operation, timed."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        begun = time.perf_counter_ns()
        result = super().run_node(n)
        taken = time.perf_counter_ns() - begun
        if n.op == "call_function":
            shapes = ["x".join(map(str, a.shape)) for a in args if isinstance(a, Tensor)]
            name = f"{str(n.target).split('.default')[0]} {' '.join(shapes)}"
            self.nanoseconds[name] += taken
            self.calls[name] += 1
            self.flops[name] += _flops(n, args, kwargs, result)
        return result


def _flops(node: Node, args: Any, kwargs: Any, result: Any) -> int:
    """Additions and multiplications of products and convolutions."""
    if str(node.target) == "fedmeta.multiply.default":
        return 2 * len(args[0]) * int(args[1].numel())
    count = flop_registry.get(getattr(node.target, "overloadpacket", None))
    return int(count(*args, **kwargs, out_val=result)) if count else 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description="where the time of a recorded program goes")
    parser.add_argument("work", choices=[work.name for work in WORKS])
    parser.add_argument("engine", help="such as recorded, channels_last, 'lowrank + onednn'")
    parser.add_argument("--clients", type=int, default=1, help="at once")
    parser.add_argument("--lines", type=int, default=15)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    (work,) = (work for work in WORKS if work.name == chosen.work)
    job = make_job(replace(work, clients=chosen.clients))
    task, engine = engine_work(job), build(chosen.engine, chosen.clients)
    product, seconds = gemm(job), task.seconds(engine)
    best = min(_timed(product.run) for _ in range(20))
    (program,) = engine.programs
    profile = Profile(program.run)
    with torch.no_grad():
        for _ in range(REPEATS):
            profile.run(*tree_leaves((task.params, task.each)))
    total = sum(profile.nanoseconds.values())
    print(
        f"{work.title}, {chosen.engine}, {chosen.clients} at once: {1000 * seconds:.3g} ms a client, "
        f"{sum(profile.flops.values()) / REPEATS / chosen.clients / seconds / 1e9:.0f} Gflop/s in all; "
        f"a product of 1024x1024: {2 * 1024**3 / best / 1e9:.0f} Gflop/s"
    )
    for name, taken in profile.nanoseconds.most_common(chosen.lines):
        rate = f"{profile.flops[name] / taken:6.0f} Gflop/s" if profile.flops[name] else ""
        calls = profile.calls[name] // REPEATS
        print(f"{100 * taken / total:5.1f} %  {calls:3d} x {name[:80]:80s} {rate}")
    counted = sum(taken for name, taken in profile.nanoseconds.items() if profile.flops[name])
    print(f"{100 * counted / total:5.1f} %  all products and convolutions")


def _timed(run: Any) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
