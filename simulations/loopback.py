"""A real Flower deployment on 127.0.0.1: TLS, a key per node, a process per SuperNode.

``make federation`` shows one, and tests break one: they kill its parts, bring wrong keys, send bad replies.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from fedmeta.errors import FedmetaError
from simulations.certificates import write_certificates, write_node_key
from simulations.processes import HOST, accepts, dying_with_us, free_port, kill, processes_with

BIN = Path(sys.executable).parent
CONNECTION = "loopback"
SUPERLINK = "superlink"
START = 60.0
"""Seconds that a part of the federation may take to start."""
ONLINE = "SuperNode ID: "
UNAVAILABLE = "SuperLink is unavailable"
"""What ``flwr`` says of a SuperLink that has no time to answer, on a machine that is busy."""
QUIET = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "PYTHONUNBUFFERED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True)
class Node:
    """A SuperNode to start."""

    name: str
    config: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """Its node config, for example ``shard``, ``states`` and ``log``."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that only its processes see."""
    options: Sequence[str] = ()
    """More options of ``flower-supernode``, such as ``--trusted-entities FILE``."""


@dataclass
class Loopback:
    """A SuperLink and its SuperNodes, from entering the context to leaving it.

    ``folder`` must be new; it gets the certificates, the keys, and for each part a log and a Flower
    home. Leaving kills every process that was started, and their children; the folder stays.
    """

    folder: Path
    nodes: Sequence[Node]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of the SuperLink, and so of the ServerApp."""
    port: int = field(default_factory=free_port)
    _processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict, init=False)

    def __enter__(self) -> Self:
        self.folder = self.folder.resolve()
        try:
            write_certificates(self.folder / "certificates")
            self._write_connection()
            self.start_superlink()
            self.register([write_node_key(self.key(node)) for node in self.nodes])
            for node in self.nodes:
                self.start(node)
            for node in self.nodes:
                self.wait_online(node)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()

    def run(
        self, app: Path, settings: Mapping[str, str], timeout: float
    ) -> "subprocess.CompletedProcess[str]":
        """``flwr run`` to its end; past ``timeout`` seconds it is killed and TimeoutExpired raised."""
        process = self.launch(app, settings)
        try:
            output, errors = process.communicate(timeout=timeout)
        finally:
            process.kill()
            process.wait()
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def launch(
        self, app: Path, settings: Mapping[str, str], captured: bool = True
    ) -> "subprocess.Popen[str]":
        """``flwr run`` in the background, to watch it or to break something under it.

        Whoever launches it ends it; where it is not ``captured``, it prints to our own output.
        """
        config = " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())
        command = ["run", str(app), CONNECTION, "--stream", "--run-config", config]
        return self._flwr(command, captured)

    def flwr(self, *words: str) -> str:
        """Another ``flwr`` command to its end, and what it wrote to standard output."""
        output, _ = self._flwr(words).communicate(timeout=START)
        return output

    def start_superlink(self) -> None:
        """Start the SuperLink, for the first time or again with the runs and nodes that it knew."""
        folder = self.folder / "certificates"
        self.spawn(
            SUPERLINK,
            [
                *("flower-superlink", "--host", HOST, "--port", str(self.port)),
                *("--ssl-ca-certfile", str(folder / "ca.crt")),
                *("--ssl-certfile", str(folder / "server.pem")),
                *("--ssl-keyfile", str(folder / "server.key")),
                *("--database", str(self.folder / "superlink.db")),
                *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
            ],
            self.environment,
        )
        self._wait(SUPERLINK, lambda: accepts(self.port))

    def register(self, public_keys: Sequence[Path]) -> None:
        """Tell the SuperLink whom to let in, a few at a time: a crowd on two cores times out."""
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self._register, public_keys))

    def start(self, node: Node) -> None:
        """Start a SuperNode, for the first time or again; it is not online yet when this returns."""
        self.spawn(node.name, self.command(node), node.environment)

    def command(self, node: Node) -> list[str]:
        """The command line of a SuperNode that is let in."""
        config = " ".join(f"{key}={json.dumps(value)}" for key, value in node.config.items())
        return [
            *("flower-supernode", "--superlink", f"{HOST}:{self.port}"),
            *("--root-certificates", str(self.folder / "certificates" / "ca.crt")),
            *("--auth-supernode-private-key", str(self.key(node))),
            *("--host", HOST, "--port", str(free_port())),
            *(("--node-config", config) if config else ()),
            *node.options,
        ]

    def wait_online(self, node: Node) -> None:
        """Wait until the SuperLink let the SuperNode in. Raises FedmetaError if it does not."""
        self._wait(node.name, lambda: ONLINE in self.log(node.name))

    def key(self, node: Node) -> Path:
        """Where the private key of a SuperNode is."""
        return self.folder / "certificates" / node.name

    def log(self, name: str) -> str:
        """What a part and its children printed since it was last started."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def spawn(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a process as a part of the federation, whatever command it is."""
        log = self.folder / f"{name}.log"
        if log.exists():
            log.rename(log.with_name(f"{name}.{time.time_ns()}.log"))
        with log.open("wb") as output:
            self._processes[name] = subprocess.Popen(
                [*dying_with_us(), str(BIN / command[0]), *command[1:]],
                env=self.environment_of(name) | dict(environment),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, name: str, timeout: float) -> int:
        """The exit code of a part that ends by itself. Raises TimeoutExpired."""
        return self._processes[name].wait(timeout)

    def kill(self, name: str) -> None:
        """Kill a part and all of its children at once, as a power cut does."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()
        home = f"FLWR_HOME={self._home(name)}\0".encode()
        while children := processes_with(home):
            for child in children:
                kill(child)
            time.sleep(0.05)

    def environment_of(self, name: str) -> dict[str, str]:
        """The variables of a part, or of the command line (``cli``)."""
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        return os.environ | QUIET | {"PATH": path, "FLWR_HOME": str(self._home(name))}

    def stop(self) -> None:
        """Kill all parts."""
        for name in list(self._processes):
            self.kill(name)

    def _register(self, public_key: Path) -> None:
        deadline = time.monotonic() + START
        while True:
            process = self._flwr(["supernode", "register", str(public_key), CONNECTION])
            output, errors = process.communicate(timeout=START)
            if not process.returncode:
                return
            said = output + errors
            if UNAVAILABLE not in said or time.monotonic() > deadline:
                raise FedmetaError(f"a node could not be registered: {said}")

    def _flwr(self, command: Sequence[str], captured: bool = True) -> "subprocess.Popen[str]":
        output = subprocess.PIPE if captured else None
        return subprocess.Popen(
            [str(BIN / "flwr"), *command],
            env=self.environment_of("cli"),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
        )

    def _home(self, name: str) -> Path:
        return self.folder / "homes" / name

    def _write_connection(self) -> None:
        home = self._home("cli")
        home.mkdir(parents=True)
        certificate = json.dumps(str(self.folder / "certificates" / "ca.crt"))
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
            f'address = "{HOST}:{self.port}"\nroot-certificates = {certificate}\n'
        )

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START
        while not ready():
            if self._processes[name].poll() is not None or time.monotonic() > deadline:
                raise FedmetaError(f"{name} did not start: {self.log(name)[-2000:]}")
            time.sleep(0.05)
