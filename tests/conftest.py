"""Nothing that a test starts may call home, or find what another run left in the user's cache."""

import atexit
import os
import shutil
import tempfile

CACHE = tempfile.mkdtemp(prefix="fedmeta-test-cache-")
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)

os.environ |= {
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "WANDB_MODE": "offline",
    "XDG_CACHE_HOME": CACHE,
}
