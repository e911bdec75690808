"""What the framework itself costs: start-up, time per client and round, memory per registered client.

    python -m benchmarks.overhead

Prints medians. Uses the identity learner for the overhead, so that no arithmetic is timed.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, repeat
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.results import RESULTS, Timed, keep
from fedmeta.config import load
from fedmeta.learners import Learner
from fedmeta.objective import Objective
from fedmeta.tracking.recorder import Row, Run
from fedmeta.types import Batch, Episode, Params, Update
from simulations.run import run
from strategies.stock import STRATEGIES

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
REPEATS = 5
SMALL_EVALUATION = ("evaluation.clients=2", "evaluation.steps=0", "data.clients.test=2")


@dataclass(frozen=True)
class Identity(Learner):
    """Learns nothing: its delta is zero. What is left of a round is the framework."""

    def trajectory(
        self, loss: Objective, params: Params, support: Batch, steps: int
    ) -> Iterator[Params]:
        """The params, unchanged."""
        return repeat(params, steps + 1)

    def update(
        self, loss: Objective, params: Params, episodes: Episode, progress: float = 0.0
    ) -> Update:
        """Zeros, and a metric that costs nothing."""
        zero = {name: torch.zeros_like(value) for name, value in params.items()}
        return Update(zero, {"loss": torch.zeros(())})


@dataclass(frozen=True)
class Clock:
    """A recorder that notes when rounds end, so that recording and checkpoints are timed too."""

    ticks: list[float]

    def start(self, run: Run) -> None:
        """Nothing to prepare."""

    def record(self, row: Row) -> None:
        """The end of a round's training."""
        if row["split"] == "train":
            self.ticks.append(time.perf_counter())

    def finish(self, summary: Row | None) -> None:
        """Nothing to close."""


def register_identity() -> None:
    """Run in every Ray worker when it starts; sent by value, so it imports for itself."""
    from fedmeta.learners import LEARNERS

    LEARNERS["identity"] = Identity


def first_round() -> float:
    """Seconds from the command to the first finished round, 1,000 clients, local executor."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "run" / "metrics.jsonl"
        command = [sys.executable, "-m", "simulations", "run", str(QUICKSTART), "rounds=1"]
        settings = ["data.clients.train=1000", f"--run-dir={metrics.parent}"]
        began = time.perf_counter()
        process = subprocess.Popen([*command, *settings], stdout=subprocess.DEVNULL)
        while not (metrics.exists() and '"train"' in metrics.read_text()):
            if process.poll() not in (None, 0):
                raise RuntimeError(f"the run failed with exit code {process.returncode}")
            time.sleep(0.005)
        seconds = time.perf_counter() - began
        process.wait()
    return seconds


def milliseconds_per_client(replies: str, clients: int = 1000, rounds: int = 20) -> float:
    """Wall time of a whole round over its clients: identity learner, 10 KB model, two Ray workers."""
    settings = (
        "learner={name: identity}",
        "model.hidden=[48,48]",
        "strategy={name: fedavg}",
        f"cohort.clients={clients}",
        f"cohort.replies={replies}",
        f"data.clients.train={clients}",
        f"rounds={rounds}",
        "evaluation.every=1000",
        "engine.executor=ray",
        "engine.chunk=512",
        *SMALL_EVALUATION,
    )
    text = QUICKSTART.read_text()
    for section in ("learner", "strategy"):
        text = "\n".join(line for line in text.splitlines() if not line.startswith(f"{section}:"))
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "identity.yaml"
        config.write_text(text)
        clock = Clock([])
        run(load(config, settings, STRATEGIES), Path(folder), [clock])
    seconds = [after - before for before, after in pairwise(clock.ticks)]
    return 1000 * median(seconds) / clients


def peak_megabytes(registered: int) -> float:
    """Peak resident memory of a short run with that many registered clients."""
    program = (
        "import sys; from pathlib import Path; from fedmeta.config import load;"
        "from simulations.run import run; from strategies.stock import STRATEGIES;"
        "run(load(Path(sys.argv[1]), sys.argv[3:], STRATEGIES), Path(sys.argv[2]));"
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"data.clients.train={registered}", "rounds=20", *SMALL_EVALUATION]
        command = [sys.executable, "-c", program, str(QUICKSTART), folder, *settings]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(output.splitlines()[-1]) / 1024


def main() -> None:
    """Measure and print."""
    import ray

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "FLWR_TELEMETRY_ENABLED": "0"}
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    began = [first_round() for _ in range(REPEATS)]
    print(f"command to first round, 1,000 clients, local: {median(began):.2f} s {_range(began)}")
    register_identity()
    ray.init(
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"worker_process_setup_hook": register_identity},
    )
    for replies in ("sum", "each"):
        costs = [milliseconds_per_client(replies) for _ in range(REPEATS)]
        found[replies] = Timed.of([cost / 1000 for cost in costs]).row()
        print(
            f"overhead per client and round, replies={replies}: {median(costs):.4f} ms {_range(costs)}"
        )
    ray.shutdown()
    keep(RESULTS, "overhead", "identity", found)
    few, many = ([peak_megabytes(n) for _ in range(3)] for n in (1_000, 100_000))
    print(f"peak memory, 1,000 registered clients: {median(few):.0f} MB {_range(few)}")
    print(f"peak memory, 100,000 registered clients: {median(many):.0f} MB {_range(many)}")


def _range(values: list[float]) -> str:
    return f"[{min(values):.4g}, {max(values):.4g}]"


if __name__ == "__main__":
    main()
