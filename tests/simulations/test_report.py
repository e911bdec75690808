"""``fedmeta report``: every number follows from the rows, and only from those of its problem."""

import csv
import json
import math
import re
import tomllib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from io import StringIO
from itertools import combinations
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

from simulations.cli import app
from simulations.report.baselines import with_baseline
from simulations.report.charts import Frame, Line, line_chart, reach
from simulations.report.clients_csv import clients_csv
from simulations.report.contenders import problems
from simulations.report.costs import usual_target
from simulations.report.looks import COLOURS, DARK_COLOURS, DARK_PAPER, PAPER, Look
from simulations.report.made import made, title
from simulations.report.markdown import markdown_page
from simulations.report.page import page
from simulations.report.pairwise import comparisons
from simulations.report.picture import draw, picture
from simulations.report.scales import Scale, client_scale, score_scale
from simulations.report.section import section
from simulations.report.settings import differing
from simulations.run import run
from tests.simulations.conftest import small
from tests.simulations.report_rows import Row, failed, row

SKILLS = {"fedadam": 0.8, "fedavg": 0.75, "krum": 0.6}
SEEDS = range(3)
EVIL = '"><img src=x onerror=alert(1)><script>alert(2)</script>'


def contest(problem: str = "omniglot", **more: Any) -> list[Row]:
    """Three contenders of three seeds; what a seed is worth differs a little between contenders.

    One client of each cell gains nothing from adaptation.
    """
    rows = [
        row(name, seed, skill + 0.01 * ((seed + i) % 3), problem=problem, **more)
        for i, (name, skill) in enumerate(SKILLS.items())
        for seed in SEEDS
    ]
    for each in rows:
        scores = each["test_clients"]
        scores["before"]["accuracy"][0] = scores["after"]["accuracy"][0]
    return rows


def html(rows: Sequence[Row], target: float | None = None, against: str | None = None) -> str:
    found = problems(rows)
    sections = [section(problem, target, against) for problem in found]
    return page(title(found), sections, made(found))


