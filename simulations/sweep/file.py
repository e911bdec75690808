"""A sweep file: one config, which of its settings vary, and how many trials there are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from fedmeta.config import Experiment, read_mapping
from fedmeta.errors import ConfigError
from fedmeta.objective import score_names
from simulations.apart import within
from simulations.axes import Sections, put
from simulations.grid_file import check_name, slug, told
from simulations.rows import identity
from simulations.sweep.space import Choices, Dimension, Value, dimension, whole
from strategies.opening import open_mapping

HEAD = ("name", "base", "trials", "seeds", "prune", "set", "space")
Values = Mapping[str, Value]
"""By key of the space."""


@dataclass(frozen=True)
class Sweep:
    """A search for the settings that validation clients like most."""

    source: Path
    """The sweep file."""
    name: str
    base: Path
    sections: Sections
    """Of the base, with what the file sets in every trial."""
    space: Mapping[str, Dimension]
    trials: int
    seeds: int = 1
    """Seeds of a trial, from the config's on; its score is their mean."""
    prune: bool = True
    """Whether a hopeless trial is stopped at a validation."""
    overrides: Sequence[str] = ()
    """From the command line, the strongest."""

    @classmethod
    def read(cls, path: Path, overrides: Sequence[str] = ()) -> Self:
        """From its file. Raises ConfigError that names file and key."""
        found = read_mapping(path)
        with told(str(path)):
            _check_head(found)
            given = _mapping(found.get("set") or {}, "set")
            space = {
                key: dimension(key, each) for key, each in _mapping(found["space"], "space").items()
            }
            _check_apart(space, given, overrides)
            base = path.parent / str(found["base"])
            sections: Sections = read_mapping(base)
            for key, value in given.items():
                sections = put(sections, key, value)
            sweep = cls(
                source=path,
                name=slug(str(found.get("name") or path.stem)),
                base=base,
                sections=sections,
                space=space,
                trials=_count(found, "trials"),
                seeds=_count({"seeds": 1} | found, "seeds"),
                prune=_switch({"prune": True} | found, "prune"),
                overrides=tuple(overrides),
            )
            check_name(sweep.name)
            probe = sweep.probe
            return replace(sweep, space={key: _typed(each, probe) for key, each in space.items()})

    @cached_property
    def probe(self) -> Experiment:
        """With the first of all values, or else the last; if neither will do, hardly any would."""
        first, last = ({k: each.ends[i] for k, each in self.space.items()} for i in (0, 1))
        try:
            return self.experiment(first, self.name)
        except ConfigError as e:
            try:
                return self.experiment(last, self.name)
            except ConfigError:
                raise e from None

    @property
    def measure(self) -> str:
        """``accuracy``, the higher the better, or ``loss``."""
        return "accuracy" if "accuracy" in score_names(self.probe.data.objective) else "loss"

    @property
    def identity(self) -> dict[str, Any]:
        """What a sweep must have in common with one whose trials it goes on with."""
        space = {key: repr(each) for key, each in self.space.items()}
        return {"base": identity(self.probe), "space": space, "seeds": self.seeds}

    def experiment(self, values: Values, name: str, seed: int | None = None) -> Experiment:
        """A trial. Raises ConfigError where the values do not fit together."""
        sections = self.sections
        for key in sorted(self.space, key=lambda key: key.count(".")):  # a section before its keys
            sections = self.space[key].apply(sections, values[key])
        more = [] if seed is None else [f"seed={seed}"]
        named = {**sections, "name": name}
        return open_mapping(named, [*self.overrides, *more], str(self.base))


def _typed(found: Dimension, probe: Experiment) -> Dimension:
    """The setting itself says whether it takes whole numbers."""
    if isinstance(found, Choices):
        return found
    example: Any = probe.sections
    for part in found.key.split("."):
        example = example[part]
    return replace(found, whole=whole(found, example))


def _check_head(found: Mapping[str, Any]) -> None:
    for key in found:
        if key not in HEAD:
            raise ConfigError(f"{key} is not a key of a sweep: it has {', '.join(HEAD)}")
    for key in ("base", "trials", "space"):
        if not found.get(key):
            raise ConfigError(f"{key} must be set, got {found.get(key)!r}")
    if not isinstance(found["base"], str):
        raise ConfigError(f"base must be the path of a config, got {found['base']!r}")


def _check_apart(space: Mapping[str, Any], given: Sections, overrides: Sequence[str]) -> None:
    """Nothing that varies may be set as well. What is set around it comes first, so that may stand."""
    words = [override.partition("=")[0] for override in overrides]
    for key in space:
        inside = [f"set {other}" for other in given if within(other, key)]
        inside += [f"override {o}" for o in words if within(o, key) or within(key, o)]
        if inside:
            raise ConfigError(f"space.{key} varies, so {inside[0]} cannot stand beside it")


def _mapping(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{key} must be a mapping, got {value!r}")
    return {str(name): inner for name, inner in value.items()}


def _count(found: Mapping[str, Any], key: str) -> int:
    value = found[key]
    if type(value) is not int or value < 1:
        raise ConfigError(f"{key} must be a whole number of 1 or more, got {value!r}")
    return value


def _switch(found: Mapping[str, Any], key: str) -> bool:
    value = found[key]
    if type(value) is not bool:
        raise ConfigError(f"{key} must be true or false, got {value!r}")
    return value
