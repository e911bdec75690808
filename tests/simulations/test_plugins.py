"""A user's own model, as the README has it: by name in a config, in every process, checked like ours."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHORT = [
    "rounds=40", "data.clients={train: 200, val: 4, test: 8}", "evaluation.every=40",
    "evaluation.clients=4",
]  # fmt: skip
BRANCHING = """
from dataclasses import dataclass
from torch import nn
from fedmeta.models import MODELS

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 1)

    def forward(self, x):
        y = self.head(x)
        return y if x.sum() > 0 else 2 * y

@dataclass(frozen=True)
class Branching:
    def build(self, input_shape, outputs):
        return Net()

MODELS["branching"] = Branching
"""


def fedmeta(
    folder: Path, *words: str, plugins: str = "my_models"
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "FEDMETA_PLUGINS": plugins,
        "PYTHONPATH": str(folder),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    return subprocess.run(
        [sys.executable, "-m", "simulations", *words], cwd=folder, env=environment,
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The README's file, and a copy of the quickstart with its model in it."""
    (code,) = re.findall(
        r"```python\n(# my_models.py\n.*?)```", (ROOT / "README.md").read_text(), re.S
    )
    (tmp_path / "my_models.py").write_text(code)
    quickstart = (ROOT / "configs" / "quickstart.yaml").read_text()
    mine, models = re.subn(r"(?m)^model:.*$", "model: {name: residual, width: 24}", quickstart)
    assert models == 1
    (tmp_path / "mine.yaml").write_text(mine)
    return tmp_path


def test_the_model_of_the_readme_runs_in_this_process_and_in_workers(folder: Path) -> None:
    """The same first loss to rounding: the seed decides the first params, in whatever process."""
    losses = {}
    for executor in ("local", "ray"):
        out = folder / executor
        words = ["run", "mine.yaml", *SHORT, "--run-dir", str(out), f"engine.executor={executor}"]
        result = fedmeta(folder, *words)
        assert result.returncode == 0, result.stderr
        assert (out / "config.yaml").read_text().count("width: 24") == 1
        losses[executor] = json.loads((out / "summary.json").read_text())["test"]["before"]["loss"]
    assert losses["local"] == pytest.approx(losses["ray"], rel=1e-4)
    assert "A net with a skip connection." in fedmeta(folder, "list").stdout


def test_its_settings_are_checked(folder: Path) -> None:
    result = fedmeta(folder, "run", "mine.yaml", "model.widht=3")
    assert result.returncode == 2
    assert "model.widht is not a setting; model has width (did you mean width?)" in " ".join(
        result.stderr.split()
    )


def test_a_plugin_that_is_not_there_or_fails_is_named(folder: Path) -> None:
    (folder / "broken.py").write_text("1 / 0")
    for name, reason in {"nowhere": "ModuleNotFoundError", "broken": "ZeroDivisionError"}.items():
        result = fedmeta(folder, "run", "mine.yaml", plugins=name)
        assert result.returncode == 2
        said = " ".join(result.stderr.split())
        assert f"error: FEDMETA_PLUGINS: cannot import '{name}' ({reason}" in said


def test_a_model_that_branches_runs_in_the_loop_and_the_log_says_why(folder: Path) -> None:
    (folder / "branching.py").write_text(BRANCHING)
    config, out = folder / "mine.yaml", folder / "out"
    config.write_text(config.read_text().replace("residual, width: 24", "branching"))
    words = ["run", "mine.yaml", *SHORT, "--run-dir", str(out)]
    result = fedmeta(folder, *words, plugins="branching")
    assert result.returncode == 0, result.stderr
    log = (out / "log.txt").read_text()
    assert re.search(r"engine for training: loop, .*vmap failed with RuntimeError", log)