class Parsed(HTMLParser):
    """Tables by the heading before them, in the section of each problem; tags, addresses, texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.sections: dict[str, dict[str, list[list[str]]]] = {}
        self.texts: list[str] = []
        self._collected: str | None = None
        self._title = self._heading = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [str(v) for k, v in attrs if k in ("src", "href", "action", "data")]
        self.handlers += [k for k, _ in attrs if k.startswith("on")]
        if tag in ("h2", "h3", "th", "td"):
            self._collected = ""
        if tag == "tr":
            self.sections[self._title].setdefault(self._heading, []).append([])

    def handle_endtag(self, tag: str) -> None:
        if tag == "h2":
            self._title = self._collected or ""
            self.sections[self._title] = {}
        elif tag == "h3":
            self._heading = self._collected or ""
        elif tag in ("th", "td"):
            self.sections[self._title][self._heading][-1].append((self._collected or "").strip())

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self._collected is not None:
            self._collected += data

    def table(self, heading: str, problem: str = "omniglot") -> dict[str, dict[str, str]]:
        """By first cell, then by column."""
        found = next(t for name, t in self.sections[problem].items() if name.startswith(heading))
        return {line[0]: dict(zip(found[0], line, strict=True)) for line in found[1:]}


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return contest()


@pytest.fixture(scope="module")
def parsed(rows: list[Row]) -> Parsed:
    return Parsed(html([*rows, failed("median", 0, "no reply in time")]))


def of(rows: Sequence[Row], name: str) -> list[Row]:
    return [row for row in rows if row["name"] == name]


def test_the_ranking_has_means_and_t_intervals_over_seeds_the_best_first(
    rows: list[Row], parsed: Parsed
) -> None:
    ranking = parsed.table("Ranking")
    assert list(ranking) == ["fedadam", "fedavg", "krum"]
    for name, line in ranking.items():
        for when, column in (("after", "after adaptation"), ("before", "before")):
            scores = [row["test"][when]["accuracy"] for row in of(rows, name)]
            low, high = stats.t.interval(0.95, 2, np.mean(scores), stats.sem(scores))
            assert line[column] == f"{100 * fmean(scores):.2f} ± {50 * (high - low):.2f} %"
        assert (line["seeds"], line["rounds"]) == ("3", "400")


def test_pairs_are_tested_over_seeds_and_corrected_by_holm(rows: list[Row], parsed: Parsed) -> None:
    seeds = {
        n: [fmean(r["test_clients"]["after"]["accuracy"]) for r in of(rows, n)] for n in SKILLS
    }
    pairs = list(combinations(SKILLS, 2))
    ps = [stats.ttest_rel(seeds[a], seeds[b]).pvalue for a, b in pairs]
    order = np.argsort(ps)
    holm = np.maximum.accumulate([p * k for p, k in zip(np.sort(ps), (3, 2, 1), strict=True)])
    lines = parsed.sections["omniglot"]["Pairs"]
    assert [tuple(line[:2]) for line in lines[1:]] == pairs
    for (a, b), p, line in zip(pairs, holm[np.argsort(order)], lines[1:], strict=True):
        said = dict(zip(lines[0], line, strict=True))
        assert said["difference"] == f"{100 * (fmean(seeds[a]) - fmean(seeds[b])):+.2f}"
        assert float(said["p (Holm)"]) == pytest.approx(min(p, 1), rel=0.06)  # two digits
        told = "better" if p < 0.05 else "not told"
        assert told in said["first is"]
        matrix = parsed.table("Who beats whom")
        assert matrix[a][b].split()[1] == said["difference"]
        assert float(matrix[b][a].split()[1]) == -float(said["difference"])


def test_against_a_name_all_others_are_compared_with_it_and_are_one_family() -> None:
    rows = contest()
    every = Parsed(html(rows)).sections["omniglot"]
    alone = Parsed(html(rows, against="fedavg")).sections["omniglot"]
    assert [line[:2] for line in alone["Pairs"][1:]] == [["fedadam", "fedavg"], ["krum", "fedavg"]]
    assert "Who beats whom" in every
    assert "Who beats whom" not in alone
    seeds = {
        n: [fmean(r["test_clients"]["after"]["accuracy"]) for r in of(rows, n)] for n in SKILLS
    }
    ps = [stats.ttest_rel(seeds[a], seeds["fedavg"]).pvalue for a in ("fedadam", "krum")]
    corrected = [float(line[alone["Pairs"][0].index("p (Holm)")]) for line in alone["Pairs"][1:]]
    assert min(corrected) == pytest.approx(2 * min(ps), rel=0.06)  # of two, not of three


def test_against_a_label_each_meets_the_one_that_shares_its_other_labels() -> None:
    rows = [
        each | {"name": f"{learner} · {each['name']}"} | {"labels": {"learner": learner} | strategy}
        for learner in ("maml", "anil")
        for each in contest()
        for strategy in [{"strategy": each["name"]}]
    ]
    (problem,) = problems(rows)
    assert sorted(with_baseline(problem, "fedavg")) == [
        ("anil · fedadam", "anil · fedavg"),
        ("anil · krum", "anil · fedavg"),
        ("maml · fedadam", "maml · fedavg"),
        ("maml · krum", "maml · fedavg"),
    ]
    learners = with_baseline(problem, "maml")
    assert sorted(learners) == [(f"anil · {name}", f"maml · {name}") for name in SKILLS]


def test_what_all_share_is_said_once_and_not_in_every_name() -> None:
    rows = [
        each | {"name": f"maml · {each['name']}"} | {"labels": {"learner": "maml"} | each["labels"]}
        for each in contest()
    ]
    parsed = Parsed(html(rows))
    assert list(parsed.table("Ranking")) == list(SKILLS)
    assert any("All of them: maml, none." in text for text in parsed.texts)


def test_two_axes_are_crossed_and_the_verdict_against_the_baseline_stands_before_the_score() -> (
    None
):
    rows = [
        row(f"{rule} · {attack}", seed, skill + 0.001 * ((seed * i) % 3))
        | {"labels": {"strategy": rule, "attack": attack, "learner": "maml"}}
        for i, (rule, attack, skill) in enumerate(
            [
                ("mean", "none", 0.8),
                ("mean", "flip", 0.4),
                ("median", "none", 0.7),
                ("krum", "flip", 0.6),
            ]
        )
        for seed in SEEDS
    ]
    plain = Parsed(html(rows)).table("By strategy and attack")
    assert list(plain) == ["mean", "median", "krum"]
    mean = fmean(r["test"]["after"]["accuracy"] for r in of(rows, "krum · flip"))
    assert plain["krum"]["flip"].startswith(f"{100 * mean:.2f} ± ")
    assert plain["krum"]["none"] == plain["median"]["flip"] == "—"
    signed = Parsed(html(rows, against="mean")).table("By strategy and attack")
    assert signed["mean"] == plain["mean"]
    assert signed["krum"]["flip"] == "▲ " + plain["krum"]["flip"]
    assert signed["median"]["none"] == "▼ " + plain["median"]["none"]
    assert not any(name.startswith("By ") for name in Parsed(html(contest())).sections["omniglot"])


def test_the_headline_names_the_best_and_every_pair_is_put_into_words(parsed: Parsed) -> None:
    text = "".join(parsed.texts)
    assert "fedadam has the best mean on unseen test clients" in text
    for pair in combinations(SKILLS, 2):
        assert any(
            all(name in words for name in pair) and "unseen" in words for words in parsed.texts
        )


def test_fairness_is_that_of_the_clients_averaged_over_seeds(
    rows: list[Row], parsed: Parsed
) -> None:
    for name, line in parsed.table("Fairness").items():
        scores = np.array([row["test_clients"]["after"]["accuracy"] for row in of(rows, name)])
        before = np.array([row["test_clients"]["before"]["accuracy"] for row in of(rows, name)])
        apart = np.abs(scores[:, :, None] - scores[:, None, :]).mean(axis=(1, 2))
        assert line["Gini"] == f"{(apart / 2 / scores.mean(axis=1)).mean():.3f}"
        assert line["Jain"] == f"{(scores.mean(1) ** 2 / (scores**2).mean(1)).mean():.3f}"
        worst = np.sort(scores, axis=1)[:, :2].mean()  # of 20 clients
        assert line["worst tenth"] == f"{100 * worst:.2f} %"
        assert line["helped"] == f"{100 * (scores > before).mean():.0f} %"


def test_the_cost_of_a_target_is_the_median_over_seeds_of_the_first_round_that_has_it(
    rows: list[Row],
) -> None:
    costs = Parsed(html(rows, 0.72)).table("Cost to reach 72 %")
    for name, line in costs.items():
        first = [
            min((p["round"] for p in row["val"] if p["accuracy"] >= 0.72), default=np.inf)
            for row in of(rows, name)
        ]
        assert line["seeds that reach it"] == f"{np.isfinite(first).sum()} of 3"
        if np.isinf(middle := median(first)):
            assert set(list(line.values())[2:]) == {"not reached"}
        else:
            assert line["rounds"] == f"{middle:g}"
            assert line["client updates"] == f"{32 * middle:,.0f}"
            assert line["gradient steps"] == f"{64 * middle:,.0f}"
            assert line["bytes"] == f"{32 * 230_000 * middle / 1e9:.3g} GB"
            assert line["simulated seconds"] == f"{1.5 * middle:g}"
    assert costs["krum"]["rounds"] == "not reached"


def test_the_cost_of_a_loss_is_when_it_is_first_as_low() -> None:
    rows = [row("maml", seed, 0.8 - 0.14 * seed, measure="loss") for seed in SEEDS]
    first = [min(p["round"] for p in row["val"] if p["loss"] <= 0.15) for row in rows]
    assert len(set(first)) == 3
    costs = Parsed(html(rows, 0.15)).table("Cost to reach a loss of 0.15")
    assert costs["maml"]["rounds"] == str(median(first))


@pytest.mark.parametrize(
    ("measure", "ends", "target"),
    [
        ("accuracy", (0.9, 0.799, 0.3), 0.79),
        ("accuracy", (0.9, 0.29, 0.2), 0.29),  # 100 * 0.29 is 28.999999999999996
        ("loss", (0.1, 0.2313, 0.4), 0.24),
        ("loss", (20.0, 3110.0, 9000.0), 3200.0),
        ("loss", (0.1, 0.23, 0.4), 0.23),
    ],
)
def test_the_usual_target_is_that_of_the_median_contender_rounded_to_the_easier_side(
    measure: str, ends: Sequence[float], target: float
) -> None:
    found = [row(f"{i}", 0, measure=measure) for i in range(3)]
    for each, end in zip(found, ends, strict=True):
        each["val"][-1][measure] = end
    assert usual_target(problems(found)[0]) == target


def test_problems_are_never_mixed() -> None:
    easy, hard = contest("easy"), [row("fedadam", seed, 0.4, problem="hard") for seed in SEEDS]
    both, alone = Parsed(html([*hard, *easy])), Parsed(html(easy))
    assert both.sections["easy"] == alone.sections["easy"]
    assert list(both.table("Ranking", "hard")) == ["fedadam"]
    mean = fmean(row["test"]["after"]["accuracy"] for row in hard)
    assert both.table("Ranking", "hard")["fedadam"]["after adaptation"].startswith(
        f"{100 * mean:.2f} ±"
    )
    assert "There is one contender: nothing to compare." in both.texts


def test_problems_of_one_name_are_told_apart() -> None:
    first, second = row("a", 0), row("a", 0) | {"problem": "another hash"}
    assert [problem.name for problem in problems([first, second])] == ["omniglot #1", "omniglot #2"]
    for each, root in ((first, "own/a"), (second, "own/b")):
        each["sections"] = {"data": {"name": "own_values", "root": root}, "rounds": len(root)}
    names = [problem.name for problem in problems([first, second, first])]
    assert names == ["omniglot data.root=own/a", "omniglot data.root=own/b"]


def test_failed_cells_are_shown_with_their_reasons_and_counted_nowhere(
    rows: list[Row], parsed: Parsed
) -> None:
    assert parsed.table("Failed")["median"] == {
        "cell": "median", "seed": "0", "reason": "no reply in time",
    }  # fmt: skip
    assert any("9 finished and 1 failed" in text for text in parsed.texts)
    without = Parsed(html(rows)).sections["omniglot"]
    assert {k: v for k, v in parsed.sections["omniglot"].items() if k != "Failed"} == without
    nothing = Parsed(html([failed("median", 1, "the disk is full")]))
    assert nothing.table("Failed")["median"]["reason"] == "the disk is full"
    assert "No cell has finished." in nothing.texts


def test_only_settings_that_differ_are_listed(parsed: Parsed) -> None:
    settings = parsed.table("Settings that differ")
    assert set(settings) == {"strategy.name", "strategy.lr"}  # the seed differs by nature
    assert settings["strategy.name"]["krum"] == "krum"
    assert settings["strategy.lr"]["fedadam"] == "0.008"
    alike = [row("a", 0) | {"sections": {"seed": 0, "name": "x"}}]
    alike.append(row("b", 1) | {"sections": {"seed": 1, "name": "y"}})
    assert "Settings that differ" not in Parsed(html(alike)).sections["omniglot"]


def test_two_settings_of_one_name_are_two_contenders_and_a_cell_given_twice_is_one() -> None:
    slow, fast = row("fedadam", 0, 0.7), row("fedadam", 0, 0.8)
    fast["setting"] = "another"
    names = [c.name for c in problems([slow, fast, row("fedadam", 1, 0.7), slow])[0].contenders]
    assert names == ["fedadam strategy.lr=0.008", "fedadam strategy.lr=0.007"]
    again = problems([slow, row("fedadam", 1, 0.7), slow])[0].contenders[0]
    assert [row["seed"] for row in again.rows] == [0, 1]


@pytest.mark.parametrize(
    ("section", "ones", "others"),
    [
        ("evaluation", {"select": "best"}, {"select": "last"}),
        ("evaluation", {"every": 5, "steps": 3}, {"every": 9, "steps": 3}),
        ("evaluation", {"clients": 5}, {"clients": 20}),
        ("data", {"evaluation": {"queries": 1}}, {"evaluation": {"queries": 9}}),
    ],
)
def test_runs_whose_params_were_chosen_otherwise_are_other_contenders(
    section: str, ones: Row, others: Row
) -> None:
    rows = []
    for seed, asked in enumerate((ones, ones, others, others, others)):
        each = row("fedadam", seed, 0.7 if asked is ones else 0.8)
        each |= {"evaluation": asked, "episodes": asked.get("evaluation")}
        rows.append(each | {"sections": {section: asked}})
    (problem,) = problems(rows)
    assert [len(contender.rows) for contender in problem.contenders] == [3, 2]
    assert len({contender.name for contender in problem.contenders}) == 2
    (key, told), *_ = differing([{section: others}, {section: ones}]).items()
    assert [c.name for c in problem.contenders] == [f"fedadam {key}={value}" for value in told]
    turned = [each | {"evaluation": dict(reversed(each["evaluation"].items()))} for each in rows]
    assert len(problems([*rows, *turned])[0].contenders) == 2  # the order of keys says nothing


def test_another_run_of_a_seed_is_shown_beside_it_and_never_left_out() -> None:
    """As after data changed in their folder; nothing but the scores tells the two apart."""
    alike = {"sections": {"evaluation": {"select": "best"}}}
    first, again = ([row("a", seed, skill) | alike for seed in SEEDS] for skill in (0.7, 0.8))
    (problem,) = problems([*first, *again, *first])
    assert [(c.name, len(c.rows)) for c in problem.contenders] == [("a #2", 3), ("a #1", 3)]
    last = [
        row("a", seed, 0.6) | {"sections": {"evaluation": {"select": "last"}}} for seed in SEEDS
    ]
    for each in last:
        each["evaluation"] = each["sections"]["evaluation"]
    (problem,) = problems([*first, *again, *last])
    names = [contender.name for contender in problem.contenders]
    assert len(set(names)) == 3
    assert all("evaluation.select=last" in name for name in names[2:])


def test_one_seed_is_said_to_be_one_and_its_intervals_are_over_clients() -> None:
    rows = [row("fedadam", 0, 0.8), row("fedavg", 0, 0.7)]
    parsed = Parsed(html(rows))
    assert any(text.startswith("One seed:") for text in parsed.texts)
    half = rows[0]["test"]["after"]["accuracy_ci95"]
    line = parsed.table("Ranking")["fedadam"]
    assert line["after adaptation"].endswith(f"± {100 * half:.2f} %")
    assert "other seeds" not in parsed.sections["omniglot"]["Pairs"][0]


def test_intervals_over_clients_among_those_over_seeds_are_named() -> None:
    rows = [*contest(), row("alone", 0, 0.7)]
    told = "over seeds (where there is one seed over clients)"
    assert any(told in text for text in Parsed(html(rows)).texts)
    assert not any(told in text for text in Parsed(html(contest())).texts)
    assert "Fewer seeds than others: alone." in Parsed(html(rows)).texts


def test_losses_are_ranked_upwards_and_have_no_shares_of_a_total() -> None:
    rows = [row(name, 0, skill, measure="loss") for name, skill in SKILLS.items()]
    parsed = Parsed(html(rows))
    losses = [r["test"]["after"]["loss"] for r in rows]
    assert losses == sorted(losses)  # of the better skill lower
    assert list(parsed.table("Ranking")) == list(SKILLS)
    assert parsed.sections["omniglot"]["Fairness among test clients"][0] == [
        "contender", "worst tenth", "helped",
    ]  # fmt: skip
    worst = np.sort(rows[0]["test_clients"]["after"]["loss"])[-2:].mean()
    assert parsed.table("Fairness")["fedadam"]["worst tenth"] == f"{worst:.4f}"


def test_rows_of_older_comparisons_are_ranked_and_what_they_lack_is_said() -> None:
    rows = [row("a", 0, 0.8), row("b", 0, 0.7)]
    for old in rows:
        old |= {
            "problem": None,
            "problem_name": "",
            "labels": {},
            "test_clients": None,
            "sections": {},
        }
        old |= {"evaluation": {"steps": 3}, "episodes": None}
        old["val"] = [p | {"bytes": None, "simulated_seconds": None} for p in old["val"]]
    name = "unknown problem, inner steps: 3"
    parsed = Parsed(html(rows))
    assert list(parsed.table("Ranking", name)) == ["a", "b"]
    assert "bytes" not in parsed.table("Cost", name)["a"]
    assert any("no scores of single clients" in text for text in parsed.texts)
    assert "Pairs" not in parsed.sections[name]
    assert clients_csv(problems(rows)) == ""


def test_a_marker_says_the_mean_over_seeds_and_its_interval(rows: list[Row]) -> None:
    scores = [row["val"][-1]["accuracy"] for row in of(rows, "fedadam")]
    half = stats.t.ppf(0.975, 2) * stats.sem(scores)
    expected = f"fedadam: {100 * fmean(scores):.4g} % ± {100 * half:.4g} % at 400 rounds"
    assert expected in Parsed(html(rows)).texts


def test_names_and_reasons_cannot_put_anything_into_the_page() -> None:
    rows = [row(EVIL, seed, problem=EVIL, attack=EVIL) for seed in SEEDS]
    rows += [row("fedavg", seed, 0.6, problem=EVIL) for seed in SEEDS]
    rows.append(failed("</style>", 0, EVIL, problem=EVIL))
    text = html(rows)
    parsed = Parsed(text)
    assert parsed.tags.count("script") == 1
    assert not {"img", "iframe", "object"} & set(parsed.tags)
    assert not parsed.handlers
    assert EVIL in parsed.sections
    assert parsed.sections[EVIL]["Failed"][1] == ["</style>", "0", EVIL]
    script = text.split("<script>")[1].split("</script>")[0]
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert (
        f"script-src &#39;sha256-{digest}&#39;" in text or f"script-src 'sha256-{digest}'" in text
    )


def test_the_page_asks_for_nothing_from_elsewhere(rows: list[Row]) -> None:
    text = html([*rows, *contest("another")])
    assert all(address.startswith(("#", "data:,")) for address in Parsed(text).addresses)
    assert "url(" not in text
    assert "http://" not in text
    assert "https://" not in text
    assert "default-src 'none'" in text


def test_markdown_has_the_tables_and_statements_of_the_page(
    rows: list[Row], parsed: Parsed
) -> None:
    found = problems([*rows, failed("a|b", 0, "line one\n| line two")])
    text = markdown_page(title(found), [section(found[0], None)], made(found))
    for line in parsed.sections["omniglot"]["Ranking"]:
        assert f"| {' | '.join(line)} |" in text
    assert "| a\\|b | 0 | line one \\| line two |" in text
    assert "- fedadam " in text


def test_csv_has_a_line_for_each_client_of_each_seed(rows: list[Row]) -> None:
    text = clients_csv(problems([*rows, row("maml", 0, measure="loss", problem="sinusoid")]))
    lines = list(csv.DictReader(StringIO(text)))
    assert len(lines) == 9 * 20 + 20
    about = {"contender": "fedavg", "seed": "1", "client": "103"}
    (found,) = (line for line in lines if about.items() <= line.items())
    scores = of(rows, "fedavg")[1]["test_clients"]
    assert found == {
        "problem": "omniglot", "contender": "fedavg", "seed": "1", "client": "103",
        "accuracy_before": str(scores["before"]["accuracy"][3]),
        "accuracy_after": str(scores["after"]["accuracy"][3]),
        "loss_before": str(scores["before"]["loss"][3]),
        "loss_after": str(scores["after"]["loss"][3]),
        "label.strategy": "fedavg", "label.attack": "none",
    }  # fmt: skip
    assert lines[-1]["accuracy_after"] == ""  # a regression has none


def test_the_picture_shows_curves_and_ranking_of_each_problem(rows: list[Row]) -> None:
    figure = draw(problems([*rows, row("maml", 0, measure="loss", problem="sinusoid")]))
    left, right, lower, _ = figure.axes
    assert left.get_ylabel() == "accuracy (%), unseen validation clients"
    assert lower.get_ylabel() == "loss, unseen validation clients"
    assert "95 %" in left.get_xlabel()
    assert [label.get_text() for label in right.get_yticklabels()] == list(SKILLS)
    assert len(left.collections) == len(SKILLS)  # a band for each
    many = [row(f"strategy {i}", seed) for i in range(9) for seed in SEEDS]
    assert len(draw(problems(many)).axes[0].collections) == 0
    grid = [
        row(f"{rule} · {attack}", seed) | {"labels": {"strategy": rule, "attack": attack}}
        for rule in "abcdefg"
        for attack in ("none", "flip", "noise")
        for seed in SEEDS
    ]
    (found,) = problems(grid)
    crossing = draw([found]).axes[0]
    assert {text.get_text() for text in crossing.get_xticklabels()} == {"none", "flip", "noise"}
    shown = {bars.get_label(): bars.lines[0].get_ydata() for bars in crossing.containers}
    means = {tuple(c.labels.values()): c.mean() for c in found.contenders}
    columns = [text.get_text() for text in crossing.get_xticklabels()]
    assert {
        (rule, attack): y
        for rule, ys in shown.items()
        for attack, y in zip(columns, ys, strict=True)
    } == means
    drawn = left.lines[0].get_ydata()[-1]
    assert drawn == pytest.approx(fmean(row["val"][-1]["accuracy"] for row in of(rows, "fedadam")))


@given(st.lists(st.floats(0, 1), min_size=2), st.sampled_from(["accuracy", "loss"]))
def test_scales_keep_the_order_of_scores_and_ticks_lie_inside(
    values: list[float], measure: str
) -> None:
    for scale in (score_scale("", values, measure), client_scale("", values, measure)):
        places = [scale.place(value) for value in sorted(values)]
        assert places == sorted(places)
        assert 0 <= places[0] <= places[-1] <= 1
        assert scale.ticks == sorted(tick for tick in scale.ticks if 0 <= scale.place(tick) <= 1)


def test_a_chart_puts_points_and_bands_where_they_belong() -> None:
    unit = Scale("", 0.0, 1.0)
    frame = Frame(unit, unit, width=134, height=152, left=12, bottom=42)  # 100 x 100 inside
    line = Line(Look(0), "a", [0.0, 1.0], [0.5, 1.0], [0.25, math.nan])
    drawn = line_chart("", "", frame, [line, replace(line, half=[0.25, 0.1])])
    paths = re.findall(r'class="(line|band)" d="([^"]+)"', drawn)
    assert paths[1] == ("line", "M12.0 60.0L112.0 10.0")  # from the middle to the top
    assert paths[0] == ("band", "M12.0 35.0L12.0 85.0Z")  # where the interval is known
    assert paths[2] == ("band", "M12.0 35.0L112.0 10.0L112.0 20.0L12.0 85.0Z")  # not beyond the top


def test_a_chart_has_room_for_the_bands_that_it_shows() -> None:
    """But not for one that goes down to nothing, where equal steps are equal ratios."""
    wide = Line(Look(0), "a", [0.0, 1.0], [0.5, 0.7], [0.25, math.nan])
    deep = Line(Look(1), "b", [0.0], [0.6], [0.59])
    assert sorted(reach([wide, deep])) == pytest.approx([0.25, 0.5, 0.6, 0.7, 0.75, 1.19])
    assert sorted(reach([wide] * 6)) == [0.5] * 6 + [0.7] * 6  # no bands are shown


def test_the_picture_has_room_for_its_bands(rows: list[Row]) -> None:
    axes = draw(problems(rows)).axes[0]
    low, high = axes.get_ylim()
    for band in axes.collections:
        ends = band.get_paths()[0].vertices[:, 1]
        assert low <= ends.min() <= ends.max() <= high


def test_a_dollar_sign_in_a_name_begins_no_formula(rows: list[Row]) -> None:
    odd = [each | {"name": each["name"].replace("fedavg", "$5_{a$")} for each in rows]
    assert picture(problems(odd)).startswith(b"\x89PNG")


def test_against_a_baseline_the_picture_has_the_paired_differences(rows: list[Row]) -> None:
    (problem,) = problems(rows)
    right = draw([problem], "fedavg").axes[1]
    found, _ = comparisons(problem, "fedavg")
    assert [label.get_text() for label in right.get_yticklabels()] == ["fedadam", "krum"]
    assert "points of accuracy better than fedavg" in right.get_xlabel()
    for pair, bars in zip(found, right.containers, strict=True):
        assert bars.lines[0].get_xdata()[0] == pytest.approx(100 * pair.difference)
        ends = bars.lines[2][0].get_segments()[0][:, 0]
        assert list(ends) == pytest.approx([100 * end for end in pair.interval or ()])
        told = pair.verdict != "untold"
        assert (bars.lines[0].get_markerfacecolor() != "white") == told


def test_many_lines_have_no_bands_that_would_hide_each_other() -> None:
    unit = Scale("", 0.0, 1.0)
    lines = [Line(Look(i), "a", [0.0, 1.0], [0.5, 1.0], [0.1, 0.1]) for i in range(9)]
    assert line_chart("", "", Frame(unit, unit), lines[:5]).count('class="band"') == 5
    assert line_chart("", "", Frame(unit, unit), lines).count('class="band"') == 0


def test_accuracies_near_all_are_drawn_by_odds_those_of_clients_never() -> None:
    assert score_scale("", [0.2, 0.96], "accuracy").kind == "logit"
    assert score_scale("", [0.2, 0.94], "accuracy").kind == "linear"
    assert client_scale("", [0.2, 1.0], "accuracy").kind == "linear"
    assert score_scale("", [0.2, 0.96], "loss").kind == "log"


def test_odds_of_equal_ratio_are_equally_far_apart() -> None:
    scale = Scale("", 0.1, 0.99, "logit")
    half, nine, ninety_nine = (scale.place(p) for p in (0.5, 0.9, 0.9878048780487805))
    assert ninety_nine - nine == pytest.approx(nine - half)  # odds 1, 9, 81


@pytest.mark.parametrize(("paper", "colours"), [(PAPER, COLOURS), (DARK_PAPER, DARK_COLOURS)])
def test_colours_have_the_contrast_that_graphics_need(paper: str, colours: Sequence[str]) -> None:
    for colour in colours:  # WCAG 2.2: 1.4.11
        lighter, darker = sorted(map(luminance, (paper, colour)), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 3


def luminance(colour: str) -> float:
    """Relative, as WCAG 2.2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def fedmeta(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["report", *(str(word) for word in words)])


