"""What varies from cell to cell may not be given for all as well."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedmeta.errors import ConfigError
from simulations.axes import Axis


def check_apart(axes: Iterable[Axis], given: Mapping[str, str]) -> None:
    """Refuse what would call cells after what they are not. Raises ConfigError.

    ``given`` has by key how it was given.
    """
    for key, how in given.items():
        for axis in axes:
            if _decides(axis, key):
                raise ConfigError(
                    f"the grid gives every cell its {axis.key}, so {how} cannot stand beside it"
                )


def within(key: str, section: str) -> bool:
    """Whether a dotted key is that of a section or one inside."""
    return f"{key}.".startswith(f"{section}.")


def _decides(axis: Axis, key: str) -> bool:
    """Whether what stands at a key is what labels tell apart; in a section all may share the rest."""
    if within(axis.key, key) or not within(key, axis.key):
        return within(axis.key, key)
    inside = key.removeprefix(f"{axis.key}.").split(".")
    first, *others = (_at(choice, inside) for choice in axis.choices.values())
    return inside == ["name"] or any(other != first for other in others)


def _at(choice: Any, inside: Sequence[str]) -> Any:
    for part in inside:
        choice = choice.get(part) if isinstance(choice, Mapping) else None
    return choice
