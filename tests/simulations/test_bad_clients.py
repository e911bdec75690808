"""A bad client never harms the run; a bug of everybody's stops it; a failing recorder changes nothing."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmeta.client_state import ClientStates
from fedmeta.cohort import Cohort
from fedmeta.config import Experiment
from fedmeta.data import DATASETS
from fedmeta.data.federation import Clients, Purpose
from fedmeta.data.sinusoid import Sinusoid, SinusoidFederation
from fedmeta.errors import FedmetaError
from fedmeta.initial import first_params
from fedmeta.seeding import Part
from fedmeta.settings import CohortSettings
from fedmeta.types import Batch, Episode
from simulations.run import run
from strategies.sampling import sample
from strategies.state import load_state
from tests.simulations.conftest import small

RAISES, POISONED = 3, 5


@dataclass(frozen=True)
class Troubled(Sinusoid):
    """Sinusoids where one client's storage is broken and another's support holds NaN."""

    broken_up_to: int = -1
    """-1: the two above are in trouble; else every client up to this one raises."""

    unscored: int = -1
    """A client that raises when it is evaluated."""

    def open(self, seed: int, device: torch.device, dtype: torch.dtype) -> "TroubledFederation":
        return TroubledFederation(self, seed, device, dtype)


class TroubledFederation(SinusoidFederation):
    def draw(
        self, clients: Clients, draws: int, seed: int, purpose: Purpose, *address: Part
    ) -> Episode:
        assert isinstance(self.dataset, Troubled)
        last = self.dataset.broken_up_to
        if purpose == "evaluate" and self.dataset.unscored in clients:
            raise OSError("this one too")
        if purpose == "train" and (np.any(clients <= last) or (last < 0 and RAISES in clients)):
            raise OSError("the disk of this client is broken")
        episode = super().draw(clients, draws, seed, purpose, *address)
        if last < 0 and purpose == "train" and POISONED in clients:
            row = clients.tolist().index(POISONED)
            x = episode.support.x.clone()
            x[row] = float("nan")
            episode = Episode(Batch(x, episode.support.y), episode.query)
        return episode


@pytest.fixture
def troubled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS, "troubled", Troubled)


def everybody(*overrides: str) -> Experiment:
    """All of ten clients take part in every round."""
    sizes = ("data.clients.train=10", "cohort.clients=10", "rounds=3", "evaluation.every=3")
    return small("data.name=troubled", *sizes, *overrides)


@pytest.mark.usefixtures("troubled")
@pytest.mark.parametrize("engine", ["loop", "vmap"])
@pytest.mark.parametrize("replies", ["each", "sum"])
def test_bad_clients_are_dropped_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, engine: str, replies: str
) -> None:
    with caplog.at_level(logging.WARNING):
        run(everybody(f"engine.name={engine}", f"cohort.replies={replies}"), tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    dropped = summary["dropped_clients"]
    assert summary["dropped_replies"] == 6
    assert {client: who["replies"] for client, who in dropped.items()} == {"3": 3, "5": 3}
    assert dropped["3"]["reason"] == "OSError: the disk of this client is broken"
    assert "not a usable number" in dropped["5"]["reason"]
    assert "round 1: client 3 dropped: OSError" in caplog.text
    assert summary["test"]["clients"] == 7
    params = load_state(tmp_path, everybody(f"cohort.replies={replies}")).params
    assert all(torch.isfinite(value).all() for value in params.values())


@pytest.mark.usefixtures("troubled")
def test_a_bad_test_client_is_missing_and_the_others_are_scored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten train, five val, so 15 is the first of seven test clients."""
    with caplog.at_level(logging.WARNING):
        run(everybody("data.unscored=15", "rounds=1"), tmp_path)
    test = json.loads((tmp_path / "summary.json").read_text())["test"]
    assert (test["clients"], test["missing"]) == (6, 1)
    assert "client 15 could not be scored: OSError: this one too" in caplog.text


@pytest.mark.usefixtures("troubled")
def test_the_others_train_as_if_the_bad_were_not_there(tmp_path: Path) -> None:
    """One round over all ten equals one round over the good eight, weighted alike."""
    (tmp_path / "all").mkdir()
    exact = ("engine.name=loop", "cohort.replies=each", "rounds=1")
    found = run(everybody(*exact), tmp_path / "all").params

    experiment = everybody(*exact)
    (start, _), good = first_params(experiment), [0, 1, 2, 4, 6, 7, 8, 9]
    rules = experiment.strategy.rules()
    replies = Cohort.open(experiment).train(start, good, 1, ClientStates(tmp_path / "states"))
    delta = rules.combine([replies], start, {}).delta
    expected, _ = rules.optimizer.step(start, delta, {}, 0.0)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.usefixtures("troubled")
def test_too_few_good_replies_keep_the_params_and_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = everybody("cohort.min_replies=9", "evaluation.select=last")
    with caplog.at_level(logging.WARNING):
        found = run(experiment, tmp_path).params
    start, _ = first_params(experiment)
    assert all(torch.equal(found[name], start[name]) for name in start)
    assert "8 good replies, 9 needed: the params stay as they were" in caplog.text
    assert json.loads((tmp_path / "summary.json").read_text())["idle_rounds"] == 3


@pytest.mark.usefixtures("troubled")
def test_everybody_failing_alike_is_a_bug_and_stops_the_run(tmp_path: Path) -> None:
    experiment = everybody("data.broken_up_to=9")
    with pytest.raises(
        FedmetaError, match=r"round 3: all 10 clients failed alike, .* before: OSError"
    ) as stop:
        run(experiment, tmp_path)
    assert stop.value.exit_code == 1


def test_where_training_diverges_the_reason_says_what_helps(tmp_path: Path) -> None:
    """At a rate of 1e4 the first step leads to where every delta is unlike those of before."""
    experiment = small("strategy.lr=1e4", "rounds=9")
    with pytest.raises(FedmetaError, match=r"6 clients failed alike, .* A smaller strategy\.lr"):
        run(experiment, tmp_path)


class Broken:
    """A recorder that fails when the run is under way."""

    def start(self, run: Any) -> None: ...

    def record(self, row: Any) -> None:
        raise ConnectionError("no route to the tracking server")

    def finish(self, summary: Any) -> None: ...


def test_a_failing_recorder_changes_nothing(tmp_path: Path) -> None:
    for name in ("watched", "alone"):
        (tmp_path / name).mkdir()
    watched = run(small(), tmp_path / "watched", [Broken()])
    alone = run(small(), tmp_path / "alone")
    assert all(watched.params[name].equal(alone.params[name]) for name in alone.params)
    summary = json.loads((tmp_path / "watched" / "summary.json").read_text())
    assert summary["failed_recorders"] == ["Broken"]


def test_the_cohort_of_a_round_is_the_one_that_sampling_says(tmp_path: Path) -> None:
    """The mean loss on record is that of the sampled clients and no others."""
    experiment = small("rounds=1", "engine.name=loop")
    run(experiment, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    (recorded,) = [row["loss"] for row in rows if row["split"] == "train"]
    chosen = sample(np.arange(30), CohortSettings(6), experiment.seed, 1).tolist()
    start, _ = first_params(experiment)
    replies = Cohort.open(experiment).train(start, chosen, 1, ClientStates(tmp_path / "states"))
    assert recorded == pytest.approx(float(replies.columns["loss"].double().mean()), rel=1e-12)
