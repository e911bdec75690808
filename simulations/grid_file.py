"""A grid: a YAML file that makes many cells out of one config or a few."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any, Self

from fedmeta.config import Experiment, read_mapping
from fedmeta.errors import ConfigError
from simulations.axes import Axis, Sections, put

HEAD = ("name", "base", "seeds", "set", "cases")
NO_AXIS = ("name", "seed", "sections", "tracking", "published")
"""Fields of an experiment that make no axis."""


@dataclass(frozen=True)
class Case:
    """A correction of the cells whose labels it names."""

    where: Mapping[str, Sequence[str]]
    """By axis, one label or several."""
    set: Sections = field(default_factory=dict)
    """Values by dotted key."""
    skip: bool = False

    def meets(self, labels: Mapping[str, str]) -> bool:
        """Whether it is about the cell with these labels."""
        return all(labels[axis] in wanted for axis, wanted in self.where.items())


@dataclass(frozen=True)
class Setting:
    """A cell without its seed."""

    base: Path
    labels: Mapping[str, str]
    sections: Sections
    """The config as it would stand in a file of its own."""


@dataclass(frozen=True)
class Grid:
    """All combinations of the labels of its axes."""

    bases: Sequence[Path]
    axes: Sequence[Axis] = ()
    name: str = ""
    """Empty: cells are called by the name of their base."""
    seeds: Sequence[int] | None = None
    """None: each base's own."""
    set: Sections = field(default_factory=dict)
    """Values of every cell by dotted key."""
    cases: Sequence[Case] = ()
    source: str = ""

    @classmethod
    def read(cls, path: Path) -> Self:
        """A grid file, or a config as the grid of one cell. Raises ConfigError."""
        found = read_mapping(path)
        if "base" not in found:
            return cls([path])
        try:
            return cls._of(found, path)
        except ConfigError as e:
            raise ConfigError(f"{path}: {e}") from e

    @classmethod
    def _of(cls, found: dict[str, Any], path: Path) -> Self:
        axes = [_axis(key, value) for key, value in found.items() if key not in HEAD]
        by_key = {axis.key: axis for axis in axes}
        return cls(
            bases=[path.parent / base for base in _bases(found["base"])],
            axes=axes,
            name=str(found.get("name") or path.stem),
            seeds=_seeds(found.get("seeds")),
            set=_section(found.get("set"), "set"),
            cases=[_case(each, by_key) for each in _list(found.get("cases"), "cases")],
            source=f"{path}: ",
        )

    def settings(self) -> Iterator[Setting]:
        """Every combination, in the order of the file. Raises ConfigError with the cell's labels."""
        for base, *labels in product(self.bases, *(axis.choices for axis in self.axes)):
            chosen = dict(zip((axis.key for axis in self.axes), labels, strict=True))
            cases = [case for case in self.cases if case.meets(chosen)]
            if not any(case.skip for case in cases):
                with told(self.source, chosen):
                    yield self._setting(base, chosen, cases)

    def _setting(self, base: Path, labels: dict[str, str], cases: Sequence[Case]) -> Setting:
        sections = read_mapping(base)
        name = str(sections.get("name"))
        for axis in self.axes:
            sections = axis.apply(sections, labels[axis.key])
        for key, value in [*self.set.items(), *(i for case in cases for i in case.set.items())]:
            sections = put(sections, key, value)
        if self.axes:
            several = {axis.key for axis in self.axes if len(axis.choices) > 1}
            varied = [slug(label) for key, label in labels.items() if key in several]
            bases = [name] if not self.name or len(self.bases) > 1 else []
            sections["name"] = "-".join([*([self.name] if self.name else []), *bases, *varied])
        elif self.name:
            sections["name"] = self.name if len(self.bases) == 1 else f"{self.name}-{name}"
        if len(self.bases) > 1:
            labels = {"base": name} | labels
        return Setting(base, labels, sections)


class told:  # noqa: N801 (used as a function)
    """Names the grid file and the cell in errors."""

    def __init__(self, source: str, labels: Mapping[str, str]) -> None:
        self._where = source + (f"cell {contender(labels)}: " if labels else "")

    def __enter__(self) -> None:
        """Nothing yet."""

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Raise again, with the place in front."""
        if isinstance(error, ConfigError):
            raise ConfigError(f"{self._where}{error}") from error
