"""A grid file: which cells it makes, what stands in them, and what it says of mistakes."""

import re
from collections.abc import Sequence
from math import prod
from pathlib import Path

import pytest

from fedmeta.config import read_mapping
from fedmeta.errors import ConfigError
from simulations.axes import Axis, named, put
from simulations.cells import Cell
from simulations.grid_file import Grid
from simulations.plan import cells_of
from tests.simulations.conftest import CONFIGS

BASE = """
name: base
seed: 4
rounds: 9
data: {name: sinusoid, shots: 10, queries: 10, examples: 40, clients: {train: 40, val: 10, test: 20}}
model: {name: mlp, hidden: [40]}
learner: {name: maml, order: 2, inner_lr: 0.01, inner_steps: 1}
strategy: {name: fedadam, lr: 0.003, tau: 1e-8, weighting: uniform}
cohort: {clients: 5}
evaluation: {every: 3, steps: 2, clients: 4}
"""
GRID = """
name: tuned
base: base.yaml
seeds: 2
set: {rounds: 5, evaluation.every: 5}
learner:
  maml: {name: maml, inner_lr: 0.02, inner_steps: 1}
  reptile: {name: reptile, inner_lr: 0.02, inner_steps: 3, batch_size: 5}
strategy:
  adam: {name: fedadam, lr: 0.001}
  avg: {name: fedavg}
cases:
  - {learner: reptile, strategy: avg, set: {strategy.lr: 0.5}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path


def cells(
    folder: Path, text: str, *overrides: str, seeds: Sequence[int] | None = None
) -> list[Cell]:
    (folder / "grid.yaml").write_text(text)
    return cells_of([Grid.read(folder / "grid.yaml")], overrides, seeds, False, folder / "out")


def test_every_label_meets_every_other_with_every_seed(folder: Path) -> None:
    found = cells(folder, GRID)
    assert [cell.name for cell in found] == [
        f"tuned-{learner}-{strategy}-{seed}"
        for learner in ("maml", "reptile")
        for strategy in ("adam", "avg")
        for seed in (0, 1)
    ]
    first = found[0]
    assert first.place.name == "maml · adam"
    assert first.place.labels == {"learner": "maml", "strategy": "adam"}
    assert first.place.config == (folder / "base.yaml").as_posix()
    assert first.folder == folder / "out" / "runs" / "tuned-maml-adam-0"


def test_a_section_replaces_the_bases_then_come_set_cases_and_overrides(folder: Path) -> None:
    found = {
        cell.name: cell.experiment.sections for cell in cells(folder, GRID, "cohort.clients=3")
    }
    adam, tuned = found["tuned-maml-adam-1"], found["tuned-reptile-avg-1"]
    assert (adam["rounds"], adam["evaluation"]["every"], adam["cohort"]["clients"]) == (5, 5, 3)
    assert (adam["strategy"]["lr"], adam["strategy"]["tau"]) == (0.001, 1e-3)  # tau is the default
    assert adam["strategy"]["weighting"] == "examples"
    assert tuned["strategy"]["lr"] == 0.5
    assert found["tuned-maml-avg-1"]["strategy"]["lr"] == 1.0
    assert tuned["model"] == adam["model"]
    assert [adam["seed"], tuned["name"]] == [1, "tuned-reptile-avg"]


def test_seeds_are_those_of_the_call_else_of_the_grid_else_of_the_base(folder: Path) -> None:
    def seeds(text: str, given: list[int] | None = None) -> list[int]:
        return [cell.experiment.seed for cell in cells(folder, text, seeds=given)]

    assert seeds("{base: base.yaml, seeds: [7, 3]}") == [7, 3]
    assert seeds("{base: base.yaml, seeds: [7, 3]}", [5]) == [5]
    assert seeds("{base: base.yaml}") == [4]


def test_a_seed_that_the_config_looks_at_is_looked_at(folder: Path) -> None:
    (folder / "base.yaml").write_text(BASE.replace("rounds: 9", "rounds: ${seed}"))
    assert [c.experiment.rounds for c in cells(folder, "{base: base.yaml, seeds: [5, 8]}")] == [
        5,
        8,
    ]


def test_any_key_can_vary_and_a_list_labels_itself(folder: Path) -> None:
    text = """
