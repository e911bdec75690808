"""What a learner remarks on is in the log of the run."""

import json
import logging
from pathlib import Path

import pytest
from typer.testing import CliRunner

from simulations.cli import app
from simulations.run import run
from tests.simulations.conftest import SMALL, small_with, with_learner

IMAML = "{{name: imaml, lam: {lam}, inner_lr: 0.01, inner_steps: 1, cg_steps: {steps}}}"


def residuals(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["cg_residual"] for row in rows if row["split"] == "train"]


def remarks(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if "conjugate gradient" in text]


def test_a_residual_that_is_large_is_named_every_round(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run(small_with(tmp_path, IMAML.format(lam=0.5, steps=1)), tmp_path)
    found = residuals(tmp_path)
    assert min(found) > 0.1
    assert remarks(caplog) == [
        f"round {round}: conjugate gradient left a relative residual of {residual:.2g} after 1 "
        "steps: raise learner.cg_steps or learner.lam"
        for round, residual in enumerate(found, start=1)
    ]


def test_a_small_residual_is_no_news(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The matrix is ``I + H / lam``: at a large lam one step is the solution."""
    with caplog.at_level(logging.WARNING):
        run(small_with(tmp_path, IMAML.format(lam=150, steps=1)), tmp_path)
    assert max(residuals(tmp_path)) <= 0.1
    assert remarks(caplog) == []


def test_the_log_of_a_run_folder_has_it(tmp_path: Path) -> None:
    """By the command, whose log is a file."""
    config = with_learner(tmp_path, IMAML.format(lam=0.5, steps=1))
    folder = tmp_path / "run"
    result = CliRunner().invoke(app, ["run", str(config), *SMALL, "--run-dir", str(folder)])
    assert result.exit_code == 0, result.output
    log = (folder / "log.txt").read_text()
    for round, residual in enumerate(residuals(folder), start=1):
        assert (
            f"round {round}: conjugate gradient left a relative residual of {residual:.2g}" in log
        )
