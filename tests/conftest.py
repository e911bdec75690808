"""Nothing that a test starts may call home."""

import os

os.environ |= {
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "WANDB_MODE": "offline",
}
