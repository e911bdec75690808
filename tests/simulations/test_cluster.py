"""A Ray cluster of two nodes: the same numbers; a node that is gone is replaced, or missed aloud."""

import json
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

from fedmeta.types import Params
from simulations.run import run
from strategies.opening import open_old
from strategies.state import load_state
from tests.simulations.conftest import program, small

EACH = ("engine.name=loop", "cohort.replies=each")
Scene = tuple[Path, "CompletedProcess[str]"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """What happens to one cluster, event after event: its start takes longer than any of them."""
    folder = tmp_path_factory.mktemp("cluster")
    return folder, program("two_nodes", str(folder), "replaced,unfetched,lost", *EACH)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Params:
    """What the same run ends with in this process."""
    folder = tmp_path_factory.mktemp("local")
    run(small(*EACH), folder, pictures=False)
    return load_state(folder, small(*EACH)).params


def same(a: Params, b: Params) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def assert_bitwise_local(event: str, nodes: int, scene: Scene, local: Params) -> None:
    folder, result = scene
    assert f"{event}: {nodes}" in result.stdout.splitlines(), result.stdout + result.stderr
    assert "failed_recorders" not in json.loads((folder / event / "summary.json").read_text())
    assert same(load_state(folder / event, small(*EACH)).params, local)


@pytest.mark.slow
def test_two_nodes_are_bitwise_local(tmp_path: Path, local: Params) -> None:
    result = program("two_nodes", str(tmp_path), "calm", *EACH)
    assert result.returncode == 0, result.stdout + result.stderr
    assert_bitwise_local("calm", 2, (tmp_path, result), local)


def test_two_nodes_are_bitwise_local_even_if_one_is_replaced(scene: Scene, local: Params) -> None:
    assert_bitwise_local("replaced", 3, scene, local)


def test_a_reply_that_dies_with_its_node_is_computed_anew(scene: Scene) -> None:
    _, result = scene
    assert "died (Failed to retrieve object" in result.stderr  # or nothing was put to the test
    assert "unfetched: True" in result.stdout.splitlines()


def test_a_lost_node_ends_the_run_in_one_line_and_it_can_be_resumed(
    scene: Scene, local: Params
) -> None:
    folder, result = scene
    assert result.returncode == 1, result.stdout + result.stderr
    assert "lost: " not in result.stdout
    assert "error: 1 of 2 Ray workers were not up within 3 s: " in result.stderr
    assert "the cluster has 1 CPUs (0 of them free), a worker takes 1 CPU;" in result.stderr
    assert "Traceback" not in result.stderr

    experiment, _ = open_old(folder / "lost", None, ["engine.executor=local"])
    assert load_state(folder / "lost", experiment).round == 2
    run(experiment, folder / "lost", resume=True, pictures=False)
    assert same(load_state(folder / "lost", experiment).params, local)
