"""The keys in which configs differ."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

NAMES = ("name", "seed")
"""Keys that differ by nature and say nothing."""
ABSENT = "—"


def differing(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """By dotted key, the value in each config as it stands in YAML, where not all are the same."""
    flat = [flatten(config) for config in configs]
    keys = dict.fromkeys(key for config in flat for key in config if key not in NAMES)
    values = {key: [config.get(key, ABSENT) for config in flat] for key in keys}
    return {key: found for key, found in values.items() if len(set(found)) > 1}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """``{"a": {"b": 1}}`` becomes ``{"a.b": "1"}``."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return flat
