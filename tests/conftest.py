"""Nothing that a test starts may call home, or find what another run left in the user's cache."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

CACHE = tempfile.mkdtemp(prefix="fedmeta-test-cache-")
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)

os.environ |= {
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "WANDB_MODE": "offline",
    "XDG_CACHE_HOME": CACHE,
}
if data := os.environ.get("FEDMETA_DATA"):
    os.environ["FEDMETA_DATA"] = os.path.abspath(
        data
    )  # tests and processes have folders of their own


@pytest.fixture(scope="session")
def two_ray_cpus() -> Iterator[None]:
    """One Ray, shared by the tests that need one."""
    import ray

    from tests.simulations.conftest import start_ray

    start_ray()
    yield
    ray.shutdown()
