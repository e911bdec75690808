"""What Flower's stock FedAvg makes of a broken device, on real processes: TLS, a key per node.

    python -m benchmarks.stock_faults [FAULT...]

Three nodes; the last one is broken, as a rule in the first round only. The result is a row for each
fault in docs/stock_faults.json, to be read beside what fedmeta does under the same faults.
"""

import argparse
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import keep
from benchmarks.stock_app.client import SHAPES, Arrays, updated
from simulations.loopback import Loopback, Node
from simulations.processes import kill, processes_with

OUT = Path("docs/stock_faults.json")
APP = Path(__file__).parent / "stock_app"
NODES, BROKEN = 3, 2
ALL = frozenset(range(NODES))
GOOD = ALL - {BROKEN}
PATIENCE = 300.0
RESTART = 15.0
"""Seconds between attempts to start a SuperNode again, as systemd has them in RestartSec."""
DOWN = 3.0
"""Seconds for which the SuperLink is down."""
TOLERANCE = 1e-5
ERROR = re.compile(r"^\W*((?:\w+\.)*\w*(?:Error|Exception|Replies)\b.*)$", re.MULTILINE)
REPLY = re.compile(r"Received error in reply from node \d+: (.*)")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and in which run."""

    name: str
    """As the client knows it; empty where the client is well and something else is not."""
    until: int = 1
    """The last round in which the client is broken."""
    nodes: frozenset[int] = frozenset({BROKEN})
    rounds: int = 2
    timeout: float = 60.0
    clip: bool = False
    honest: bool = False
    """Whether the broken client's reply is one that a good client could send."""
    note: str = ""
    """What a single run does not show."""
    blow: "Callable[[Stage], None] | None" = None
    """Something that is done in the middle of round 1."""


@dataclass
class Stage:
    """A federation whose run is under way."""

    federation: Loopback
    folder: Path
    remarks: list[str]

    def mark(self, node: int) -> Path:
        """What a client writes when a round begins."""
        return self.folder / f"mark{node}"


def restart_node(stage: Stage) -> None:
    """Kill a SuperNode as a power cut does, and start it until it is let in again."""
    node, began = stage.federation.nodes[BROKEN], time.monotonic()
    stage.federation.kill(node.name)
    refused = 0
    while time.monotonic() - began < PATIENCE:
        stage.federation.start(node)
        with suppress(Exception):
            stage.federation.wait_online(node)
            took = time.monotonic() - began
            stage.remarks.append(
                f"the node is let in again after {took:.0f} s and {refused} refusals"
            )
            return
        refused += 1
        stage.federation.kill(node.name)
        time.sleep(RESTART)


def restart_superlink(stage: Stage) -> None:
    """Kill the SuperLink and what it started, as a power cut does, and start it again."""
    stage.federation.kill("superlink")
    time.sleep(DOWN)
    stage.federation.start_superlink()
    stage.remarks.append("no ServerApp is started again, and there is nothing to resume from")


def kill_server(stage: Stage) -> None:
    """Kill the ServerApp alone."""
    home = f"FLWR_HOME={stage.folder / 'federation' / 'homes' / 'superlink'}\0".encode()
    for process in processes_with(home):
        if b"flwr-serverapp" in Path(f"/proc/{process}/cmdline").read_bytes():
            kill(process)
    stage.remarks.append("no ServerApp is started again, and there is nothing to resume from")


FAULTS: Mapping[str, Fault] = {
    "none": Fault("", honest=True),
    "raises": Fault("raises"),
    "all-raise": Fault("raises", nodes=ALL),
    "nan": Fault("nan"),
    "nan-clipped": Fault("nan", clip=True),
    "shape": Fault("shape"),
    "shape-broadcast": Fault("broadcast", note="had it come first, the run would have died"),
    "keys": Fault("keys"),
    "zero": Fault("zero", honest=True),
    "zero-clipped": Fault("zero", clip=True, honest=True),
    "huge": Fault("huge"),
    "huge-clipped": Fault("huge", clip=True),
    "client-exits": Fault("exits"),
    "slow-once": Fault("slow 30", timeout=20, rounds=3, honest=True),
    "slow-always": Fault(
        "slow 25",
        timeout=20,
        rounds=5,
        until=5,
        honest=True,
        note="no message of a past round is dropped",
    ),
    "node-killed": Fault("slow 20", rounds=5, honest=True, blow=restart_node),
    "superlink-killed": Fault("slow 20", honest=True, blow=restart_superlink),
    "server-killed": Fault("slow 20", honest=True, blow=kill_server),
}


def play(name: str, fault: Fault) -> dict[str, Any]:
    """A run under a fault, and what became of it."""
    folder = Path(tempfile.mkdtemp(prefix="stock-faults-")).resolve()
    shutil.copytree(APP, folder / "app" / "stock_app")
    (folder / "app" / "stock_app" / "pyproject.toml").rename(folder / "app" / "pyproject.toml")
    nodes = [node(folder, fault, index) for index in range(NODES)]
    with Loopback(folder / "federation", nodes) as federation:
        stage, began = Stage(federation, folder, []), time.monotonic()
        output = run(stage, fault)
        stage.remarks += [
            f"an error reply: {reason}" for reason in dict.fromkeys(REPLY.findall(output))
        ]
        if fault.until == fault.rounds:
            at = stage.mark(BROKEN).read_text()
            stage.remarks.append(f"at the end the broken node had got to the message of round {at}")
        status, details = settled(federation)
        seconds = time.monotonic() - began
    row = judged(folder, fault, status, errors(output) or details)
    row["what"] = "; ".join([row["what"], *stage.remarks, *([fault.note] if fault.note else [])])
    shutil.rmtree(folder)
    return row | {"seconds": round(seconds)}


