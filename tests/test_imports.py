"""Data flows one way, and each heavy library has its one door."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fedmeta

ROOT = Path(__file__).parents[1]
BELOW = {"fedmeta": set(), "strategies": {"fedmeta"}, "simulations": {"fedmeta", "strategies"}}
DOORS = {
    "ray": {"simulations/executors/pool.py", "simulations/executors/ray.py"},
    "wandb": {"fedmeta/tracking/wandb.py"},
    "omegaconf": {"fedmeta/config.py"},
    "pooch": {"fedmeta/data/download.py"},
    "datasets": {"fedmeta/data/partitions.py"},
    "flwr_datasets": {"fedmeta/data/partitions.py"},
    "flwr.supercore": {"simulations/grid.py"},
    "optuna": {"simulations/sweep/study.py"},
    "onnxruntime": {"simulations/export.py"},
    "executorch": {"simulations/export.py"},
    "flwr": {
        "fedmeta/client_app.py",
        "fedmeta/device_log.py",
        "fedmeta/node.py",
        "fedmeta/packing.py",
        "fedmeta/wire.py",
        "simulations/attackers.py",
        "simulations/executors/local.py",
        "simulations/executors/ray.py",
        "simulations/executors/stoppable.py",
        "simulations/grid.py",
        "strategies/evaluation.py",
        "strategies/flower.py",
        "strategies/meta_strategy.py",
        "strategies/roster.py",
        "strategies/server.py",
        "strategies/server_app.py",
        "strategies/validation.py",
    },
}


def modules(package: str) -> Iterator[Path]:
    return (ROOT / package).rglob("*.py")


@cache  # every file is parsed once: Python 3.11 can fail to while another thread compiles something
def imported(path: Path) -> frozenset[str]:
    names = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return frozenset(names)


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


HEAVY = {"ray", "wandb", "scipy", "matplotlib", "pooch", "PIL", "tensorboard", "pandas", "datasets"}
DEVICE = """
import sys
from pathlib import Path
import torch
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from fedmeta.client_app import app
{before}
from fedmeta.compression import shrink
from fedmeta.config import parse
from fedmeta.data.shard import Shard, write_shard
from fedmeta.initial import first_params
from fedmeta.packing import pack_params
from fedmeta.wire import Work, pack_work, unpack_replies

TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
folder = Path(sys.argv[1])
x = torch.linspace(-1, 1, 12)[:, None]
write_shard(Shard("own_values", 3, "train", x, x.sin()), folder / "mine.safetensors")
config = (folder / "config.yaml").read_text()
node = {{"shard": str(folder / "mine.safetensors"), "states": str(folder / "states")}}
params = pack_params(shrink(first_params(parse(config))[0], "bfloat16"))
for kind in sys.argv[2].split(","):
    content = pack_work(params, Work(config, 1, [3], run="0a"))
    reply = app(Message(content, 1, kind), Context(1, 1, node, RecordDict(), {{}}))
    assert kind != "train" or unpack_replies(reply.content).clients == [3]
print("\\n".join(sys.modules))
"""
"""A device from its start to its third answer, and all that it imported."""
CONFIG = """
name: light
rounds: 3
data: {name: own_values, shots: 4, queries: 5, shape_of_inputs: [1]}
model: {name: mlp, hidden: [6]}
learner: {name: maml, inner_lr: 0.02, inner_steps: 1}
strategy: {name: fedavg}
cohort: {clients: 1, replies: each}
wire: {params: bfloat16, deltas: topk}
evaluation: {every: 1, steps: 3, clients: 1}
"""


def imports_of_a_device(folder: Path, kinds: str, before: str = "") -> set[str]:
    (folder / "config.yaml").write_text(CONFIG)
    command = [sys.executable, "-c", DEVICE.format(before=before), str(folder), kinds]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines())


def unwanted(modules: set[str], *more: str) -> set[str]:
    """What a device has no use for, by name: the parts of it count as well."""
    wholes = HEAVY | {"strategies", "simulations", "fedmeta.tracking", *more}
    return {whole for whole in wholes for m in modules if m == whole or m.startswith(f"{whole}.")}


def test_a_client_starts_light(tmp_path: Path) -> None:
    """Every message starts a process on a device."""
    modules = imports_of_a_device(tmp_path, "query")
    assert "fedmeta.compression" in modules
    assert unwanted(modules, "torch._dynamo", "torch._inductor") == set()


def test_a_client_works_light(tmp_path: Path) -> None:
    """Torch itself imports Dynamo at the first ``torch.func.grad``, and with it some of Inductor."""
    modules = imports_of_a_device(tmp_path, "train,evaluate")
    assert unwanted(modules, "torch._inductor.compile_fx") == set()


def test_a_heavy_import_would_be_seen(tmp_path: Path) -> None:
    heavy = "import PIL, strategies.stock, fedmeta.tracking.jsonl, torch._dynamo"
    modules = imports_of_a_device(tmp_path, "query", heavy)
    seen = {"PIL", "strategies", "fedmeta.tracking", "torch._dynamo"}
    assert unwanted(modules, "torch._dynamo") >= seen


def needed(package: str, extras: Collection[str] = ()) -> set[str]:
    """All packages that one needs on this machine, those of its own needs included."""
    found: set[str] = set()
    todo = [(package, frozenset(extras))]
    seen = set(todo)
    while todo:
        name, extras = todo.pop()
        found.add(canonicalize_name(name))
        for line in metadata.requires(name) or []:
            asked = Requirement(line)
            wanted = asked.marker is None or any(
                asked.marker.evaluate({"extra": extra}) for extra in extras or [""]
            )
            key = asked.name, frozenset(asked.extras)
            if wanted and key not in seen:
                seen.add(key)
                todo.append(key)
    return found


def test_a_device_installs_light() -> None:
    """``pip install fedmeta`` without extras, followed to the end."""
    found = needed("fedmeta")
    assert {"torch", "flwr", "numpy", "safetensors", "grpcio"} <= found
    assert found & {"ray", "wandb", "scipy", "matplotlib", "pandas", "tensorboard"} == set()


def test_what_a_simulation_installs_is_followed_too() -> None:
    """So the extras, and extras of extras, would be seen where they were asked for."""
    assert {"ray", "wandb", "scipy", "matplotlib", "tensorboard", "pillow"} <= needed(
        "fedmeta", ["simulation"]
    )
