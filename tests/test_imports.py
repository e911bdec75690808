"""Data flows one way, and each heavy library has its one door."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedmeta

ROOT = Path(__file__).parents[1]
BELOW = {"fedmeta": set(), "strategies": {"fedmeta"}, "simulations": {"fedmeta", "strategies"}}
DOORS = {
    "ray": {"simulations/executors/ray.py"},
    "wandb": {"fedmeta/tracking/wandb.py"},
    "omegaconf": {"fedmeta/config.py"},
    "pooch": {"fedmeta/data/download.py"},
    "flwr.supercore": {"simulations/grid.py"},
    "flwr": {
        "fedmeta/client_app.py",
        "fedmeta/node.py",
        "fedmeta/wire.py",
        "simulations/executors/local.py",
        "simulations/executors/ray.py",
        "simulations/grid.py",
        "strategies/evaluation.py",
        "strategies/meta_strategy.py",
        "strategies/roster.py",
        "strategies/server.py",
        "strategies/server_app.py",
        "strategies/validation.py",
    },
}


def modules(package: str) -> Iterator[Path]:
    return (ROOT / package).rglob("*.py")


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


@pytest.mark.parametrize("package", BELOW)
def test_imports_point_down(package: str) -> None:
    for path in modules(package):
        ours = {name.split(".")[0] for name in imported(path)} & BELOW.keys()
        assert ours <= BELOW[package] | {package}, path


@pytest.mark.parametrize("library", DOORS)
def test_a_library_comes_in_by_its_door(library: str) -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for package in BELOW
        for path in modules(package)
        if any(name == library or name.startswith(f"{library}.") for name in imported(path))
    }
    assert users == DOORS[library]


def test_the_version_stands_in_two_places_alike() -> None:
    """Flower reads it from pyproject.toml, nodes compare that of the package."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert pyproject["project"]["version"] == fedmeta.__version__


def test_nothing_unpickles() -> None:
    for package in BELOW:
        for path in modules(package):
            assert not {"pickle", "cloudpickle", "dill", "marshal"} & set(imported(path)), path
            assert "torch.load" not in path.read_text(), path
            assert "allow_pickle=True" not in path.read_text(), path


def test_a_client_starts_light() -> None:
    """Every message starts a process on a device."""
    heavy = "ray wandb scipy matplotlib pooch PIL tensorboard pandas"
    program = f"import sys, fedmeta.client_app; print(set('{heavy}'.split()) & set(sys.modules))"
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "set()"
