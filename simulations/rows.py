"""A row of results: what stays of a run, as JSON. The same from a run folder as from a comparison."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from fedmeta.config import Experiment
from fedmeta.errors import DataError, RunFolderError
from fedmeta.run_folder import read_lines
from fedmeta.tracking.place import Place
from fedmeta.tracking.progress import Progress
from fedmeta.tracking.recorder import Row
from strategies.opening import open_run
from strategies.state import CONFIG, fingerprint, non_default

DIGITS = 6
"""Of the scores of single clients."""
COSTS = ("bytes", "client_updates", "gradients", "simulated_seconds")


def row_of(folder: Path) -> Row:
    """The row of a finished run folder. Raises RunFolderError where there is none."""
    return row_with(open_run(folder), folder)


def row_with(experiment: Experiment, folder: Path) -> Row:
    """The same, where the experiment is at hand."""
    try:
        summary = json.loads((folder / "summary.json").read_text())
        rows = _lines(folder / "metrics.jsonl", "val")
        scores = _lines(folder / "clients.jsonl", "test")
        return _head(experiment, Place.read(folder)) | _results(summary, rows, scores)
    except FileNotFoundError as e:
        raise RunFolderError(f"{folder}: has no summary.json, the run is not finished") from e
    except (OSError, ValueError, LookupError, TypeError) as e:
        raise RunFolderError(f"{folder}: has no results ({type(e).__name__}: {e})") from e


def failed_row(experiment: Experiment, place: Place, reason: str) -> Row:
    """Of a cell that has no results."""
    return _head(experiment, place) | {"failed": reason}


def read_rows(paths: Sequence[Path]) -> list[Row]:
    """The rows of run folders, of the folders of comparisons, and in files, each file once."""
    files = dict.fromkeys(each for path in paths for each in _sources(path))
    return [read_row(path) if path.is_file() else row_of(path) for path in files]


def read_row(path: Path) -> Row:
    """A row in a file. Raises RunFolderError where the file is none."""
    try:
        row: Row = json.loads(path.read_text())
        for key in ("name", "seed", "setting", "rounds", "clients"):
            row[key]
        if not row.get("failed"):
            row["minutes"], row["published"], row["val"][-1]
            row["test"]["after"], row["test"]["before"], row["test"]["curve"]
    except (OSError, ValueError, LookupError, TypeError) as e:
        raise RunFolderError(f"{path}: is not a row of results ({type(e).__name__}: {e})") from e
    return _completed(row)


def identity(experiment: Experiment) -> Row:
    """What two runs must have in common to be one; ``setting`` leaves out the seed.

    ``contents`` is there for data of one's own alone: rows of other data stay as they were.
    """
    contents = _contents(experiment)
    return {
        "fingerprint": fingerprint(experiment),
        "setting": fingerprint(experiment, seed=False),
        "rounds": experiment.rounds,
        "evaluation": experiment.sections["evaluation"],
        "episodes": experiment.sections["data"].get("evaluation"),
        **({"contents": contents} if contents else {}),
    }


def problem(experiment: Experiment) -> str:
    """A hash of what scores must share to be compared, seed by seed.

    Who the test clients are, which episodes they draw, and how they are scored.
    """
    scored, contents = experiment.evaluation, _contents(experiment)
    data = non_default(experiment.data)
    if contents is not None:  # else the folder's name is all there is to tell data apart
        data.pop("root", None)
    if contents:
        data["contents"] = contents
    name = experiment.sections["data"]["name"]
    shared = (name, data, scored.steps, scored.episodes, scored.transductive)
    return sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:12]


def problem_name(experiment: Experiment) -> str:
    """The same in words, for example ``omniglot alphabet 5-way 1-shot, 3 steps``."""
    data: Any = experiment.data
    words = [experiment.sections["data"]["name"], str(getattr(data, "federation", ""))]
    if hasattr(data, "shape"):
        ways, shots, _ = data.shape("evaluate")
        words += [f"{ways}-way", f"{shots}-shot"]
    elif hasattr(data, "split"):
        words += [f"{data.split('evaluate')[0]}-shot"]
    steps = experiment.evaluation.steps
    return " ".join(filter(None, words)) + f", {steps} step{'s' * (steps != 1)}"


def _contents(experiment: Experiment) -> str | None:
    """A hash of data of one's own, None where they are not here; of other data nothing."""
    try:
        return experiment.data.contents()
    except DataError:
        return None


