"""fedmeta's engines against the packages that one would use instead: same numbers, then the time.

    python -m benchmarks.compare_engines [--only NAME ...] [--repeats 5]

For every work all peers are started, each computes a round, and its update is compared with what the
loop finds in float64. Those that agree are timed in turn, all on one core, with one thread each.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ours import flops_per_client, make_job
from benchmarks.peer import NotRunError, Package, Peer, running
from benchmarks.results import RESULTS, Timed, keep
from benchmarks.work import WORKS, Arrays, Job, Work, error, save

ENGINES = ("auto", "loop", "vmap", "recorded", "channels_last", "lowrank")
PACKAGES = (
    Package("fedmeta", "fedmeta_engines", ENGINES),
    Package("loop", "torch_loops", ("plain", "torchopt", "metasgd")),
    Package("jax", "jax_cohort", ("vmap", "gradvmap", "scan", "loop"), "jax"),
    Package("pfl", "pfl_rounds", ("rounds",), "pfl"),
    Package("fedjax", "fedjax_rounds", ("rounds",), "fedjax"),
)
LOCAL_TRAINING_ALONE = ("pfl", "fedjax")
"""Packages without meta-gradients."""
GEMM_FLOPS = 2 * 1024**3
FAR = 3.0


@dataclass
class Contender:
    """One variant of a package at one work."""

    name: str
    peer: Peer | None
    variant: str
    row: dict[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    @property
    def package(self) -> str:
        """The first word of its name."""
        return self.name.split()[0]

    def check(self, job: Job, folder: Path) -> None:
        """Compute a round and compare it; one that is wrong or cannot do it says so and is out."""
        if self.peer is None:
            return
        try:
            file = folder / "update.npz"
            self.row |= self.peer.ask("check", self.variant, str(file))
            self.row["error"] = error(_read(file), job.expected)
            if not self.row["error"] <= job.work.tolerance:
                raise NotRunError(f"another update: off by {self.row['error']:.0e}")
        except NotRunError as e:
            self.row["not_run"], self.peer = str(e), None

    def time(self) -> None:
        """One more measurement."""
        if self.peer is None:
            return
        try:
            self.seconds.append(self.peer.ask("time", self.variant)["seconds"])
        except NotRunError as e:
            self.row["not_run"], self.peer = str(e), None


def compare(work: Work, environments: Path, repeats: int) -> dict[str, Any]:
    """All packages at one work."""
    job = make_job(work)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        save(job, folder / "job.npz")
        contenders, versions = start(work, folder, environments, stack)
        gemm = next(c for c in contenders if c.name == "gemm")
        for contender in contenders:
            if contender is not gemm:
                contender.check(job, folder)
                print(f"  {contender.name}: {contender.row}", flush=True)
        assert gemm.peer
        gemm.peer.ask("check", "gemm", str(folder / "update.npz"))
        for repeat in range(repeats):
            for contender in contenders if repeat == 0 else in_the_race(contenders):
                contender.time()
    rows = {c.name: c.row | Timed.of(c.seconds).row() for c in contenders}
    return {
        "title": work.title,
        "clients": work.clients,
        "flops_per_client": flops_per_client(job),
        "gemm_flops_per_second": GEMM_FLOPS / rows.pop("gemm")["median"],
        "versions": versions,
        "rows": rows,
    }


def in_the_race(contenders: Sequence[Contender]) -> list[Contender]:
    """Those not left far behind by another variant of their package: they are timed once."""
    best = dict[str, float]()
    for c in contenders:
        best[c.package] = min([best.get(c.package, inf), *c.seconds[:1]])
    return [c for c in contenders if c.seconds and c.seconds[0] < FAR * best[c.package]]


def start(
    work: Work, folder: Path, environments: Path, stack: ExitStack
) -> tuple[list[Contender], dict[str, str]]:
    """A process for each package; one that cannot be had is named with the reason."""
    contenders, versions = list[Contender](), dict[str, str]()
    for package in PACKAGES:
        if package.name in LOCAL_TRAINING_ALONE and work.learner != "reptile":
            continue
        row: dict[str, Any] = {}
        peer: Peer | None = None
        try:
            peer = stack.enter_context(running(package, environments, folder / "job.npz"))
            versions |= {key: v for key, v in peer.versions.items() if key not in versions}
        except NotRunError as e:
            row["not_run"] = str(e)
        contenders += [
            Contender(f"{package.name} {variant}", peer, variant, dict(row))
            for variant in package.variants
        ]
        if package.name == "fedmeta":
            contenders.append(Contender("gemm", peer, "gemm"))
    return contenders, versions


def _read(path: Path) -> Arrays:
    with np.load(path) as file:
        return dict(file)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep what was found."""
    parser = argparse.ArgumentParser(description="fedmeta's engines against other packages")
    parser.add_argument("--only", nargs="+", choices=[work.name for work in WORKS])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clients", type=int, help="fewer, for a try")
    parser.add_argument("--environments", type=Path, default=Path(".bench"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args(arguments)
    if hasattr(os, "sched_setaffinity"):  # children inherit it: all compete for the same core
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for work in WORKS:
        if chosen.only and work.name not in chosen.only:
            continue
        print(f"{work.name}: {work.title}", flush=True)
        clients = chosen.clients or work.clients
        found = compare(replace(work, clients=clients), chosen.environments, chosen.repeats)
        for name, row in found["rows"].items():
            if "median" in row:
                print(f"  {name}: {clients / row['median']:.4g} clients/s", flush=True)
        keep(chosen.results, "engines", work.name, found)


if __name__ == "__main__":
    main()
