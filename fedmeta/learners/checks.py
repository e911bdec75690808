"""Range checks that the learners' settings share."""

from typing import Any

from fedmeta.errors import ConfigError


def positive(learner: Any, *names: str) -> None:
    """Refuse settings that are not above zero."""
    for name in names:
        if not 0 < (value := getattr(learner, name)) < float("inf"):
            raise ConfigError(f"learner.{name} must be a finite number > 0, got {value!r}")


def at_least_one(learner: Any, *names: str) -> None:
    """Refuse counts below one."""
    for name in names:
        if (value := getattr(learner, name)) < 1:
            raise ConfigError(f"learner.{name} must be 1 or more, got {value!r}")
