"""Devices that are broken in every way we could think of: the run goes on and the summary names them."""

import math

import pytest
import torch

from strategies.state import load_state
from tests.deployment.conftest import Scene
from tests.deployment.scenes import ALTERED, CUT, FAULTS, STRICT

WHY = {
    "raises": "OSError: the sensor is unplugged",
    "nan": "is not a usable number",
    "shape": "has shape",
    "keys": "the delta's keys are wrong",
    "huge": "times as long as others",
}
"""What the summary says of each; a delta of zero is averaged like any other."""


@pytest.fixture(scope="module")
def scene(begun) -> Scene:
    found: Scene = begun["faulty"].result()
    return found


@pytest.mark.timeout(700)
def test_the_run_goes_on_to_its_end(scene: Scene) -> None:
    assert scene.summary["rounds"] == 2
    assert scene.summary["idle_rounds"] == 0
    assert (scene.summary["test"]["clients"], scene.summary["test"]["missing"]) == (2, 0)


@pytest.mark.parametrize("fault", WHY)
def test_a_broken_device_is_dropped_and_named(scene: Scene, fault: str) -> None:
    dropped = scene.summary["dropped_clients"]
    assert dropped[str(FAULTS[fault])]["replies"] == 2
    assert WHY[fault] in dropped[str(FAULTS[fault])]["reason"]


def test_a_shard_that_is_altered_in_the_middle_of_a_run_is_dropped(scene: Scene) -> None:
    dropped = scene.summary["dropped_clients"][str(ALTERED)]
    assert "is cut short, altered or no shard" in dropped["reason"]


def test_nobody_else_is_dropped(scene: Scene) -> None:
    expected = {str(FAULTS[fault]) for fault in WHY} | {str(ALTERED)}
    assert scene.summary["dropped_clients"].keys() == expected


def test_a_zero_delta_is_averaged_and_named(scene: Scene) -> None:
    assert scene.summary["zero_deltas"] == {str(FAULTS["zero"]): 2}


@pytest.mark.parametrize(
    ("client", "reason"),
    [(CUT, "is cut short, altered or no shard"), (STRICT, "the owner allows max-steps 2")],
)
def test_a_device_that_takes_no_part_is_named(scene: Scene, client: int, reason: str) -> None:
    assert len(scene.summary["refused_nodes"]) == 2
    assert any(reason in refusal for refusal in scene.summary["refused_nodes"].values())
    assert str(client) not in scene.summary["dropped_clients"]


def test_the_params_are_those_of_the_devices_that_are_well(scene: Scene) -> None:
    """Finite, and no farther from the start than two steps of Adam: at most lr for each number."""
    state = load_state(scene.run, scene.experiment)
    from fedmeta.initial import first_params

    first, _ = first_params(scene.experiment)
    lr, rounding = 0.01, 1e-6
    for name, value in state.params.items():
        assert torch.isfinite(value).all()
        assert float((value - first[name]).abs().max()) <= 2 * lr * math.sqrt(2) + rounding


def test_the_owner_reads_what_became_of_it(scene: Scene) -> None:
    assert "failed: RefusedError: the gradient steps of an evaluation are 3" in scene.log("strict")
    assert "client 2 failed: OSError: the sensor is unplugged" in scene.log("raises")
    assert "loss" in scene.log("well0")