base: base.yaml
cohort.clients: [2, 4]
learner.inner_lr: {slow: 0.01, fast: 0.1}
learner: [maml, fomaml]
"""
    found = cells(folder, text)
    assert len(found) == 8
    last = found[-1]
    assert last.place.name == "clients=4 · fast · fomaml"
    assert last.name == "grid-clients-4-fast-fomaml-4"
    learner = last.experiment.sections["learner"]  # the rate comes after the section it stands in
    assert (learner["name"], learner["inner_lr"]) == ("fomaml", 0.1)
    assert last.experiment.cohort.clients == 4


def test_an_axis_of_one_label_makes_no_name_and_null_is_the_base(folder: Path) -> None:
    text = "{name: x, base: base.yaml, learner: {maml: }, strategy: {own: , avg: {name: fedavg}}}"
    own, avg = cells(folder, text)
    assert (own.place.name, avg.place.name) == ("own", "avg")
    assert own.place.labels == {"learner": "maml", "strategy": "own"}
    base = read_mapping(folder / "base.yaml")
    assert own.experiment.sections["strategy"]["tau"] == base["strategy"]["tau"] == 1e-8
    (alone,) = cells(folder, "{base: base.yaml, learner: {maml: }}")
    assert (alone.name, alone.place.name) == ("grid-4", "grid")


def test_several_bases_are_an_axis(folder: Path) -> None:
    (folder / "other.yaml").write_text(BASE.replace("name: base", "name: other"))
    text = "{name: two, base: [base.yaml, other.yaml], strategy: {avg: fedavg, adam: fedadam}}"
    found = cells(folder, text)
    assert [cell.place.name for cell in found] == [
        "base · avg", "base · adam", "other · avg", "other · adam",
    ]  # fmt: skip
    assert found[2].name == "two-other-avg-4"
    assert found[2].place.labels == {"base": "other", "strategy": "avg"}


def test_cases_can_skip(folder: Path) -> None:
    text = GRID + "  - {learner: [maml, reptile], strategy: adam, skip: true}\n"
    assert [c.name for c in cells(folder, text, seeds=[0])] == [
        "tuned-maml-avg-0",
        "tuned-reptile-avg-0",
    ]


def test_cases_can_name_a_base(folder: Path) -> None:
    (folder / "other.yaml").write_text(BASE.replace("name: base", "name: other"))
    text = """
base: [base.yaml, other.yaml]
name: two
strategy: {adam: fedadam, avg: {name: fedavg, lr: 0.1}}
cases:
  - {base: other, strategy: avg, set: {strategy.lr: 0.3}}
  - {base: other, strategy: adam, skip: true}
