"""What varies in a sweep: a setting within bounds, or one of several values."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from math import isfinite
from typing import Any

from fedmeta.config import Experiment
from fedmeta.errors import ConfigError
from simulations.axes import Axis, Sections, put

JUDGES = ("data", "evaluation", "seed")
"""They decide what a score is: scores under different ones could not be compared."""
NO_PART = ("name", "engine", "tracking", "published", "sections")
"""They decide no score."""
BOUNDS = ("low", "high", "log", "step")
Value = float | int | str
"""Of a setting in a trial: a number, or the label of a choice."""


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included."""

    key: str
    low: float
    high: float
    log: bool = False
    """Whether equal ratios are equally likely."""
    step: float | None = None
    """Only ``low`` plus a multiple of it."""
    whole: bool = False
    """Whether the setting takes whole numbers only."""

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest."""
        return self.low, self.high

    def apply(self, sections: Sections, value: Value) -> dict[str, Any]:
        """The config with the setting at that value."""
        return put(sections, self.key, value)

    def read(self, text: str) -> Value:
        """A value from a command line."""
        return round(float(text)) if self.whole else float(text)


@dataclass(frozen=True)
class Choices:
    """One of several values, or whole sections, by label; components may be named as in a grid."""

    key: str
    by_label: Mapping[str, Any]

    @property
    def ends(self) -> tuple[str, str]:
        """The first and the last."""
        labels = list(self.by_label)
        return labels[0], labels[-1]

    def apply(self, sections: Sections, value: Value) -> dict[str, Any]:
        """The config with that choice made."""
        return Axis(self.key, self.by_label).apply(sections, str(value))

    def read(self, text: str) -> Value:
        """A label from a command line. Raises ConfigError where there is none such."""
        if text not in self.by_label:
            raise ConfigError(f"{self.key} has {', '.join(self.by_label)}, got {text!r}")
        return text


Dimension = Range | Choices


def dimension(key: str, value: Any) -> Dimension:
    """What stands in a sweep file. Raises ConfigError."""
    _may_vary(key)
    if isinstance(value, list) and len(value) > 1:
        found = {str(choice): choice for choice in value}
        if len(found) < len(value):
            raise ConfigError(f"space.{key} must have choices that differ, got {value!r}")
        return Choices(key, found)
    if isinstance(value, dict) and {"low", "high"} <= value.keys() <= set(BOUNDS):
        return _range(key, value)
    raise ConfigError(
        f"space.{key} must be a list of two choices or more, or {{low: ..., high: ...}} with log or "
        f"step, got {value!r}"
    )


def whole(found: Range, example: Any) -> bool:
    """Whether a setting takes whole numbers, by an example of it. Raises ConfigError."""
    if isinstance(example, bool) or not isinstance(example, int | float):
        raise ConfigError(f"space.{found.key} must be a list of choices: it is no number")
    bounds = [found.low, found.high, found.step or 1]
    if isinstance(example, int) and not all(float(bound).is_integer() for bound in bounds):
        raise ConfigError(f"space.{found.key} must have whole bounds and steps, got {bounds}")
    return isinstance(example, int)


def _range(key: str, value: Mapping[str, Any]) -> Range:
    found = Range(key, **value)
    numbers = [found.low, found.high, *([] if found.step is None else [found.step])]
    if not all(type(number) in (int, float) and isfinite(number) for number in numbers):
        raise ConfigError(f"space.{key} must have numbers as bounds and step, got {dict(value)}")
    if found.low >= found.high:
        raise ConfigError(f"space.{key}.low must be below high, got {found.low} and {found.high}")
    if type(found.log) is not bool or (found.log and (found.low <= 0 or found.step is not None)):
        raise ConfigError(
            f"space.{key}.log must be true or false; with true low must be above 0 and there is no "
            f"step, got {dict(value)}"
        )
    if found.step is not None:
        _fits(key, found, found.step)
    return found


def _fits(key: str, found: Range, step: float) -> None:
    count = (found.high - found.low) / step
    if step <= 0 or abs(count - round(count)) > 1e-9 * count:
        raise ConfigError(f"space.{key}.step must be above 0 and lead from low to high, got {step}")


def _may_vary(key: str) -> None:
    section, known = key.split(".")[0], [field.name for field in fields(Experiment)]
    if section in JUDGES:
        raise ConfigError(
            f"space.{key} cannot vary: scores under another {section} are not comparable"
        )
    may = [name for name in known if name not in (*JUDGES, *NO_PART)]
    if section not in may:
        near = get_close_matches(section, may, n=1)
        raise ConfigError(
            f"space.{key} must be a setting of {', '.join(may)}"
            + (f" (did you mean {near[0]}?)" if near else "")
        )
