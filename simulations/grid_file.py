"""A grid: a YAML file that makes many cells out of one config or a few."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any, Self

from fedmeta.config import Experiment, read_mapping
from fedmeta.errors import ConfigError
from simulations.apart import check_apart
from simulations.axes import Axis, Sections, put

HEAD = ("name", "base", "seeds", "set", "cases")
NO_AXIS = ("name", "seed", "sections", "tracking", "published")
"""Fields of an experiment that are no axis."""
BETWEEN = " · "
LONGEST = 200
"""Bytes of a name that files are called after: none may have more than 255, and more is put to it."""


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
    """By axis."""
    contender: str
    """The labels in which cells differ; empty where there is one."""
    sections: Sections
    """The config as it would stand in a file of its own."""


@dataclass(frozen=True)
class Grid:
    """All combinations of the labels of its axes."""

    bases: Sequence[Path]
    axes: Sequence[Axis] = ()
    name: str = ""
    """Empty: cells are called as their base is."""
    seeds: Sequence[int] | None = None
    """None: each base's own."""
    set: Sections = field(default_factory=dict)
    """Values of every cell by dotted key, put after the axes; of nothing that these decide."""
    cases: Sequence[Case] = ()
    """Stronger still, the last of all."""
    source: str = ""
    """The grid file."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """A grid file, or a config as the grid of one cell. Raises ConfigError."""
        found = read_mapping(path)
        if "base" not in found:
            return cls([path])
        with told(str(path)):
            axes = [_axis(key, value) for key, value in found.items() if key not in HEAD]
            bases = [path.parent / base for base in _bases(found["base"])]
            labels = {"base": [_own(base, read_mapping(base)) for base in bases]}
            labels |= {axis.key: list(axis.choices) for axis in axes}
            grid = cls(
                bases=bases,
                axes=axes,
                name=str(found.get("name") or path.stem),
                seeds=_seeds(found.get("seeds")),
                set=_mapping(found.get("set") or {}, "set"),
                cases=[_case(each, labels) for each in _list(found.get("cases") or [], "cases")],
                source=str(path),
            )
            grid._check_apart()
            return grid

    @property
    def varied(self) -> list[Axis]:
        """All that varies, with the seeds."""
        seeds = {str(seed): seed for seed in self.seeds or []}
        return [*self.axes, *([Axis("seed", seeds)] if seeds else [])]

    def settings(self) -> Iterator[Setting]:
        """Every combination, in the order of the file. Raises ConfigError that names the cell."""
        for base in self.bases:
            with told(self.source):
                sections = read_mapping(base)
            for chosen in product(*(axis.choices for axis in self.axes)):
                labels = dict(zip((axis.key for axis in self.axes), chosen, strict=True))
                named = {"base": _own(base, sections)} | labels
                cases = [case for case in self.cases if case.meets(named)]
                if not any(case.skip for case in cases):
                    with told(self.source, BETWEEN.join(chosen)):
                        setting = self._setting(base, sections, labels, cases)
                    yield setting

    def _check_apart(self) -> None:
        check_apart(self.varied, {key: f"set {key}" for key in self.set})
        for case in self.cases:
            others = [axis for axis in self.varied if axis.key not in case.where]
            check_apart(others, {key: f"cases.set {key}" for key in case.set})

    def _setting(
        self, base: Path, sections: Sections, labels: dict[str, str], cases: Sequence[Case]
    ) -> Setting:
        own, sections = _own(base, sections), dict(sections)
        for axis in sorted(self.axes, key=lambda axis: axis.key.count(".")):  # sections first
            sections = axis.apply(sections, labels[axis.key])
        for values in (self.set, *(case.set for case in cases)):
            for key, value in values.items():
                sections = put(sections, key, value)
        bases = [own] if len(self.bases) > 1 and (self.source or self.axes) else []
        varied = [labels[axis.key] for axis in self.axes if len(axis.choices) > 1]
        first = [self.name, *bases] if self.name else [own]
        if self.source or varied:
            sections["name"] = "-".join(map(slug, [*first, *varied]))
        labels = dict.fromkeys(["base"], own) | labels if bases else labels
        varied = [*bases, *varied]
        return Setting(base, labels, BETWEEN.join(varied), sections)


@contextmanager
def told(source: str, cell: str = "") -> Iterator[None]:
    """Errors name the grid file and the cell."""
    try:
        yield
    except ConfigError as e:
        where = [*filter(None, [source]), *([f"cell {cell}"] if cell else [])]
        raise ConfigError(": ".join([*where, str(e)])) from e


def check_name(name: str) -> None:
    """Files are called after it. Raises ConfigError."""
    if (size := len(name.encode())) > LONGEST:
        raise ConfigError(
            f"name must have at most {LONGEST} bytes, with all labels and the seed, got {size}"
        )


def slug(label: str) -> str:
    """What a file and an experiment may be called."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in label).strip("-.") or "-"


def _axis(key: str, value: Any) -> Axis:
    section, known = key.split(".")[0], [f.name for f in fields(Experiment)]
    known = [name for name in known if name not in NO_AXIS]
    if section not in known:
        near = get_close_matches(section, [*HEAD, *known], n=1)
        raise ConfigError(
            f"{key} is not a key of a grid: it has {', '.join(HEAD)}, and axes named after what "
            f"varies: {', '.join(known)}, or a key inside, such as cohort.clients"
            + (f" (did you mean {near[0]}?)" if near else "")
        )
    if isinstance(value, list) and value and not any(isinstance(v, dict | list) for v in value):
        short = "" if key == section else f"{key.split('.')[-1]}="
        return Axis(key, {f"{short}{choice}": choice for choice in value})
    if not isinstance(value, dict) or not value:
        raise ConfigError(f"{key} must be a mapping of labels, or a list of values, got {value!r}")
    return Axis(key, {str(label): choice for label, choice in value.items()})


def _own(base: Path, sections: Sections) -> str:
    """What a base calls itself."""
    return str(sections.get("name", base.stem))


def _case(value: Any, labels: Mapping[str, Sequence[str]]) -> Case:
    found = _mapping(value, "cases")
    where: dict[str, list[str]] = {}
    for key in found.keys() - {"set", "skip"}:
        if key not in labels:
            raise ConfigError(f"cases: {key} is no axis, there are {', '.join(labels)}")
        wanted = found[key] if isinstance(found[key], list) else [found[key]]
        where[key] = [str(label) for label in wanted]
        for label in where[key]:
            if label not in labels[key]:
                raise ConfigError(
                    f"cases: {key} has the labels {', '.join(labels[key])}, got {label}"
                )
    return Case(where, _mapping(found.get("set") or {}, "cases.set"), found.get("skip") is True)


def _bases(value: Any) -> list[str]:
    bases = value if isinstance(value, list) else [value]
    if not bases or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"base must be the path of a config, or several, got {value!r}")
    return bases


def _seeds(value: Any) -> list[int] | None:
    """A number of seeds, from 0 on, or the seeds themselves."""
    if value is None:
        return None
    found = list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value
    whole = isinstance(found, list) and all(type(seed) is int and seed >= 0 for seed in found)
    if not found or not whole:
        raise ConfigError(f"seeds must be a number of seeds or a list of them, got {value!r}")
    return list(found)


def _mapping(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{key} must be a mapping, got {value!r}")
    return {str(name): inner for name, inner in value.items()}


def _list(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise ConfigError(f"{key} must be a list, got {value!r}")
    return value