"""
    found = cells(folder, text, seeds=[0])
    assert [c.name for c in found] == ["two-base-adam-0", "two-base-avg-0", "two-other-avg-0"]
    assert [c.experiment.sections["strategy"].get("lr") for c in found[1:]] == [0.1, 0.3]


def test_configs_side_by_side_stay_as_they_are() -> None:
    quickstart = CONFIGS / "quickstart.yaml"
    (cell,) = cells_of([Grid.read(quickstart)], [], None, False, Path("out"))
    assert (cell.name, cell.place.name, cell.place.labels) == ("quickstart-0", "quickstart", {})


def test_names_of_strategies_make_a_grid_of_a_config(folder: Path) -> None:
    axis = Axis("strategy", {name: name for name in ("fedadam", "fedyogi", "fedavg")})
    found = cells_of([Grid([folder / "base.yaml"], [axis])], [], [0], False, folder)
    assert [cell.name for cell in found] == ["base-fedadam-0", "base-fedyogi-0", "base-fedavg-0"]
    adam, yogi, avg = (cell.experiment.sections["strategy"] for cell in found)
    assert adam["tau"] == yogi["tau"] == 1e-8  # settings of the same name go along
    assert yogi["lr"] == 0.003  # an adaptive rate to an adaptive strategy
    assert avg["lr"] == 1.0  # but not to one that steps by the delta: its default
    assert [each["weighting"] for each in (adam, yogi, avg)] == ["uniform"] * 3


def test_a_rate_that_none_has_must_be_given() -> None:
    base = {"name": "fedavg", "lr": 0.7, "weighting": "uniform"}
    kept = named("strategy", "fedavgm", base)
    assert kept == {"name": "fedavgm", "lr": 0.7, "weighting": "uniform"}
    with pytest.raises(ConfigError, match=r"strategy\.lr: fedadam steps otherwise than fedavg"):
        named("strategy", "fedadam", base)


def test_what_makes_a_component_another_stays_behind() -> None:
    """The defaults differ: FOMAML is MAML of order 1, ``uniform`` is fedavg with equal weights."""
    maml = {"name": "maml", "order": 2, "inner_lr": 0.4, "inner_steps": 1, "episodes": 2}
    kept = {"inner_lr": 0.4, "inner_steps": 1, "episodes": 2}
    assert named("learner", "fomaml", maml) == {"name": "fomaml"} | kept
    fedavg = {"name": "fedavg", "lr": 0.5, "weighting": "examples"}
    assert named("strategy", "uniform", fedavg) == {"name": "uniform", "lr": 0.5}
    assert named("strategy", "fedavg", fedavg) == fedavg


def test_put_leaves_the_original_alone_and_says_where_a_key_ends() -> None:
    before = {"a": {"b": 1}, "c": None}
    assert put(before, "a.b", 2) == {"a": {"b": 2}, "c": None}
    assert put(before, "c.d", [3]) == {"a": {"b": 1}, "c": {"d": [3]}}
    assert before == {"a": {"b": 1}, "c": None}
    with pytest.raises(ConfigError, match=r"a\.b\.c: b is no section, it is 1"):
        put(before, "a.b.c", 2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("learnr: {a: maml}", "learnr is not a key of a grid.*did you mean learner"),
        ("seeds: -1", "seeds must be a number of seeds or a list of them, got -1"),
        ("seeds: [0, a]", "seeds must be a number of seeds or a list"),
        ("strategy: fedavg", "strategy must be a mapping of labels, or a list of values"),
        ("strategy: [{name: fedavg}]", "strategy must be a mapping of labels, or a list of values"),
        ("set: [1]", r"set must be a mapping, got \[1\]"),
        ("cases: {learner: a}", "cases must be a list"),
        ("cases: [{learner: maml}]", "cases: learner is no axis, there are"),
        ("cases: [{base: other}]", "cases: base has the labels base, got other"),
        ("strategy: {a: fedavg}\ncases: [{strategy: b}]", "cases: strategy has the labels a, got b"),
        ("base: 3", "base must be the path of a config, or several, got 3"),
    ],
)  # fmt: skip
def test_a_grid_that_is_none_is_refused_with_its_path(
    folder: Path, line: str, message: str
) -> None:
    text = line if line.startswith("base") else f"base: base.yaml\n{line}"
    with pytest.raises(ConfigError, match=rf"grid\.yaml: {message}"):
        cells(folder, text)


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (
            "{name: maml, inner_lr: -1, inner_steps: 1}",
            r"cell bad · avg: learner\.inner_lr must be a finite number",
        ),
        ("{name: mamel}", r"cell bad · avg: learner\.name must be one of.*did you mean maml"),
        (
            "{name: maml, inner_lr: 0.1, inner_steps: 1, steps: 2}",
            r"cell bad · avg: learner\.steps is not a setting",
        ),
    ],
)
def test_a_mistake_in_a_cell_names_file_and_cell(folder: Path, learner: str, message: str) -> None:
    text = f"""
