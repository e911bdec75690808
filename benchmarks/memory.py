"""Does memory grow? 50 rounds of 1,000 of 100,000 registered clients, every process of the run counted.

python -m benchmarks.memory [CONFIG] [KEY=VALUE ...]
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.results import RESULTS, keep

ROOT = Path(__file__).parents[1]
SETTINGS = (
    "rounds=50", "cohort.clients=1000", "data.clients={train: 100000, val: 100, test: 100}",
    "evaluation.every=50", "evaluation.clients=100",
)  # fmt: skip
RUNS = {"local": (), "two Ray workers": ("engine.executor=ray", "engine.workers=2")}


def megabytes(pid: int) -> float:
    """What a process and all that it started hold; pages that they share are counted once."""
    return sum(_share(process) for process in _tree(pid)) / 1024


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from _tree(int(child))


def _share(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # ended between two looks
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def watched(config: str, settings: list[str]) -> dict[int, float]:
    """Megabytes of a run after each of its rounds."""
    found = dict[int, float]()
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "run" / "metrics.jsonl"
        command = [sys.executable, "-m", "simulations", "run", config, *settings]
        command.append(f"--run-dir={metrics.parent}")
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            rounds = metrics.read_text().count('"train"') if metrics.exists() else 0
            if rounds:
                found[rounds] = max(megabytes(process.pid), found.get(rounds, 0.0))
            time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"the run failed with exit code {process.returncode}")
    return found


def main(arguments: list[str]) -> None:
    """Measure, print, and keep what was found."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "FLWR_TELEMETRY_ENABLED": "0"}
    config, *overrides = arguments or ["configs/quickstart.yaml"]
    for name, settings in RUNS.items():
        seen = watched(config, [*SETTINGS, *settings, *overrides])
        half = max(value for rounds, value in seen.items() if rounds <= 25)
        most = max(seen.values())
        title = f"{Path(config).stem}, {name}"
        print(f"{title}: {half:.0f} MB up to round 25, {most:.0f} MB in all", flush=True)
        keep(RESULTS, "memory", title, {"half": half, "most": most, "rounds": max(seen)})


if __name__ == "__main__":
    main(sys.argv[1:])
