"""``--against LABEL``: a baseline differs by that label alone, whatever is reported beside it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedmeta.errors import ConfigError
from simulations.cli import app
from simulations.report.baselines import with_baseline
from simulations.report.contenders import Problem, problems
from simulations.report.pairwise import comparisons
from tests.simulations.report_rows import Row, row

SEEDS = range(2)


def cells(name: str, labels: Mapping[str, str], **sections: Any) -> list[Row]:
    """The seeds of a contender; two of other sections are two settings."""
    found = []
    for seed in SEEDS:
        each = row(name, seed)
        own = {"learner": {"name": "maml"}, "strategy": {"name": name, "lr": 0.1}, "rounds": 100}
        each |= {"labels": dict(labels), "sections": own | sections, "published": {}}
        each |= {"setting": json.dumps([labels, sections]), "rounds": each["sections"]["rounds"]}
        found.append(each)
    return found


def of_strategy(name: str, **sections: Any) -> list[Row]:
    return cells(name, {"strategy": name}, **sections)


def problem(*groups: list[Row]) -> Problem:
    (found,) = problems([row for group in groups for row in group])
    return found


BOTH = [of_strategy(name, rounds=rounds) for rounds in (100, 1000) for name in ("adam", "avg")]


@pytest.mark.parametrize("order", [BOTH, BOTH[::-1]], ids=["short first", "long first"])
def test_of_two_comparisons_each_meets_the_baseline_of_its_own_rounds(
    order: list[list[Row]],
) -> None:
    assert sorted(with_baseline(problem(*order), "adam")) == [
        ("avg rounds=100", "adam rounds=100"),
        ("avg rounds=1000", "adam rounds=1000"),
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"evaluation": {"select": "best"}}, {"evaluation": {"select": "last"}}),
        ({"evaluation": {"every": 10}}, {"evaluation": {"every": 20}}),
        ({"cohort": {"clients": 5}}, {"cohort": {"clients": 50}}),
        ({"model": {"width": 8}, "rounds": 9}, {"model": {"width": 4}, "rounds": 8}),
        ({"learner": {"inner_lr": 1}}, {"learner": {"inner_lr": 2}}),
    ],
)
def test_so_do_comparisons_that_differ_in_anything_else(one: Row, other: Row) -> None:
    found = problem(
        *(of_strategy(name, **each) for name in ("adam", "avg", "krum") for each in (one, other))
    )
    own = {contender.name: contender.sections for contender in found.contenders}
    pairs = with_baseline(found, "adam")
    assert len(pairs) == 4
    for contender, baseline in pairs:
        assert baseline.startswith("adam ")
        assert own[contender] | {"strategy": None} == own[baseline] | {"strategy": None}


def test_who_has_no_baseline_of_its_rounds_is_named_and_compared_with_none() -> None:
    """Adam's long run failed; Krum was run long only."""
    short, long = BOTH[:2], [BOTH[3], of_strategy("krum", rounds=1000)]
    found = problem(*short, *long)
    pairs, said = comparisons(found, "adam")
    assert [(pair.a, pair.b) for pair in pairs] == [("avg rounds=100", "adam")]
    begin = "Not compared, since no adam has their other labels and settings: "
    assert set(said.removeprefix(begin).removesuffix(".").split(", ")) == {
        "avg rounds=1000", "krum",
    }  # fmt: skip
    assert comparisons(problem(*BOTH), "adam")[1] == ""
    apart = problem(BOTH[0], of_strategy("krum", rounds=1000))
    assert comparisons(apart, "adam") == (
        [],
        "No contender differs from another by adam alone: nothing to compare.",
    )


def test_two_baselines_that_fit_alike_are_an_error_that_names_them() -> None:
    """The rate is of the axis, so nothing else tells which of the two Averaging was to meet."""
    slow, fast = (of_strategy("adam", strategy={"name": "adam", "lr": lr}) for lr in (1, 2))
    found = problem(slow, fast, of_strategy("avg"))
    with pytest.raises(
        ConfigError,
        match=r"^--against adam could mean adam strategy\.lr=1 or adam strategy\.lr=2 for avg; ",
    ):
        with_baseline(found, "adam")
    assert with_baseline(found, "adam strategy.lr=2") == [
        ("adam strategy.lr=1", "adam strategy.lr=2"),
        ("avg", "adam strategy.lr=2"),
    ]


@pytest.mark.parametrize("ending", ["html", "md", "png"])
def test_the_command_ends_with_one_line_where_it_cannot_choose(tmp_path: Path, ending: str) -> None:
    slow, fast = (of_strategy("adam", strategy={"name": "adam", "lr": lr}) for lr in (1, 2))
    for i, each in enumerate([*slow, *fast, *of_strategy("avg")]):
        (tmp_path / f"{i}.json").write_text(json.dumps(each))
    out = tmp_path / f"report.{ending}"
    files = map(str, tmp_path.glob("*.json"))
    done = CliRunner().invoke(app, ["report", *files, "--against", "adam", "--out", str(out)])
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert "adam strategy.lr=1" in done.stderr
    assert "adam strategy.lr=2" in done.stderr
    assert not out.exists()


def test_what_a_grid_sets_for_some_of_its_labels_is_no_other_comparison() -> None:
    """Cases correct rates inside an axis; bases have rounds of their own."""
    tuned = problem(
        *(
            cells(
                f"{learner} · {strategy}",
                {"learner": learner, "strategy": strategy},
                learner={"name": learner},
                strategy={"name": strategy, "lr": lr},
            )
            for learner, strategy, lr in (("maml", "avg", 1), ("reptile", "avg", 2))
        )
    )
    assert with_baseline(tuned, "maml") == [("reptile", "maml")]
    bases = problem(
        *(
            cells(f"{base} · avg", {"base": base, "strategy": "avg"}, rounds=rounds)
            for base, rounds in (("pooled", 100), ("alphabet", 200))
        )
    )
    assert with_baseline(bases, "pooled") == [("alphabet", "pooled")]


def test_with_rates_of_cases_the_nearest_is_the_baseline() -> None:
    """Two comparisons with another inner rate; in both Reptile's server rate is a case."""
    found = problem(
        *(
            cells(
                f"{learner} · {strategy}",
                {"learner": learner, "strategy": strategy},
                learner={"name": learner, "inner_lr": inner},
                strategy={"name": strategy, "lr": 2 if learner == "reptile" else 1},
            )
            for inner in (0.1, 0.4)
            for learner in ("maml", "reptile")
            for strategy in ("adam", "avg")
        )
    )
    pairs = with_baseline(found, "adam")
    assert len(pairs) == 4
    for contender, baseline in pairs:
        assert baseline == contender.replace("avg", "adam")


def test_a_run_that_stands_alone_meets_the_contender_of_that_name() -> None:
    mine = cells("mine", {}, rounds=7)
    found = problem(BOTH[0], BOTH[1], mine)
    assert sorted(with_baseline(found, "adam")) == [("avg", "adam"), ("mine", "adam")]
    assert comparisons(found, "adam")[1] == ""
