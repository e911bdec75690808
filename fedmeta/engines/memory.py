"""As many clients at once as there is memory for, and no page of it asked for twice."""

import ctypes
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from fedmeta.engines.blocks import Each, Result, chunks, clients_in

_log = logging.getLogger(__name__)
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Names of glibc's, in malloc.h."""
LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> None:
    """Let this process keep up to 2 GiB that it freed.

    On Linux, glibc otherwise gives large tensors back to the system as soon as they are let go, and
    the pages of the next one are cleared and mapped anew, which takes longer than many an operation.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, LARGEST_INT)


@dataclass
class Chunks:
    """How many clients are computed at once: ``most``, and less from where memory ran out."""

    most: int

    def run(self, compute: Callable[[Each], Result], each: Each) -> list[Result]:
        """``compute`` of every chunk; all of them anew, with half as many, where memory runs out."""
        while True:
            try:
                return [compute(part) for part in chunks(each, self.most)]
            except Exception as error:
                tried = min(self.most, clients_in(each))
                if tried == 1 or not lacks_memory(error):
                    raise
            self.most = tried // 2
            _log.warning("no memory for %d clients at once, now %d", tried, self.most)


def lacks_memory(error: BaseException) -> bool:
    """Whether this is an allocation that failed. On the CPU torch has no type of its own for it."""
    kinds: tuple[Any, ...] = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)
