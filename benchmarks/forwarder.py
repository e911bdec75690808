"""Passes the bytes of a TCP port on to another, unread, and counts them both ways."""

import socket
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock, Thread
from typing import Self

from simulations.processes import HOST

CHUNK = 1 << 16


@dataclass
class Forwarder:
    """Listens on ``port`` from entering the context to leaving it."""

    target: int
    listener: socket.socket = field(default_factory=lambda: socket.create_server((HOST, 0)))
    up: int = 0
    """Bytes to the target so far."""
    down: int = 0
    """Bytes that came back."""
    _lock: Lock = field(default_factory=Lock)

    @property
    def port(self) -> int:
        """Where to connect to."""
        return int(self.listener.getsockname()[1])

    def __enter__(self) -> Self:
        Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self.listener.accept()
                try:
                    far = socket.create_connection((HOST, self.target))
                except OSError:
                    near.close()
                    continue
                Thread(target=self._pump, args=(near, far, "up"), daemon=True).start()
                Thread(target=self._pump, args=(far, near, "down"), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with suppress(OSError):
            while chunk := source.recv(CHUNK):
                with self._lock:
                    setattr(self, way, getattr(self, way) + len(chunk))
                sink.sendall(chunk)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
