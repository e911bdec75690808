"""Range checks that the learners' settings share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fedmeta.errors import ConfigError


def positive(learner: Any, *names: str) -> None:
    """Refuse settings that are not above zero."""
    for name in names:
        if not 0 < (value := getattr(learner, name)) < float("inf"):
            raise ConfigError(f"learner.{name} must be a finite number > 0, got {value!r}")


def not_negative(learner: Any, *names: str) -> None:
    """Refuse settings below zero."""
    for name in names:
        if not 0 <= (value := getattr(learner, name)) < float("inf"):
            raise ConfigError(f"learner.{name} must be a finite number >= 0, got {value!r}")


def fraction(learner: Any, *names: str) -> None:
    """Refuse settings outside of [0, 1]."""
    for name in names:
        if not 0 <= (value := getattr(learner, name)) <= 1:
            raise ConfigError(f"learner.{name} must be a part of the run, 0 to 1, got {value!r}")


def at_least_one(learner: Any, *names: str) -> None:
    """Refuse counts below one."""
    for name in names:
        if (value := getattr(learner, name)) < 1:
            raise ConfigError(f"learner.{name} must be 1 or more, got {value!r}")


def stable(learner: Any, rate: str, weight: str) -> None:
    """Refuse a rate with which steps on the proximal term alone would not shrink."""
    lr, lam = getattr(learner, rate), getattr(learner, weight)
    if lr * lam >= 2:
        raise ConfigError(
            f"learner.{weight} times learner.{rate} must be below 2, or the steps diverge; "
            f"got {lam!r} * {lr!r} = {lam * lr:g}"
        )


@contextmanager
def second_derivatives(key: str) -> Iterator[None]:
    """Name the operator that torch cannot differentiate twice."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as e:
        if "derivative" not in str(e):
            raise
        raise ConfigError(
            f"learner.{key} needs second derivatives, and the model has an operator without: "
            f"{str(e).splitlines()[0]}"
        ) from e
