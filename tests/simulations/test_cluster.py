"""A Ray cluster of two nodes: the same numbers; a node that is gone is replaced, or missed aloud."""

import json
from pathlib import Path

import pytest
import torch

from simulations.run import run
from strategies.opening import open_old
from strategies.state import load_state
from tests.simulations.conftest import program, small

EACH = ("engine.name=loop", "cohort.replies=each")


@pytest.mark.parametrize(("event", "nodes"), [("calm", 2), ("replaced", 3)])
def test_two_nodes_are_bitwise_local_even_if_one_is_replaced(
    tmp_path: Path, event: str, nodes: int
) -> None:
    local, remote = tmp_path / "local", tmp_path / "remote"
    local.mkdir()
    remote.mkdir()
    result = program("two_nodes", event, str(remote), *EACH)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.split()[-1] == str(nodes)
    assert "failed_recorders" not in json.loads((remote / "summary.json").read_text())

    run(small(*EACH), local)
    here, there = (load_state(folder, small(*EACH)).params for folder in (local, remote))
    assert all(torch.equal(here[name], there[name]) for name in here)


def test_a_reply_that_dies_with_its_node_is_computed_anew(tmp_path: Path) -> None:
    result = program("two_nodes", "unfetched", str(tmp_path), *EACH, "model.hidden=[200,200]")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "died (Failed to retrieve object" in result.stderr  # or nothing was put to the test
    assert result.stdout.split()[-1] == "True"


def test_a_lost_node_ends_the_run_in_one_line_and_it_can_be_resumed(tmp_path: Path) -> None:
    folder, calm = tmp_path / "lost", tmp_path / "calm"
    folder.mkdir()
    calm.mkdir()
    result = program("two_nodes", "lost", str(folder), *EACH)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "error: 1 of 2 Ray workers were not up within 3 s: " in result.stderr
    assert "the cluster has 1 CPUs (0 of them free), a worker takes 1 CPU;" in result.stderr
    assert "Traceback" not in result.stderr

    experiment, _ = open_old(folder, None, ["engine.executor=local"])
    assert load_state(folder, experiment).round == 2
    run(experiment, folder, resume=True)
    run(small(*EACH), calm)
    whole, resumed = (load_state(place, small(*EACH)).params for place in (calm, folder))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
