"""Reading an experiment: one flat YAML and dot-list overrides become frozen components.

A component is a frozen dataclass that is its own schema, so what can be set is what stands in it.
The only module that imports omegaconf.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from fedmeta.data import DATASETS
from fedmeta.data.federation import Dataset
from fedmeta.errors import ConfigError
from fedmeta.learners import LEARNERS, Learner
from fedmeta.models import MODELS, Model
from fedmeta.plugins import load_plugins
from fedmeta.settings import (
    AttackSettings,
    CohortSettings,
    DeviceSettings,
    EngineSettings,
    EvaluationSettings,
    PublishedSettings,
    TrackingSettings,
    WireSettings,
)

Table = Mapping[str, type[Any]]
Component = TypeVar("Component")


@dataclass(frozen=True)
class Experiment:
    """All of an experiment. ``sections`` is the plain mapping that rebuilds it, defaults included."""

    name: str
    seed: int
    rounds: int
    start: str | None
    """File of params to begin with, such as another run's ``params.safetensors``."""
    data: Dataset
    model: Model
    learner: Learner
    strategy: Any
    """A component where the reader knows the strategies (a server), else a plain mapping (a client)."""
    cohort: CohortSettings
    wire: WireSettings
    devices: DeviceSettings
    attack: AttackSettings
    engine: EngineSettings
    evaluation: EvaluationSettings
    tracking: TrackingSettings
    published: PublishedSettings
    sections: dict[str, Any]

    def __post_init__(self) -> None:
        if self.wire.deltas != "exact" and self.cohort.replies == "sum":
            raise ConfigError(
                f"wire.deltas: {self.wire.deltas} rounds the delta of every client, so "
                "cohort.replies must be auto or each, got sum"
            )
        if self.attack.on_deltas and (self.cohort.replies == "sum" or self.wire.deltas != "exact"):
            sent = f"{self.cohort.replies} and {self.wire.deltas}"
            raise ConfigError(
                f"attack.name: {self.attack.name} changes the delta of a client, so cohort.replies "
                f"must be auto or each and wire.deltas exact, got {sent}"
            )

    def to_yaml(self) -> str:
        """The resolved config as text."""
        return OmegaConf.to_yaml(OmegaConf.create(self.sections))


def load(path: Path, overrides: Sequence[str] = (), strategies: Table | None = None) -> Experiment:
    """The experiment in a YAML file, with ``key.sub=value`` overrides applied last."""
    return parse(_text(path), overrides, strategies, str(path))


def read_mapping(path: Path) -> dict[str, Any]:
    """What stands in a YAML file, with its interpolations as they are. Raises ConfigError."""
    found = OmegaConf.to_container(_mapping(_text(path), str(path)), resolve=False)
    return {str(key): value for key, value in cast(dict[Any, Any], found).items()}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as e:
        raise ConfigError(f"{path}: cannot read the config ({e.strerror or e})") from e
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path}: is not a text file ({e})") from e


def _mapping(text: str | Mapping[str, Any], source: str) -> DictConfig:
    try:
        found = OmegaConf.create(text if isinstance(text, str) else dict(text))
    except (YAMLError, OmegaConfBaseException) as e:
        raise ConfigError(f"{source}: {_one_line(e)}") from e
    except AssertionError:  # of YAML that is a bare number
        found = None
    if not isinstance(found, DictConfig):
        raise ConfigError(f"{source}: expected sections such as learner:, got {_one_line(text)!r}")
    return found


def parse(
    text: str | Mapping[str, Any],
    overrides: Sequence[str] = (),
    strategies: Table | None = None,
    source: str = "config",
    resolved: bool = False,
) -> Experiment:
    """The experiment in a YAML text, or in the mapping that it says.

    One that says it is ``resolved`` may hold no interpolation.
    """
    for override in overrides:
        key, equals, value = override.partition("=")
        if not key or not equals or value == "???":  # OmegaConf drops a missing value in silence
            raise ConfigError(f"an override must be key=value, got {override!r}")
    merged = _mapping(text, source)
    for override in overrides:
        try:
            merged.merge_with(OmegaConf.from_dotlist([override]))
        except (YAMLError, OmegaConfBaseException, TypeError) as e:
            raise ConfigError(f"override {override!r}: {_one_line(e)}") from e
    if resolved and _interpolated(OmegaConf.to_container(merged, resolve=False)):
        raise ConfigError(f"{source}: must be resolved, it has an interpolation")
    try:
        sections = cast(dict[Any, Any], OmegaConf.to_container(merged, resolve=True))
    except OmegaConfBaseException as e:
        raise ConfigError(f"{e.full_key or source}: {_one_line(e)}") from e
    return build({str(key): value for key, value in sections.items()}, strategies)


def _interpolated(value: Any) -> bool:
    """Whether any text in a nest would make OmegaConf look elsewhere, such as in the environment."""
    if isinstance(value, dict):
        return any(map(_interpolated, [*value, *value.values()]))
    if isinstance(value, list):
        return any(map(_interpolated, value))
    return isinstance(value, str) and "${" in value


