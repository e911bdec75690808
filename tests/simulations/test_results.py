"""The table and the picture of a comparison."""

import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from rich.console import Console

from simulations.results import (
    by_problem,
    draw_curves,
    markdown_table,
    results,
    terminal_table,
    write_results,
)


def row(name: str, seed: int, score: float, **published: Any) -> dict[str, Any]:
    after = {"accuracy": score, "accuracy_ci95": 0.005, "loss": 1.0, "loss_ci95": 0.1}
    return {
        "name": name, "seed": seed, "rounds": 3000, "clients": 32, "minutes": 20.4,
        "published": published, "setting": "x", "evaluation": {}, "episodes": None,
        "test": {"before": after | {"accuracy": 0.2}, "after": after, "curve": [after] * 4},
        "val": [{"round": r, "minutes": r / 60} | after for r in (0, 100)],
    }  # fmt: skip


def test_intervals_go_over_seeds_where_there_are_several_and_else_over_clients() -> None:
    """Three seeds of 0.90, 0.92, 0.94: sd 0.02, t(0.975, 2) = 4.302653, so 4.302653 * 0.02 / sqrt 3."""
    rows = [row("a", seed, accuracy) for seed, accuracy in enumerate((0.90, 0.92, 0.94))]
    several, alone = results([*rows, row("b", 0, 0.91)])
    assert (several.name, several.mean) == ("a", pytest.approx(0.92))
    assert several.half == pytest.approx(0.0496828, abs=1e-6)
    assert (alone.name, alone.half) == ("b", 0.005)


def test_the_best_comes_first_with_the_published_number_beside_it(tmp_path: Path) -> None:
    rows = [row("a", 0, 0.9), row("b", 0, 0.95, accuracy=98.7, ci95=0.4, rounds=60000)]
    found = results(rows)
    assert markdown_table(found).splitlines()[2:] == [
        "| b | 1 | 3,000 x 32 | 20.4 | 20.0 % | 95.00 ± 0.50 % |  | 3 | 98.7 ± 0.4 % | 60,000 |",
        "| a | 1 | 3,000 x 32 | 20.4 | 20.0 % | 90.00 ± 0.50 % |  | 3 |  |  |",
    ]
    draw_curves(found, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["adam [slow]", "adam [/slow]", "$5_{a$", "a|b"])
def test_a_name_is_a_name_and_no_markup(tmp_path: Path, name: str) -> None:
    found = results([row(name, 0, 0.9)])
    console = Console(width=200, file=StringIO())
    console.print(terminal_table(found, "[red]"))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert (name in shown, "[red]" in shown) == (True, True)
    cells = re.split(r"(?<!\\)\|", markdown_table(found).splitlines()[2])
    assert (cells[1].strip().replace("\\|", "|"), len(cells)) == (name, 12)
    draw_curves(found, tmp_path / "x.png")


def test_the_picture_holds_small_losses_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, _: drawn.append(figure))
    one = row("a", 0, 0.9)
    one["val"] = [{"round": r, "minutes": 1.0, "loss": loss, "loss_ci95": 0.0} for r, loss in
                  ((0, 0.02), (100, 0.0007))]  # fmt: skip
    draw_curves(results([one]), tmp_path / "x.png")
    low, high = drawn[0].axes[0].get_ylim()
    assert low < 0.0007 < 0.02 < high


def test_runs_that_differ_in_more_than_the_seed_are_never_averaged() -> None:
    rows = [row("a", 0, 0.5), row("a", 1, 0.9) | {"rounds": 5}, row("a", 2, 0.7) | {"setting": "y"}]
    assert [result.mean for result in results(rows)] == [0.9, 0.7, 0.5]


def test_an_interval_of_zero_is_a_number_and_clients_that_took_part_have_a_column() -> None:
    flat = row("a", 0, 0.2)
    flat["test"]["after"]["accuracy_ci95"] = 0.0
    flat["seen"] = {"before": {"accuracy": 0.85}}
    assert results([flat])[0].cells()[5:7] == ["20.00 ± 0.00 %", "85.0 %"]


def test_cells_of_different_problems_have_tables_of_their_own_and_failures_are_told(
    tmp_path: Path,
) -> None:
    def cell(name: str, score: float, ways: int) -> dict[str, Any]:
        known = {"problem": f"p{ways}", "problem_name": f"{ways}-way", "labels": {"strategy": name}}
        return row(name, 0, score) | known

    failed = {"name": "c", "seed": 3, "failed": "no luck", "labels": {"strategy": "c"}}
    rows = [cell("a", 0.9, 20), cell("b", 0.95, 20), cell("a", 0.99, 5), failed]
    found = by_problem(rows)
    assert {name: [r.name for r in each] for name, each in found.items()} == {
        "20-way": ["b", "a"],
        "5-way": ["a"],
    }
    shown = write_results(tmp_path, rows)
    text = (tmp_path / "table.md").read_text()
    assert text.startswith("## 20-way\n\n| experiment |")
    assert text.endswith("- c, seed 3, failed: no luck\n")
    assert shown[-2:] == [f"picture: {tmp_path}/curves-{number}.png" for number in (1, 2)]
    assert (tmp_path / "curves-2.png").exists()


def test_configs_side_by_side_are_one_table_whatever_their_problems() -> None:
    """Papers differ in steps and queries; who named the configs knows what they are."""
    rows = [row(name, 0, 0.9) | {"problem": name, "labels": {}} for name in "ab"]
    assert list(by_problem(rows)) == [""]


def test_without_a_finished_cell_there_is_nothing_to_show(tmp_path: Path) -> None:
    assert write_results(tmp_path, [{"name": "c", "seed": 3, "failed": "no luck"}]) == []
    assert list(tmp_path.iterdir()) == []
