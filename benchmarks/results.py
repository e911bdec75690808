"""What was measured, in one file, so that a page can be written of it and a part measured again."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path("docs/benchmarks.json")


@dataclass(frozen=True)
class Timed:
    """Seconds of a round, of several repetitions."""

    seconds: tuple[float, ...]

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Timed":
        """In the order of measurement."""
        return cls(tuple(seconds))

    def row(self) -> dict[str, float | int]:
        """Empty where nothing was measured."""
        if not self.seconds:
            return {}
        return {
            "median": median(self.seconds),
            "least": min(self.seconds),
            "most": max(self.seconds),
            "repeats": len(self.seconds),
        }


def read(path: Path) -> dict[str, Any]:
    """All results so far."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def keep(path: Path, kind: str, name: str, found: dict[str, Any]) -> None:
    """Put one result in its place."""
    results = read(path)
    results.setdefault(kind, {})[name] = found | {"machine": machine()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """What it was measured on."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": round(os.getloadavg()[0], 1),
        "date": date.today().isoformat(),
    }


def processor() -> str:
    """Its model, where the system says it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