def build(sections: dict[str, Any], strategies: Table | None = None) -> Experiment:
    """The experiment of a plain mapping."""
    load_plugins()
    named: dict[str, Table | None] = {
        "data": DATASETS, "model": MODELS, "learner": LEARNERS, "strategy": strategies,
    }  # fmt: skip
    plain: Table = {
        "cohort": CohortSettings, "engine": EngineSettings,
        "evaluation": EvaluationSettings, "tracking": TrackingSettings,
        "published": PublishedSettings, "wire": WireSettings, "devices": DeviceSettings,
        "attack": AttackSettings,
    }  # fmt: skip
    _known(sections, ["name", "seed", "rounds", "start", *named, *plain], "")
    head = _fill(_Head, {k: v for k, v in sections.items() if k in _HEAD_KEYS}, "")
    parts: dict[str, Any] = {}
    built: dict[str, Any] = asdict(head)
    for key, table in named.items():
        section = _section(sections, key)
        parts[key] = section if table is None else choose(table, section, key)
        name = {"name": section.get("name")}
        built[key] = section if table is None else name | asdict(parts[key])
    for key, kind in plain.items():
        parts[key] = _fill(kind, _section(sections, key, optional=True), key)
        built[key] = asdict(parts[key])
    _as_written(sections, parts["attack"])
    return Experiment(**asdict(head), **parts, sections=built)


def _as_written(sections: Mapping[str, Any], attack: AttackSettings) -> None:
    """What a config must say, though a default other than 0 would refuse old checkpoints."""
    if attack.name != "none" and "fraction" not in sections["attack"]:
        raise ConfigError(f"attack.fraction must be set for {attack.name}, 0 for nobody; got none")


def choose(
    table: Mapping[str, type[Component]], section: Mapping[str, Any], where: str
) -> Component:
    """The component that a section names, filled with the section's other keys."""
    name = section.get("name")
    if not isinstance(name, str) or name not in table:
        raise ConfigError(
            f"{where}.name must be one of {', '.join(sorted(table))}, got {name!r}"
            + _nearest(str(name), table)
        )
    settings = {key: value for key, value in section.items() if key != "name"}
    return _fill(table[name], settings, where)


@dataclass(frozen=True)
class _Head:
    name: str
    rounds: int
    seed: int = 0
    start: str | None = None

    def __post_init__(self) -> None:
        if (
            not self.name
            or not all(c.isalnum() or c in "-_." for c in self.name)
            or self.name[0] == "."
        ):
            raise ConfigError(f"name must be letters, digits, '-', '_' and '.', got {self.name!r}")
        for key, least in (("rounds", 1), ("seed", 0)):
            if (value := getattr(self, key)) < least:
                raise ConfigError(f"{key} must be {least} or more, got {value!r}")
        if self.seed >= 2**63:  # addresses have 64 bits: 2**64 would draw what 0 draws
            raise ConfigError(f"seed must be below 2**63, got {self.seed!r}")


_HEAD_KEYS = [field.name for field in fields(_Head)]


def _section(sections: dict[str, Any], key: str, optional: bool = False) -> dict[str, Any]:
    section = sections.get(key, {} if optional else None)
    if not isinstance(section, dict):
        raise ConfigError(f"{key} must be a section of settings, got {section!r}")
    return section


def _fill(kind: type[Component], settings: Mapping[str, Any], where: str) -> Component:
    """An instance of a dataclass, with types checked and messages that carry the full key."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    _known(settings, names, where)
    prefix = f"{where}." if where else ""
    _containers(kind, settings, prefix)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), dict(settings))
        return cast(Component, OmegaConf.to_object(merged))
    except ConfigKeyError as e:
        inside = list(cast(DictConfig, e.parent_node).keys()) if e.parent_node is not None else []
        parent, _, key = str(e.full_key).rpartition(".")
        _known({key: None}, [str(name) for name in inside], f"{prefix}{parent}")
        raise
    except MissingMandatoryValue as e:
        raise ConfigError(f"{prefix}{e.full_key} must be set: it has no default") from e
    except OmegaConfBaseException as e:
        raise ConfigError(f"{prefix}{e.full_key or ''}".rstrip(".") + f": {_one_line(e)}") from e


def _containers(kind: type[Any], settings: Mapping[str, Any], prefix: str) -> None:
    """Sections, lists and what is in lists must be such. OmegaConf names neither key nor value."""
    for key, hint in get_type_hints(kind).items():
        if key in settings:
            _container(hint, settings[key], f"{prefix}{key}")


def _container(hint: Any, value: Any, key: str) -> None:
    if is_dataclass(hint) or get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{key} must be a section of settings, got {value!r}")
        if is_dataclass(hint):
            _containers(cast(type[Any], hint), value, f"{key}.")
    elif get_origin(hint) is list:
        if not isinstance(value, list):
            raise ConfigError(f"{key} must be a list, got {value!r}")
        for number, each in enumerate(value):
            _container(get_args(hint)[0], each, f"{key}[{number}]")
    elif hint in (bool, int, float, str) and isinstance(value, dict | list):
        raise ConfigError(f"{key} must be a single value, got {value!r}")


def _known(settings: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    for key in settings:
        if key not in names:
            full = f"{where}.{key}" if where else key
            raise ConfigError(
                f"{full} is not a setting; {where or 'an experiment'} has {', '.join(names)}"
                + _nearest(str(key), names)
            )


def _nearest(word: str, names: Sequence[str] | Mapping[str, Any]) -> str:
    near = get_close_matches(word, list(names), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _one_line(what: object) -> str:
    return " ".join(str(what).split("\n    full_key")[0].split())
