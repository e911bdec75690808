"""What a device pays to take part: memory, processor, time for a message, bytes on its line.

    FEDMETA_DATA=... python -m benchmarks.device_cost

One SuperNode on a real federation, behind a forwarder that counts what passes its line, TLS and all.
First it gets an app that does nothing, then one that imports torch: that is Flower's own floor. Then
configs/federation.yaml, one client to a message, with a small and a large model. The result is
docs/device_cost.json.
"""

import json
import re
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Any, Self

from benchmarks.forwarder import Forwarder
from benchmarks.results import keep
from fedmeta.config import load
from simulations.federation import deal, write_app
from simulations.loopback import Loopback
from simulations.processes import HOST, free_port, processes_with
from strategies.stock import STRATEGIES

OUT = Path("docs/device_cost.json")
CONFIG = Path(__file__).parents[1] / "configs" / "federation.yaml"
NOOP = Path(__file__).parent / "noop_app"
FILTERS = (16, 64)
ROUNDS = ("rounds=4", "cohort.clients=1", "evaluation.every=2", "evaluation.clients=1")
PATIENCE, SETTLE, IDLE = 400.0, 8.0, 30.0
EVERY, AFTER = 0.1, 1.0
"""Seconds between two looks; seconds after a reply by which its process has ended."""
FLOWERS_OWN = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "1"}
"""As often as a device asks for work if nobody sets it."""
LINE = re.compile(r"(Receiving: (\w+) message|Sent successfully)")
TICKS = 100
MB = 1e6


@dataclass(frozen=True)
class Look:
    """What a device used at a moment."""

    at: float
    rss: int
    pss: int
    cpu: float
    down: int
    up: int


@dataclass
class Message:
    """From its arrival at the node to the reply being sent."""

    kind: str
    received: float
    sent: float = 0.0


@dataclass
class Watch:
    """Looks at the processes of a node, at its line and at its log."""

    federation: Loopback
    name: str
    line: Forwarder
    looks: list[Look] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    _seen: dict[int, float] = field(default_factory=dict)
    _ended: Event = field(default_factory=Event)

    def __enter__(self) -> Self:
        Thread(target=self._look, daemon=True).start()
        Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def during(self, begin: float, end: float) -> list[Look]:
        """Looks between two moments."""
        return [look for look in self.looks if begin <= look.at <= end]

    def at(self, moment: float) -> Look:
        """The first look from a moment on, or the last."""
        return next((look for look in self.looks if look.at >= moment), self.looks[-1])

    def _look(self) -> None:
        home = f"FLWR_HOME={self.federation.folder / 'homes' / self.name}\0".encode()
        while not self._ended.wait(EVERY):
            alive = processes_with(home)
            memory = [resident(process) for process in alive]
            self._seen |= {process: 0.0 for process in alive if process not in self._seen}
            for process, known in self._seen.items():
                self._seen[process] = max(known, processor_seconds(process))
            rss, pss = (sum(each) for each in zip(*memory, strict=True)) if memory else (0, 0)
            cpu, line = sum(self._seen.values()), self.line
            self.looks.append(Look(time.monotonic(), rss, pss, cpu, line.down, line.up))

    def _read(self) -> None:
        done = 0
        while not self._ended.wait(0.02):
            found = LINE.findall(self.federation.log(self.name))
            for text, kind in found[done:]:
                if kind:
                    self.messages.append(Message(kind, time.monotonic()))
                elif text and self.messages:
                    self.messages[-1].sent = time.monotonic()
            done = len(found)


def resident(process: int) -> tuple[int, int]:
    """Bytes in memory: all, and with what processes share divided among them."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0, 0
    values = {line.split(":")[0]: line.split()[1] for line in text.splitlines()[1:]}
    return 1024 * int(values.get("Rss", 0)), 1024 * int(values.get("Pss", 0))


def processor_seconds(process: int) -> float:
    """What a process has used; also after its end, until its parent takes notice."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def idle(watch: Watch) -> dict[str, Any]:
    """What a node costs that has nothing to do."""
    time.sleep(SETTLE)
    begin = time.monotonic()
    time.sleep(IDLE)
    looks = watch.during(begin, time.monotonic())
    seconds = looks[-1].at - looks[0].at
    return {
        "rss_mb": median(look.rss for look in looks) / MB,
        "pss_mb": median(look.pss for look in looks) / MB,
        "cpu_seconds_per_minute": 60 * (looks[-1].cpu - looks[0].cpu) / seconds,
        "down_per_second": (looks[-1].down - looks[0].down) / seconds,
        "up_per_second": (looks[-1].up - looks[0].up) / seconds,
    }


