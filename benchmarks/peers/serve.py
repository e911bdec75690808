"""The peers' side of a comparison: a line comes in, one line of JSON goes out.

``check VARIANT FILE`` computes a round and writes its update, ``time VARIANT`` computes rounds and
says how long one takes. Needs numpy alone.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.work import Arrays, Job, load

LEAST = 0.2
"""Seconds that rounds are repeated for, so that short ones are not lost in the clock."""


class Prepared(NamedTuple):
    """A work in the hands of a package, with its tensors where it wants them."""

    run: Callable[[], Any]
    """One round; comes back when the numbers are there."""
    update: Callable[[Any], Arrays]
    """From what a round gives to the mean delta by name."""
    note: Callable[[], str] = lambda: ""
    """What one may want to know about how it is computed."""


Prepare = Callable[[Job], Prepared]


def serve(variants: Mapping[str, Prepare], packages: Sequence[str]) -> None:
    """Answer until the parent hangs up. What a package prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    job, ready = load(Path(sys.argv[1])), dict[str, Prepared]()
    print(json.dumps({"versions": {name: version(name) for name in packages}}), file=answers)
    for line in sys.stdin:
        command, variant, *rest = line.split()
        try:
            if command == "check":
                found = _check(job, variants[variant], Path(rest[0]), variant, ready)
            else:
                found = {"seconds": seconds(ready[variant].run)}
        except Exception as e:  # a peer that cannot do it is a row of the table
            found = {"error": f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"}
        print(json.dumps(found), file=answers)


def _check(
    job: Job, prepare: Prepare, path: Path, variant: str, ready: dict[str, Prepared]
) -> dict[str, Any]:
    begun = time.perf_counter()
    prepared = prepare(job)
    result = prepared.run()
    taken = time.perf_counter() - begun
    np.savez(path, **{name: np.asarray(v) for name, v in prepared.update(result).items()})  # type: ignore[arg-type]
    ready[variant] = prepared
    return {"first": taken, "note": prepared.note()}


def seconds(run: Callable[[], Any]) -> float:
    """Of one round, the mean over as many as fill the least time."""
    begun, rounds = time.perf_counter(), 0
    while (taken := time.perf_counter() - begun) < LEAST:
        run()
        rounds += 1
    return taken / rounds