def test_the_command_reads_run_folders_and_comparisons(tmp_path: Path) -> None:
    run(small(), tmp_path / "run", [])
    folder = tmp_path / "comparison/rows"
    folder.mkdir(parents=True)
    for each in contest():
        each["published"] = {}
        (folder / f"{each['name']}-{each['seed']}.json").write_text(json.dumps(each))
    given = (tmp_path / "run", folder.parent)
    for ending, begin in (
        ("html", b"<!doctype html>"),
        ("md", b"# "),
        ("csv", b"problem,"),
        ("png", b"\x89PNG"),
    ):
        done = fedmeta(*given, "--out", tmp_path / f"report.{ending}")
        assert (done.exit_code, done.stderr) == (0, "")
        assert (tmp_path / f"report.{ending}").read_bytes().startswith(begin)
    parsed = Parsed((tmp_path / "report.html").read_text())
    sinusoid, omniglot = sorted(set(parsed.sections) - {"How this was made"}, reverse=True)
    assert list(parsed.table("Ranking", omniglot)) == list(SKILLS)
    after = json.loads((tmp_path / "run/summary.json").read_text())["test"]["after"]
    line = parsed.table("Ranking", sinusoid)["quickstart"]
    assert line["after adaptation"] == f"{after['loss']:.4f} ± {after['loss_ci95']:.4f}"
    assert line["rounds"] == "4"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: is neither a run folder"),
        (["{rows}", "--out", "a.pdf"], "--out must end with one of .html, .md, .csv, .png"),
        (
            ["{rows}", "--against", "b"],
            "--against must be a contender or a label (a, none), got 'b'",
        ),
        (["{rows}", "--target", "80"], "--target must be an accuracy above 0, at most 1, got 80"),
        (["{empty}"], "holds no run"),
        (["{failed}", "--format", "png"], "holds no results, of which png would consist"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in (
        ("rows", [row("a", 0) | {"published": {}}]),
        ("failed", [failed("a", 0, "why") | {"rounds": 1, "clients": 1}]),
        ("empty", []),
    ):
        (tmp_path / name / "rows").mkdir(parents=True)
        for each in content:
            (tmp_path / name / "rows/a.json").write_text(json.dumps(each))
    done = fedmeta(*(w.format(rows="rows", empty="empty", failed="failed") for w in words))
    assert done.exit_code == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "failed", "rows"]


def test_a_wheel_holds_what_the_page_is_made_of() -> None:
    root = Path(__file__).parents[2]
    packaged = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    files = {
        p.name
        for p in (root / "simulations/report").iterdir()
        if p.suffix in (".css", ".js", ".j2")
    }
    assert set(packaged["package-data"]["simulations.report"]) == files