def work(watch: Watch, app: Path, settings: Mapping[str, str], calm: Mapping[str, Any]) -> Any:
    """What a run costs the node: its greatest memory, and each kind of message."""
    first, begin = len(watch.messages), time.monotonic()
    result = watch.federation.run(app, settings, PATIENCE)
    time.sleep(2 * AFTER)
    messages = watch.messages[first:]
    if not messages or not all(message.sent for message in messages):
        raise RuntimeError(f"the node did not answer: {result.stdout}{result.stderr}")
    looks = watch.during(begin, time.monotonic())
    kinds: dict[str, list[dict[str, float]]] = defaultdict(list)
    last = begin
    for message in messages:
        kinds[message.kind].append(cost(watch, message, last, calm))
        last = message.sent + AFTER
    return {
        "rss_mb": max(look.rss for look in looks) / MB,
        "pss_mb": max(look.pss for look in looks) / MB,
        "messages": {kind: middle(costs) for kind, costs in kinds.items()},
    }


def cost(watch: Watch, message: Message, last: float, calm: Mapping[str, Any]) -> dict[str, float]:
    """What one message cost; of the bytes since the one before, those of an idle line are taken off."""
    end = message.sent + AFTER
    before, arrived, after = watch.at(last), watch.at(message.received - EVERY), watch.at(end)
    seconds = after.at - before.at
    return {
        "seconds": message.sent - message.received,
        "cpu_seconds": after.cpu - arrived.cpu,
        "line_down": after.down - before.down - calm["down_per_second"] * seconds,
        "line_up": after.up - before.up - calm["up_per_second"] * seconds,
    }


def middle(costs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each cost, and the least time: others use this machine too."""
    values = {name: median(each[name] for each in costs) for name in costs[0]}
    quickest = min(each["seconds"] for each in costs)
    return values | {"seconds_least": quickest, "messages": len(costs)}


def counted(run: Path) -> dict[str, float]:
    """Bytes of a training message's content and of its reply, as fedmeta counts them."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    train = [row for row in rows if row["split"] == "train"]
    return {name: median(row[name] for row in train) for name in ("bytes_down", "bytes_up")}


def measure(folder: Path) -> dict[str, Any]:
    """All runs, one after the other, on the same node."""
    experiment = load(CONFIG, ROUNDS, STRATEGIES)
    port = free_port()
    with Forwarder(port) as line:
        (dealt,) = deal(experiment, 1, folder)
        options = ("--superlink", f"{HOST}:{line.port}")
        node = replace(dealt, options=options, environment=FLOWERS_OWN)
        with (
            Loopback(folder / "federation", [node], port=port) as federation,
            Watch(federation, node.name, line) as watch,
        ):
            return rows(watch, folder)


def rows(watch: Watch, folder: Path) -> dict[str, Any]:
    """What is measured, by name."""
    calm = idle(watch)
    found: dict[str, Any] = {"idle": calm}
    noop = folder / "noop"
    shutil.copytree(NOOP, noop / "noop_app")
    (noop / "noop_app" / "pyproject.toml").rename(noop / "pyproject.toml")
    found["no-op"] = work(watch, noop, {"import": ""}, calm)
    found["no-op with torch"] = work(watch, noop, {"import": "torch"}, calm)
    app = write_app(folder / "app", CONFIG)
    for filters in FILTERS:
        run = folder / f"run{filters}"
        overrides = " ".join([*ROUNDS, f"model.filters={filters}"])
        settings = {"config": f"configs/{CONFIG.name}", "overrides": overrides, "run-dir": str(run)}
        found[f"fedmeta, {filters} filters"] = work(watch, app, settings, calm) | counted(run)
    return found


def table(found: Mapping[str, Any]) -> str:
    """For the screen."""
    calm = found["idle"]
    lines = [
        f"idle: {calm['rss_mb']:.0f} MB RSS, {calm['pss_mb']:.0f} MB PSS, "
        f"{calm['cpu_seconds_per_minute']:.1f} s of CPU a minute, "
        f"{calm['down_per_second']:.0f} B/s down, {calm['up_per_second']:.0f} B/s up"
    ]
    for name, row in found.items():
        if name == "idle":
            continue
        sizes = [f"{row[way] / 1e3:.1f} kB" for way in ("bytes_down", "bytes_up") if way in row]
        lines.append(f"{name}: {row['rss_mb']:.0f} MB RSS, {row['pss_mb']:.0f} MB PSS  {sizes}")
        lines += [
            f"  {kind:<9} {of['seconds']:5.1f} s (least {of['seconds_least']:.1f})  "
            f"{of['cpu_seconds']:5.1f} s CPU  "
            f"{of['line_down'] / 1e3:7.1f} kB down  {of['line_up'] / 1e3:7.1f} kB up  "
            f"({of['messages']} messages)"
            for kind, of in row["messages"].items()
        ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print and keep."""
    folder = Path(tempfile.mkdtemp(prefix="device-cost-")).resolve()
    found = measure(folder)
    print(table(found), flush=True)
    for name, row in found.items():
        keep(OUT, "device", name, row)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
