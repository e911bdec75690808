"""Every test client of every cell as a line, for pandas or a spreadsheet."""

import csv
from collections.abc import Iterator, Sequence
from io import StringIO
from typing import Any

from fedmeta.tracking.recorder import Row
from simulations.report.contenders import Problem

SCORES = ("accuracy", "loss")


def clients_csv(problems: Sequence[Problem]) -> str:
    """Problem, contender, its labels, seed, client, scores before and after; empty without any."""
    lines = [line for problem in problems for line in _lines(problem)]
    if not lines:
        return ""
    columns = dict.fromkeys(key for line in lines for key in line)
    text = StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _lines(problem: Problem) -> Iterator[dict[str, Any]]:
    for contender in problem.contenders:
        for row in contender.rows:
            about = {"problem": problem.name, "contender": contender.name}
            labels = {f"label.{axis}": label for axis, label in row.get("labels", {}).items()}
            for client in _clients(row):
                yield about | {"seed": row["seed"]} | client | labels


def _clients(row: Row) -> Iterator[dict[str, Any]]:
    scores = row.get("test_clients")
    if not scores:  # of an older row
        return
    for i, client in enumerate(scores["client"]):
        yield {"client": client} | {
            f"{name}_{when}": scores[when][name][i]
            for name in SCORES
            for when in ("before", "after")
            if name in scores[when]
        }
