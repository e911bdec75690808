"""Clients that took part are scored with what they kept, on what training never drew."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmeta.client_state import ClientStates
from fedmeta.cohort import Cohort
from fedmeta.errors import ConfigError
from fedmeta.initial import first_params
from fedmeta.settings import CohortSettings
from simulations.run import run
from strategies.sampling import sample
from strategies.state import STATES, load_state
from tests.simulations.conftest import STATEFUL, small, small_with

SEEN = ("data.held_out=10", "evaluation.seen=8", "engine.name=loop", "engine.dtype=float64")


@pytest.mark.parametrize("learner", ["ditto", "fedper"])
def test_the_last_that_took_part_are_scored_with_what_they_kept(
    tmp_path: Path, learner: str
) -> None:
    experiment = small_with(tmp_path, STATEFUL[learner], *SEEN)
    folder = tmp_path / "run"
    run(experiment, folder)
    seen = json.loads((folder / "summary.json").read_text())["seen"]
    assert seen["clients"] == 8

    last, before = (sample(np.arange(30), CohortSettings(6), 0, round).tolist() for round in (4, 3))
    who = sorted([*last, *(client for client in before if client not in last)][:8])
    state, block = load_state(folder, experiment), Cohort.open(experiment)
    kept = ClientStates(folder / STATES / state.run).read(who, 5, block.private)
    losses = []
    for position, client in enumerate(who):
        own = {name: values[position] for name, values in kept.items()}
        model = {n.removeprefix("personal/"): v for n, v in (state.params | own).items()}
        query = block.federation.draw(np.array([client]), 1, 0, "evaluate").draw(0).draw(0).query
        losses.append(float(block.objective(model, query)))
    assert seen["before"]["loss"] == pytest.approx(np.mean(losses), rel=1e-9)


def test_what_was_kept_matters(tmp_path: Path) -> None:
    """With the first params as state a client scores as a new one; with others, otherwise."""
    block = Cohort.open(small_with(tmp_path, STATEFUL["fedper"], *SEEN))
    params, first = first_params(small_with(tmp_path, STATEFUL["fedper"], *SEEN))
    states = ClientStates(tmp_path / "states")
    none = block.evaluate(params, [1, 2], 1, 1, states)
    assert (none.clients, none.failures[1]) == (
        [],
        "DataError: client 1 kept nothing from training",
    )
    shift = torch.tensor([0.0, 1.0])
    states.write([1, 2], 1, {n: torch.stack([v + s for s in shift]) for n, v in first.items()})
    new, kept = (block.evaluate(params, [1, 2], 1, 1, s).curves["loss"] for s in (None, states))
    assert new[0].equal(kept[0])
    assert not new[1].isclose(kept[1]).any()


def test_seen_clients_are_scored_for_learners_without_memory_too(tmp_path: Path) -> None:
    run(small(*SEEN), tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["seen"]["clients"], summary["seen"]["missing"]) == (8, 0)
    rows = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["split"] for row in rows][-2:] == ["test", "seen"]


def test_fewer_may_have_taken_part_than_are_asked_for(tmp_path: Path) -> None:
    run(small(*SEEN, "rounds=1"), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["seen"]["clients"] == 6


def test_nothing_held_out_nothing_to_score(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^evaluation\.seen needs .* data\.held_out must be"):
        run(small("evaluation.seen=8"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