base: base.yaml
learner: {{good: {{name: maml, inner_lr: 0.1, inner_steps: 1}}, bad: {learner}}}
strategy: {{avg: {{name: fedavg}}, adam: {{name: fedadam, lr: 0.1}}}}
"""
    with pytest.raises(ConfigError, match=rf"grid\.yaml: {message}"):
        cells(folder, text)


AXES = """
name: varied
base: base.yaml
seeds: [0]
cohort.clients: [2, 4]
strategy: {slow: {name: fedadam, lr: 0.001}, fast: {name: fedadam, lr: 0.01}}
learner: [maml, fomaml]
"""


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("cohort.clients=3", "cohort.clients"),
        ("cohort={clients: 3}", "cohort.clients"),
        ("strategy.lr=0.1", "strategy"),
        ("strategy.name=fedyogi", "strategy"),
        ("strategy={lr: 0.1}", "strategy"),
        ("learner.name=reptile", "learner"),
        ("seed=7", "seed"),
    ],
)
def test_what_varies_can_neither_be_overridden_nor_set(
    folder: Path, override: str, key: str
) -> None:
    """Else cells would be called after values that none of them has."""
    message = rf"grid\.yaml: the grid gives every cell its {re.escape(key)}, so "
    with pytest.raises(ConfigError, match=message + re.escape(f"override {override} cannot stand")):
        cells(folder, AXES, override)
    word, _, value = override.partition("=")
    for way, text in (("set", f"set: {{{word}: {value}}}"),
                      ("cases.set", f"cases: [{{base: base, set: {{{word}: {value}}}}}]")):  # fmt: skip
        with pytest.raises(ConfigError, match=message + re.escape(f"{way} {word} cannot stand")):
            cells(folder, f"{AXES}{text}\n")


def test_what_labels_do_not_tell_apart_can_be_overridden_and_set(folder: Path) -> None:
    """The rate of the base is not what makes MAML and FOMAML two, nor tau two rates of Adam."""
    words = ("learner.inner_lr=0.3", "strategy.tau=0.1", "cohort.min_replies=1")
    given = ", ".join(word.replace("=", ": ") for word in words)
    for found in (cells(folder, AXES, *words), cells(folder, f"{AXES}set: {{{given}}}\n")):
        sections = [cell.experiment.sections for cell in found]
        assert {each["learner"]["inner_lr"] for each in sections} == {0.3}
        assert {each["strategy"]["tau"] for each in sections} == {0.1}
        assert sorted({(s["cohort"]["clients"], s["strategy"]["lr"]) for s in sections}) == [
            (2, 0.001), (2, 0.01), (4, 0.001), (4, 0.01),
        ]  # fmt: skip


def test_a_case_may_correct_the_labels_that_it_names(folder: Path) -> None:
    text = f"{AXES}cases: [{{strategy: fast, set: {{strategy.lr: 0.02}}}}]\n"
    rates = {
        cell.place.labels["strategy"]: cell.experiment.strategy.lr for cell in cells(folder, text)
    }
    assert rates == {"slow": 0.001, "fast": 0.02}


def test_rounds_that_vary_are_not_those_of_a_paper(folder: Path) -> None:
    (folder / "grid.yaml").write_text("{base: base.yaml, rounds: [5, 6]}")
    with pytest.raises(ConfigError, match="every cell its rounds, so --full cannot stand"):
        cells_of([Grid.read(folder / "grid.yaml")], [], None, True, folder)


def test_a_grid_without_a_cell_is_refused(folder: Path) -> None:
    text = "{base: base.yaml, learner: [maml], cases: [{learner: maml, skip: true}]}"
    with pytest.raises(ConfigError, match=r"grid\.yaml: cases must leave a cell to run"):
        cells(folder, text)


@pytest.mark.parametrize("letter", ["x", "é"])
def test_names_are_as_long_as_files_may_be_called(folder: Path, letter: str) -> None:
    """``grid-LABEL-4``: 200 bytes at most."""
    size = len(letter.encode())
    for label, fits in ((letter * (193 // size), True), (letter * (193 // size + 1), False)):
        text = f"{{base: base.yaml, rounds: {{{label}: 5, b: 6}}}}"
        if fits:
            assert len(cells(folder, text)[0].name.encode()) in (199, 200)
        else:
            with pytest.raises(
                ConfigError, match=rf"cell {label}: name must have at most 200 bytes"
            ):
                cells(folder, text)


SHIPPED = [
    path
    for path in sorted(CONFIGS.rglob("*.yaml"))
    if "base" in (found := read_mapping(path)) and "space" not in found
]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_grid_can_be_planned(path: Path, tmp_path: Path) -> None:
    grid = Grid.read(path)
    combined = len(grid.bases) * prod(len(axis.choices) for axis in grid.axes)
    found = cells_of([grid], [], [0], False, tmp_path)
    assert 0 < len(found) <= combined
    assert len(found) == combined or any(case.skip for case in grid.cases)
    assert len({cell.place.name for cell in found}) == len(found)


def test_a_base_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot read the config"):
        cells(folder, "base: nowhere.yaml")
