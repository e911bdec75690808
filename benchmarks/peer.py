"""The parent's side of a comparison: a peer as a process that answers lines."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PATIENCE = 900.0
"""Seconds after which a peer is taken for dead; compilers take minutes."""
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "JAX_PLATFORMS": "cpu",
}
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}


class NotRunError(Exception):
    """A peer that cannot be had or does not answer, with the reason."""


@dataclass(frozen=True)
class Package:
    """What is compared: a script, its environment, and the variants that it offers."""

    name: str
    script: str
    variants: tuple[str, ...]
    environment: str | None = None
    """A folder of the environments; without one, the environment of this process."""

    def python(self, environments: Path) -> Path:
        """Its interpreter. Raises NotRunError where it is not installed."""
        if self.environment is None:
            return Path(sys.executable)
        python = environments / self.environment / "bin" / "python"
        if not python.exists():
            failure = environments / f"{self.environment}.failed"
            raise NotRunError(failure.read_text().strip() if failure.exists() else "not installed")
        return python


class Peer:
    """A running script."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.versions: dict[str, str] = self._answer()["versions"]

    def ask(self, *words: str) -> dict[str, Any]:
        """Its answer. Raises NotRunError where it has none."""
        assert self._process.stdin
        try:
            self._process.stdin.write(" ".join(words) + "\n")
            self._process.stdin.flush()
        except OSError as e:
            raise NotRunError("its process is gone") from e
        found = self._answer()
        if "error" in found:
            raise NotRunError(found["error"])
        return found

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        # every question has one line of answer, so nothing waits in the buffer when this looks
        if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
            raise NotRunError(f"no answer in {PATIENCE:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise NotRunError(f"its process ended with exit code {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found


@contextmanager
def running(package: Package, environments: Path, job: Path) -> Iterator[Peer]:
    """The peer with this job, until the end of the block; it is killed whatever happens."""
    command = [str(package.python(environments)), "-m", f"benchmarks.peers.{package.script}"]
    log = job.with_name(f"{package.script}.log")
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, str(job)],
            cwd=ROOT,
            env=os.environ | ONE_THREAD | QUIET | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            yield Peer(process)
        finally:
            process.kill()
            process.communicate()