def node(folder: Path, fault: Fault, index: int) -> Node:
    """One of the nodes, broken or not."""
    broken = fault if index in fault.nodes else replace(fault, name="")
    return Node(
        f"node{index}",
        {
            "partition": index,
            "fault": broken.name,
            "until": broken.until,
            "mark": str(folder / f"mark{index}"),
        },
    )


def run(stage: Stage, fault: Fault) -> str:
    """``flwr run``, with a blow where there is one; what it printed."""
    settings = {
        "out": str(stage.folder / "out"),
        "rounds": str(fault.rounds),
        "timeout": str(fault.timeout),
        "clip": "yes" if fault.clip else "",
    }
    command = stage.federation.launch(stage.folder / "app", settings)
    try:
        if fault.blow is not None:
            wait_for(stage.mark(BROKEN).exists)
            time.sleep(1)
            fault.blow(stage)
        output, _ = command.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        command.kill()
        output, _ = command.communicate()
        stage.remarks.append(f"flwr run had not ended after {PATIENCE:.0f} s")
    return COLOUR.sub("", output)


def settled(federation: Loopback) -> tuple[str, str]:
    """How the run ended, as ``flwr list`` says it; ``flwr run`` exits with 0 however that was."""
    found = ("unknown", "")

    def ended() -> bool:
        nonlocal found
        with suppress(json.JSONDecodeError, LookupError):  # a SuperLink that has just started
            latest = json.loads(federation.flwr("list", "loopback", "--format", "json"))["runs"][0]
            found = (str(latest["status"]), str(latest.get("status-details", "")))
        return found[0].startswith("finished")

    wait_for(ended)
    return found


def wait_for(ready: Callable[[], bool]) -> None:
    """Wait until something is so, but not for ever."""
    deadline = time.monotonic() + PATIENCE
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.2)


def errors(output: str) -> str:
    """The last exception that a person at ``flwr run`` saw."""
    found = ERROR.findall(output)
    return re.sub(r"^(\w+\.)+", "", found[-1]).strip().rstrip(".") if found else ""


def judged(folder: Path, fault: Fault, status: str, why: str) -> dict[str, Any]:
    """A row for the table."""
    lines = (folder / "out" / "rounds.jsonl").read_text().splitlines()
    rounds = [json.loads(line) for line in lines][1:]
    final = folder / "out" / "final.npz"
    model, how = "lost", "no model is left"
    if final.exists():
        model, how = verdict(dict(np.load(final)), expected(rounds, fault))
    died = f"the run dies in round {len(rounds) + 1}: {why}"
    replies = f"replies averaged in its rounds: {', '.join(map(described, rounds))}"
    parts = [*([replies] if rounds else []), *([] if final.exists() else [died]), how]
    return {
        "what": "; ".join(parts),
        "status": status,
        "model": model,
        "rounds_done": sum(bool(row["averaged"]) for row in rounds),
        "rounds_lost": fault.rounds - sum(bool(row["averaged"]) for row in rounds),
        "rounds": rounds,
    }


def described(row: Mapping[str, Any]) -> str:
    """How many replies a round had, and when after the start it ended."""
    return f"{len(row['averaged'])} (at {row['seconds']:.0f} s)"


def expected(rounds: Sequence[Mapping[str, Any]], fault: Fault) -> Arrays:
    """The mean of the good replies of every round, and of every reply that a good client could send."""
    arrays: Arrays = {name: np.zeros(shape, "float32") for name, shape in SHAPES.items()}
    for row in rounds:
        bad = fault.nodes if row["round"] <= fault.until else frozenset[int]()
        counted = set(row["averaged"]) - (bad if not fault.honest else frozenset())
        news = [
            arrays if p in bad and fault.name == "zero" else updated(arrays, p) for p in counted
        ]
        if news:
            arrays = {name: np.mean([n[name] for n in news], axis=0) for name in arrays}
    return arrays


def verdict(found: Arrays, wanted: Arrays) -> tuple[str, str]:
    """Whether it is the model of the good replies."""
    if found.keys() != wanted.keys():
        return "poisoned", "the model has other arrays"
    if not all(np.isfinite(value).all() for value in found.values()):
        return "poisoned", "the model is not finite"
    apart = [np.broadcast_to(found[name], SHAPES[name]) - wanted[name] for name in wanted]
    length = float(np.sqrt(sum(np.square(value).sum() for value in wanted.values())))
    error = float(np.sqrt(sum(np.square(value).sum() for value in apart))) / length
    if error > TOLERANCE:
        return "poisoned", f"the model is off by {error:.2g} times its length"
    return "fine", "the model is the mean of the good replies"


def main() -> None:
    """Break one after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stock_faults", description=__doc__)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"of {', '.join(FAULTS)}")
    names = parser.parse_args().faults or list(FAULTS)
    if unknown := set(names) - set(FAULTS):
        parser.error(f"there is no fault {', '.join(sorted(unknown))}")
    for name in names:
        row = play(name, FAULTS[name])
        keep(OUT, "faults", name, row)
        print(
            f"{name:<17} {row['status']:<20} {row['model']:<9} {row['seconds']:>4} s  {row['what']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
