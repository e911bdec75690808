"""What a robust rule costs a server: ours, Flower's own, and reading the deltas, on the same replies.

    python -m benchmarks.aggregation [--clients 1000] [--numbers 110000] [--repeats 5] [--only RULE]

With one thread and with two, a process for each. A client's numbers are one float32 array, which is
Flower's best case, and all have as many examples. Flower begins with messages, ours with a stack; so
"unpack", making the stack from such messages, is added to ours where the two are compared. Bulyan collects
garbage once for each client; that is spared it, but for one time, "as it is". Writes docs/aggregation.json.
"""

import argparse
import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity
from torch import Tensor

from benchmarks.results import Timed, keep
from strategies.bulyan import bulyan
from strategies.clipping import centred_clipping, clipped_mean, geometric_median
from strategies.flower import flower_strategy, messages
from strategies.krum import krum, multi_krum
from strategies.robust import median, trimmed_mean

OUT = Path("docs/aggregation.json")
THREADS = (1, 2)
POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
NAME = "numbers"


@dataclass(frozen=True)
class Case:
    """A rule, and which of Flower's strategies is the same."""

    rule: Callable[[Tensor], Tensor]
    kind: str = ""
    options: Mapping[str, Any] | None = None
    same: bool = True
    """Whether Flower's result is ours, which is checked first."""
    collects: bool = False
    """Whether Flower's collects garbage."""


def cases(clients: int, numbers: int) -> dict[str, Case]:
    """A tenth of the clients may attack."""
    attackers, kept, trim = clients // 10, clients // 2, clients // 5
    malicious = {"num_malicious_nodes": attackers}
    ones, zero = torch.ones(clients), torch.zeros(numbers)
    length = numbers**0.5
    return {
        "median": Case(median, "FedMedian"),
        "trimmed mean": Case(lambda x: trimmed_mean(x, trim), "FedTrimmedAvg", {"beta": 0.2}),
        "krum": Case(lambda x: krum(x, attackers).delta, "Krum", malicious),
        "multi-krum": Case(
            lambda x: multi_krum(x, attackers, kept).delta,
            "MultiKrum",
            malicious | {"num_nodes_to_select": kept},
        ),
        "bulyan": Case(
            lambda x: bulyan(x, attackers), "Bulyan", malicious, same=False, collects=True
        ),
        "geometric median": Case(lambda x: geometric_median(x, ones).delta),
        "norm clipping": Case(lambda x: clipped_mean(x, ones, length).delta),
        "centred clipping": Case(lambda x: centred_clipping(x, zero, length).delta),
        "product": Case(lambda x: torch.from_numpy(x.numpy() @ x.numpy().T)),
    }


def draw(clients: int, numbers: int) -> Tensor:
    """Normal deltas of different lengths: among equals, rounding would decide whom Krum takes."""
    generator = torch.Generator().manual_seed(0)
    stack = torch.randn(clients, numbers, generator=generator)
    return stack.mul_((0.3 * torch.randn(clients, 1, generator=generator)).exp())


def replies(stack: Tensor) -> list[Message]:
    """As clients send them, from params of 0; a strategy takes them apart."""
    columns = {"examples": torch.full((len(stack),), 10.0)}
    return messages({NAME: torch.zeros(stack.shape[1])}, {NAME: stack}, columns, len(stack))


def unpack(answers: Sequence[Message]) -> Tensor:
    """Clients' params as a stack."""
    arrays = [next(iter(each.content.array_records.values()))[NAME].numpy() for each in answers]
    return torch.from_numpy(np.stack(arrays))


def flower(case: Case, answers: Sequence[Message]) -> Tensor:
    """Flower's delta."""
    arrays, _ = flower_strategy(case.kind, case.options or {}).aggregate_train(1, answers)
    assert arrays is not None
    return -torch.from_numpy(arrays[NAME].numpy())


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came out."""
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def measure(stack: Tensor, case: Case, repeats: int) -> dict[str, Any]:
    """Reading, unpacking, ours and Flower's in turn; the first round of all is not counted."""
    seconds: dict[str, list[float]] = {
        "reading": [],
        "mean": [],
        "unpack": [],
        "ours": [],
        "flower": [],
    }
    for repeat in range(repeats + 1):
        took = {
            "reading": timed(lambda: (stack.sum(), stack.sum()))[0],
            "mean": timed(lambda: (stack.mean(dim=0), stack.mean(dim=0)))[0],
        }
        took["ours"], ours = timed(lambda: case.rule(stack))
        if case.kind:
            answers = replies(stack)
            gc.freeze()
            took["unpack"], _ = timed(lambda: unpack(answers))  # noqa: B023 (called at once)
            took["flower"], theirs = timed(lambda: flower(case, answers))  # noqa: B023
            if repeat == 0 and case.same:
                torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
        if repeat:
            for name, value in took.items():
                seconds[name].append(value)
    found = row(seconds, stack)
    if case.collects:
        answers = replies(stack)
        gc.unfreeze()
        found["as_it_is"], _ = timed(lambda: flower(case, answers))
    return found


def row(seconds: Mapping[str, Sequence[float]], stack: Tensor) -> dict[str, Any]:
    """Times, and ratios of the least ones: others use this machine too."""
    found: dict[str, Any] = {"clients": len(stack), "numbers": stack.shape[1]}
    found |= {name: Timed.of(each).row() for name, each in seconds.items() if each}
    of = {name: min(each) for name, each in seconds.items() if each}
    found["over_reading"] = of["ours"] / of["reading"]
    found["over_mean"] = of["ours"] / of["mean"]
    if "flower" in of:
        found["flower_over_ours"] = of["flower"] / (of["ours"] + of["unpack"])
        found["flower_over_rule"] = of["flower"] / of["ours"]
    return found


def line(name: str, found: Mapping[str, Any]) -> str:
    """For the screen."""
    text = f"{name:<17} {found['ours']['least']:7.3f} s {found['over_reading']:6.1f} x two sums"
    text += f" {found['over_mean']:6.1f} x two means"
    if "flower" in found:
        text += f"   Flower {found['flower']['least']:7.2f} s, {found['flower_over_ours']:5.1f} x"
        text += f" ({found['flower_over_rule']:5.1f} x without unpacking)"
    return text


def run(threads: int, asked: argparse.Namespace) -> None:
    """All cases in this process."""
    torch.set_num_threads(threads)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    stack = draw(asked.clients, asked.numbers)
    for name, case in cases(asked.clients, asked.numbers).items():
        if asked.only in ("", name):
            found = measure(stack, case, asked.repeats)
            print(line(name, found), flush=True)
            keep(OUT, f"{threads} thread" + "s" * (threads > 1), name, found)


def main() -> None:
    """Start a process for each number of threads: their pools are made once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--numbers", type=int, default=110_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--threads", type=int, default=0)
    asked = parser.parse_args()
    if asked.threads:
        return run(asked.threads, asked)
    for threads in THREADS:
        command = [sys.executable, "-m", "benchmarks.aggregation", *sys.argv[1:]]
        environment = os.environ | {pool: str(threads) for pool in POOLS}
        subprocess.run([*command, f"--threads={threads}"], env=environment, check=True)


if __name__ == "__main__":
    main()
