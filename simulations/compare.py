"""``fedmeta compare``: several experiments and seeds side by side, one row of results for each.

A row is written when its run ends and is not run again; a run that was cut short goes on from its
checkpoint. Every run is a process of its own, so one that fails takes no other with it.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from fedmeta.config import Experiment
from fedmeta.errors import ConfigError, RunFolderError
from fedmeta.run_folder import read_lines, write_json
from fedmeta.tracking.recorder import Row
from strategies.opening import open_config
from strategies.state import CHECKPOINT, CONFIG, fingerprint


@dataclass(frozen=True)
class Cell:
    """One run of a comparison."""

    config: Path
    overrides: list[str]
    experiment: Experiment
    out: Path

    @property
    def name(self) -> str:
        """The experiment and its seed."""
        return f"{self.experiment.name}-{self.experiment.seed}"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.out / "runs" / self.name

    @property
    def row_file(self) -> Path:
        """Where its row of results stands."""
        return self.out / "rows" / f"{self.name}.json"

    def finished(self) -> bool:
        """Whether its row is there. Raises RunFolderError where row or run is of another config."""
        if self.row_file.exists():
            self._same(self.row_file, read_row(self.row_file))
            return True
        if (self.folder / CHECKPOINT).exists():
            self._same(self.folder, identity(open_config(self.folder / CONFIG, [])))
        return False

    def _same(self, where: Path, found: Row) -> None:
        expected = identity(self.experiment)
        if {key: found.get(key) for key in expected} != expected:
            raise RunFolderError(
                f"{where}: is of another config; remove it, or choose another --out"
            )

    def run(self) -> str | None:
        """Run or go on, and write the row. The last line of the error where it fails."""
        begun = (self.folder / CHECKPOINT).exists()
        if not begun:  # killed before its first checkpoint
            shutil.rmtree(self.folder, ignore_errors=True)
        where = ["--resume" if begun else "--run-dir", str(self.folder)]
        command = [sys.executable, "-m", "simulations", "run", str(self.config)]
        done = subprocess.run(
            [*command, *self.overrides, *where],
            capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            return said[-1][:200]
        write_json(self.row_file, self._row())
        return None

    def _row(self) -> Row:
        """What stays of a run: its summary, and its curve on validation clients."""
        summary = json.loads((self.folder / "summary.json").read_text())
        rows = read_lines(self.folder / "metrics.jsonl")
        train = [row for row in rows if row["split"] == "train"]
        behind = accumulate((row["seconds"] for row in train), initial=0.0)
        minutes = dict(
            zip([0, *(r["round"] for r in train)], (s / 60 for s in behind), strict=True)
        )
        published = self.experiment.sections["published"]
        return {
            "name": self.experiment.name,
            "seed": self.experiment.seed,
            "config": self.config.as_posix(),
            **identity(self.experiment),
            "clients": self.experiment.cohort.clients,
            "selected_round": summary["selected_round"],
            "minutes": summary["seconds"] / 60,
            "published": {key: value for key, value in published.items() if value is not None},
            "test": {key: summary["test"][key] for key in ("clients", "before", "after", "curve")},
            "seen": summary.get("seen"),
            "val": [
                {"round": row["round"], "minutes": minutes[row["round"]]} | row["after"]
                for row in rows
                if row["split"] == "val"
            ],
        }


def identity(experiment: Experiment) -> Row:
    """What two runs must have in common to be one; ``setting`` leaves out the seed."""
    return {
        "fingerprint": fingerprint(experiment),
        "setting": fingerprint(experiment, seed=False),
        "rounds": experiment.rounds,
        "evaluation": experiment.sections["evaluation"],
        "episodes": experiment.sections["data"].get("evaluation"),
    }


def read_row(path: Path) -> Row:
    """A row of results. Raises RunFolderError where the file is none."""
    try:
        row: Row = json.loads(path.read_text())
        for key in ("name", "seed", "setting", "rounds", "clients", "minutes", "published", "val"):
            row[key]
        row["test"]["after"], row["test"]["before"], row["test"]["curve"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise RunFolderError(f"{path}: is not a row of results ({type(e).__name__}: {e})") from e
    return row


def cells(
    configs: Sequence[Path],
    overrides: Sequence[str],
    seeds: Sequence[int] | None,
    full: bool,
    out: Path,
) -> list[Cell]:
    """Every config with every seed, all checked before any runs."""
    return list(_unique(_cells(configs, overrides, seeds, full, out)))


def _cells(
    configs: Sequence[Path],
    overrides: Sequence[str],
    seeds: Sequence[int] | None,
    full: bool,
    out: Path,
) -> Iterator[Cell]:
    for config in configs:
        settings = list(overrides)
        if full and any(override.startswith("rounds=") for override in overrides):
            raise ConfigError("rounds must not be given with --full, which takes each paper's")
        if full:
            rounds = open_config(config, overrides).published.rounds
            if rounds is None:
                raise ConfigError(f"{config}: published.rounds must be set for --full, got nothing")
            settings.append(f"rounds={rounds}")
        for seed in [None] if seeds is None else seeds:
            chosen = settings if seed is None else [*settings, f"seed={seed}"]
            yield Cell(config, chosen, open_config(config, chosen), out)


def _unique(found: Iterator[Cell]) -> Iterator[Cell]:
    seen: dict[str, Path] = {}
    for cell in found:
        if cell.name in seen:
            raise ConfigError(
                f"{cell.config}: name must differ from that of {seen[cell.name]}, got "
                f"{cell.experiment.name!r} with seed {cell.experiment.seed} twice"
            )
        seen[cell.name] = cell.config
        yield cell


def run_all(todo: Sequence[Cell], jobs: int, say: Callable[[str], None]) -> dict[str, str]:
    """Run the cells that have no row yet, ``jobs`` at a time; the failed with their reasons."""
    left = [cell for cell in todo if not cell.finished()]
    say(f"{len(todo) - len(left)} of {len(todo)} runs are done, {jobs} at a time for the rest")
    failed: dict[str, str] = {}
    with ThreadPoolExecutor(jobs) as pool:
        asked = {pool.submit(cell.run): cell for cell in left}
        try:
            for count, future in enumerate(as_completed(asked), 1):
                name, trouble = asked[future].name, future.exception()
                reason = future.result() if trouble is None else f"{trouble}"
                if reason is not None:
                    failed[name] = reason
                outcome = "done" if reason is None else f"failed: {reason}"
                say(f"[{count}/{len(left)}] {name}: {outcome}")
        except KeyboardInterrupt:  # the runs hear it too, and leave their checkpoints
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return failed
