"""Ports of this machine, and processes that must not outlive us."""

import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

HOST = "127.0.0.1"
_DIE_WITH_PARENT = (
    "import ctypes, os, signal, sys;"
    "ctypes.CDLL(None).prctl(1, signal.SIGKILL);"  # PR_SET_PDEATHSIG
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def dying_with_us() -> list[str]:
    """What to put before a command so that Linux kills it when this process dies, however it does."""
    return [sys.executable, "-ISc", _DIE_WITH_PARENT] if sys.platform == "linux" else []


def free_port() -> int:
    """A port that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def accepts(port: int) -> bool:
    """Whether something listens on the port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def processes_with(variable: bytes) -> list[int]:
    """Processes with this in their environment, which children inherit; on Linux only, else none.

    Flower starts some of its children in sessions of their own, so a process group is not enough.
    """
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if variable in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue  # ended meanwhile, or somebody else's
    return found


def kill(process: int) -> None:
    """Kill a process that may have ended meanwhile."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
