"""``flwr run`` on Flower's own simulation engine, with a home, ports and a SuperLink of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from simulations.processes import free_port, processes_with

BIN = Path(sys.executable).parent
TWO_NODES = "num-supernodes=2 client-resources-num-cpus=1 init-args-num-cpus=2"


@contextmanager
def flower(folder: Path) -> Iterator[dict[str, str]]:
    """The environment for ``flwr run``; afterwards the SuperLink that it left behind is ended."""
    home = folder / "flower"
    yield os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "HOME": str(folder / "home"),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(free_port()),
        "FLWR_LOCAL_CONTROL_API_PORT": str(free_port()),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    for process in processes_with(f"FLWR_HOME={home}\0".encode()):
        with suppress(FileNotFoundError, ProcessLookupError):  # its children end with it
            if b"flower-superlink" in Path(f"/proc/{process}/cmdline").read_bytes():
                os.kill(process, signal.SIGTERM)
                wait_until_gone(process)


def flwr_run(app: Path, settings: str, environment: Mapping[str, str]) -> str:
    """What a run of two nodes printed."""
    command = [str(BIN / "flwr"), "run", str(app), "--stream", "--run-config", settings]
    result = subprocess.run(
        [*command, "--federation-config", TWO_NODES],
        env=environment,
        cwd=app.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return result.stdout + result.stderr


def wait_until_gone(process: int) -> None:
    deadline = time.monotonic() + 20
    while Path(f"/proc/{process}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