def _head(experiment: Experiment, place: Place | None) -> Row:
    """Who this is; a run that stands alone has no labels."""
    known = place or Place(experiment.name)
    published = experiment.sections["published"]
    return {
        "name": known.name,
        "labels": known.labels,
        "seed": experiment.seed,
        "config": known.config,
        **identity(experiment),
        "problem": problem(experiment),
        "problem_name": problem_name(experiment),
        "clients": experiment.cohort.clients,
        "published": {key: value for key, value in published.items() if value is not None},
        "sections": experiment.sections,
    }


def _results(summary: Row, rows: Sequence[Row], scores: Sequence[Row]) -> Row:
    total = Progress.of(rows)
    return {
        "selected_round": summary["selected_round"],
        "minutes": summary["seconds"] / 60,
        "test": {key: summary["test"][key] for key in ("clients", "before", "after", "curve")},
        "test_clients": _clients(scores),
        "seen": summary.get("seen"),
        "val": list(_curve(rows)),
        "cost": {"rounds": total.round, "minutes": total.seconds / 60} | _costs(total),
    }


def _lines(path: Path, split: str) -> list[Row]:
    """The rows of a file that a finished run has, some of them of the split."""
    rows = read_lines(path)
    if not any(row["split"] == split for row in rows):
        raise RunFolderError(f"{path}: is not there, or has no row of {split} clients")
    return rows


def _clients(scores: Sequence[Row]) -> Row:
    """The scores of each test client, in columns."""
    names = [key for key, value in scores[0].items() if isinstance(value, list)]
    return {"client": [row["client"] for row in scores]} | {
        when: {name: [round(row[name][at], DIGITS) for row in scores] for name in names}
        for when, at in (("before", 0), ("after", -1))
    }


def _curve(rows: Iterable[Row]) -> Iterator[Row]:
    """Scores of the validation clients after adaptation, beside what the training so far has cost."""
    progress = Progress()
    for row in rows:
        progress = progress.after(row)
        if row["split"] == "val":
            spent = {"round": row["round"], "minutes": progress.seconds / 60} | _costs(progress)
            yield spent | row["after"]


def _costs(progress: Progress) -> Row:
    found = asdict(progress)
    return {key: found[key] for key in COSTS}


def _completed(row: Row) -> Row:
    """Rows of older comparisons say less: what can be told is, the rest is null."""
    unknown = dict.fromkeys(COSTS)
    points = [
        {**unknown, "client_updates": point["round"] * row["clients"], **point}
        for point in row.get("val", [])
    ]
    missing: Mapping[str, Any] = {"labels": {}, "problem": None, "problem_name": "", "config": ""}
    if not row.get("failed"):
        spent = {"rounds": row["rounds"], "client_updates": row["rounds"] * row["clients"]}
        spent["minutes"] = points[-1]["minutes"] if points else None
        cost = unknown | spent
        missing = {**missing, "test_clients": None, "cost": cost, "seen": None, "sections": {}}
        row = row | {"val": points}
    return {**missing, **row}


def _sources(path: Path) -> list[Path]:
    """Files and run folders behind a path."""
    if path.is_file() or (path / CONFIG).exists():
        return [path]
    if (path / "rows").is_dir():
        return sorted((path / "rows").glob("*.json"))
    raise RunFolderError(
        f"{path}: is neither a run folder (with {CONFIG}), nor a comparison (with rows), nor a row"
    )
