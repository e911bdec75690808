"""Where memory runs out, fewer clients are computed at once; and what is freed is kept."""

import ctypes
import logging
import subprocess
import sys

import pytest
import torch

from fedmeta.engines.memory import Chunks, lacks_memory


def test_the_chunk_is_halved_until_it_fits_and_stays_so(caplog) -> None:
    """Ten clients, room for three: 10, 5, then 2; once and for all."""
    tried = []

    def double(part: torch.Tensor) -> torch.Tensor:
        tried.append(len(part))
        if len(part) > 3:
            raise torch.OutOfMemoryError("no more")
        return 2 * part

    chunks, each = Chunks(32), torch.arange(10)
    for expected in ([10, 5, 2, 2, 2, 2, 2], [2, 2, 2, 2, 2]):
        tried.clear()
        assert torch.cat(chunks.run(double, each)).tolist() == (2 * each).tolist()
        assert tried == expected
    assert [record.getMessage() for record in caplog.records] == [
        "no memory for 10 clients at once, now 5",
        "no memory for 5 clients at once, now 2",
    ]


def test_one_client_that_does_not_fit_is_an_error() -> None:
    def fail(part: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("no more")

    with pytest.raises(torch.OutOfMemoryError):
        Chunks(2).run(fail, torch.arange(2))


def test_another_error_is_no_lack_of_memory(caplog) -> None:
    def fail(part: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("shapes do not match")

    with caplog.at_level(logging.WARNING), pytest.raises(RuntimeError, match="shapes"):
        Chunks(4).run(fail, torch.arange(4))
    assert not caplog.records


def test_torch_says_in_words_that_the_cpu_has_no_memory() -> None:
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**50)
    assert lacks_memory(found.value)


PROGRAM = """
import resource, torch
from fedmeta.engines.vmap import Vmap
function = lambda params, x: (x[:, None] * x).sum() + params["w"]  # 64 MiB for a client
params, each = {"w": torch.zeros(())}, torch.ones(16, 4096)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 800 * 2**20,) * 2)
print(Vmap(16).map(function, params, each).tolist() == [4096.0**2] * 16)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_process_that_may_have_no_more_goes_on_with_fewer() -> None:
    """800 MiB, where 16 clients at once want a GiB and more."""
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.stdout.strip() == "True", result.stderr
    assert "no memory for 16 clients at once, now 8" in result.stderr


FREEING = """
import resource, torch
from fedmeta.engines.memory import keep_freed_memory
def faults():
    for _ in range(2):
        torch.ones(2**24)  # 64 MiB, and let go
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
given_back = faults()
keep_freed_memory()
print(given_back, faults())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="it is glibc that is told")
def test_pages_that_were_freed_are_not_asked_for_again() -> None:
    """Ten tensors of 64 MiB ask for as many pages each; or for none, but where the heap still grows.

    It may once or twice after the first two: a tensor begins at a multiple of 64 bytes.
    """
    command = [sys.executable, "-c", FREEING]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    given_back, kept = map(int, result.stdout.split())
    assert 3 * kept < given_back
