"""The ledger says what happened: who counted by how much, who did not and why."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Error, RecordDict

from fedmeta.config import parse, read_mapping
from fedmeta.wire import pack_replies, unpack_replies
from simulations.executors.local import LocalExecutor
from simulations.run import run
from strategies.clock import Clock
from strategies.ledger import LEDGER, Ledger, entries
from strategies.rules import Outcome
from strategies.state import load_state
from strategies.stock import STRATEGIES

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
SMALL = (
    *("rounds=4", "cohort.clients=6", "data.clients.train=12", "data.clients.val=3"),
    *("data.clients.test=3", "evaluation.clients=3", "evaluation.every=4", "engine.name=loop"),
)


def ran(folder: Path, strategy: dict[str, Any], *overrides: str, resume: bool = False) -> Any:
    sections = read_mapping(QUICKSTART) | {"strategy": {"lr": 0.01} | strategy}
    experiment = parse(sections, [*SMALL, *overrides], STRATEGIES)
    folder.mkdir(exist_ok=True)
    run(experiment, folder, resume=resume, pictures=False)
    return experiment


def rows(folder: Path, name: str = LEDGER) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def trained(folder: Path) -> list[dict[str, Any]]:
    return [row for row in rows(folder, "metrics.jsonl") if row["split"] == "train"]


@pytest.mark.parametrize(
    ("name", "replies"), [("pyramid", "each"), ("pyramid", "sum"), ("fedavg", "sum")]
)
def test_there_is_a_line_for_every_client_of_every_round(
    tmp_path: Path, name: str, replies: str
) -> None:
    """Weights sum to 1, and what the recorders hear is the mean over the lines."""
    ran(tmp_path, {"name": name}, f"cohort.replies={replies}", "cohort.measure=true")
    for row in trained(tmp_path):
        lines = [line for line in rows(tmp_path) if line["round"] == row["round"]]
        assert len({line["client"] for line in lines}) == 6
        weights = [line["weight"] for line in lines]
        assert sum(weights) == pytest.approx(1, rel=1e-12)
        if name == "pyramid":
            total = sum(line["alpha"] for line in lines)
            assert weights == pytest.approx([line["alpha"] / total for line in lines])
        for column in ("loss", "loss_after", "loss_before", "support_loss", "alpha", "steps"):
            mean = sum(line[column] for line in lines) / 6
            assert row[column] == pytest.approx(mean, rel=1e-9)
        weighted = sum(line["weight"] * line["loss_after"] for line in lines)
        assert row["weighted_loss_after"] == pytest.approx(weighted, rel=1e-9)
        assert all(line["bytes_up"] == row["bytes_up"] for line in lines)


def test_weights_that_do_not_sum_to_1_are_those_of_the_step(tmp_path: Path) -> None:
    """One round of q-FedAvg: the params are moved by the sum of weight times delta."""
    ran(tmp_path, {"name": "qfedavg", "q": 2.0}, "rounds=1", "evaluation.every=1")
    assert all(0 < line["weight"] < 1 for line in rows(tmp_path))
    assert sum(line["weight"] for line in rows(tmp_path)) < 1


def test_rules_that_mix_every_number_anew_name_no_weight(tmp_path: Path) -> None:
    ran(tmp_path, {"name": "median"}, "rounds=1", "evaluation.every=1")
    assert [line["weight"] for line in rows(tmp_path)] == [None] * 6


def test_who_dropped_out_or_was_late_is_there_with_the_reason(tmp_path: Path) -> None:
    """Beside what the clock says: a device is late if its seconds are past the deadline."""
    devices = ("devices.slowness=half_normal", "devices.seconds_per_step=10")
    chances = ("devices.dropout=0.3", "devices.deadline=20", "rounds=8", "evaluation.every=8")
    experiment = ran(tmp_path, {"name": "uniform"}, *devices, *chances)
    clock = Clock.of(experiment, load_state(tmp_path, experiment).params)
    assert clock is not None
    reasons = set[str]()
    for line in rows(tmp_path):
        client = torch.tensor([line["client"]]).numpy()
        (took,), (here,) = clock.seconds(client, 1.0), clock.reachable(client, line["round"])
        if not here:
            assert line == {**line, "dropped": "dropped out (simulated)"}
        elif took > 20:
            assert line["dropped"] == f"{took:.0f} s (simulated), past the deadline"
        else:
            assert line["device_seconds"] == pytest.approx(took)
        assert ("dropped" in line) != ("weight" in line)
        reasons.add(line.get("dropped", "")[-9:])
    assert len(reasons) == 3
    for row in trained(tmp_path):
        lines = [line for line in rows(tmp_path) if line["round"] == row["round"]]
        assert len(lines) == 6
        assert sum("dropped" in line for line in lines) == row["dropped"]


def test_who_came_in_for_nothing_weighs_nothing(tmp_path: Path) -> None:
    """Of six clients some are late, and with fewer than six good replies no step is taken."""
    devices = ("devices.slowness=half_normal", "devices.seconds_per_step=10")
    ran(tmp_path, {"name": "uniform"}, *devices, "devices.deadline=20", "cohort.min_replies=6")
    lines = rows(tmp_path)
    late = {line["round"] for line in lines if "dropped" in line}
    assert late
    assert len(lines) == 4 * 6
    came = [line for line in lines if line["round"] in late and "dropped" not in line]
    assert {line["weight"] for line in came} == {0.0}
    assert all(line["loss"] > 0 for line in came)


def test_deltas_that_were_on_their_way_say_how_late_they_are(tmp_path: Path) -> None:
    fedbuff = {"name": "fedbuff", "concurrency": 9}
    ran(tmp_path, fedbuff, "devices.slowness=half_normal", "cohort.clients=3")
    lines = rows(tmp_path)
    assert [line["round"] for line in lines] == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    for line in lines:
        assert line["weight"] == pytest.approx((1 + line["staleness"]) ** -0.5 / 3)
    assert {line["staleness"] for line in lines} > {0.0, 1.0}


def test_a_resumed_run_takes_back_what_lies_after_its_checkpoint(tmp_path: Path) -> None:
    """Lines of a round whose checkpoint was never written, and half a line; then all is as if not."""
    settings = ({"name": "fedavg"}, "evaluation.every=2")
    ran(tmp_path / "whole", *settings)
    ran(tmp_path / "split", *settings, "rounds=2")
    with (tmp_path / "split" / LEDGER).open("a") as file:
        file.write('{"round": 3, "client": 1, "weight": 1.0}\n{"round": 3, "cli')
    ran(tmp_path / "split", *settings, resume=True)
    texts = [(tmp_path / name / LEDGER).read_bytes() for name in ("whole", "split")]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(("behind", "kept"), [(0, 0), (1, 2), (2, 3), (9, 3)])
def test_cutting(tmp_path: Path, behind: int, kept: int) -> None:
    lines = [f'{{"round": {r}, "client": 5}}\n' for r in (1, 1, 2)]
    (tmp_path / LEDGER).write_text("".join(lines) + '{"round": 2')
    ledger = Ledger(tmp_path, behind)
    assert (tmp_path / LEDGER).read_text() == "".join(lines[:kept])
    ledger.write([{"round": 7, "client": 1}])
    assert (tmp_path / LEDGER).read_text() == "".join(lines[:kept]) + '{"round": 7, "client": 1}\n'


def test_who_wants_no_ledger_has_none(tmp_path: Path) -> None:
    ran(tmp_path, {"name": "fedavg"}, "tracking.ledger=false")
    assert not (tmp_path / LEDGER).exists()


def test_lines_are_plain_json_without_what_is_no_number(tmp_path: Path) -> None:
    outcome = Outcome({}, [4], torch.ones(1), {"loss": torch.tensor([float("nan")])}, {})
    Ledger(tmp_path, 0).write(entries(3, outcome, {9: "no reply in time"}, {"bytes_up": 8}))
    assert rows(tmp_path) == [
        {"round": 3, "client": 4, "weight": 1.0, "loss": None, "bytes_up": 8},
        {"round": 3, "client": 9, "dropped": "no reply in time"},
    ]


def test_what_clients_call_their_columns_changes_nothing_that_the_server_says() -> None:
    names = ("client", "round", "weight", "bytes_up", "dropped", "loss")
    outcome = Outcome({}, [4], torch.ones(1), {name: torch.tensor([5.0]) for name in names}, {})
    lines = entries(3, outcome, {}, {"bytes_up": 8})
    assert lines == [{"round": 3, "client": 4, "weight": 1.0, "bytes_up": 8, "loss": 5.0}]


class Misnaming(LocalExecutor):
    """Its clients say ``loss`` under the names of what the server says."""

    def execute(
        self, message_type: str, work: Sequence[tuple[int, RecordDict]]
    ) -> list[RecordDict | Error]:
        answers = super().execute(message_type, work)
        return [self._misnamed(answer) if message_type == "train" else answer for answer in answers]

    @staticmethod
    def _misnamed(answer: RecordDict | Error) -> RecordDict:
        assert isinstance(answer, RecordDict)
        replies = unpack_replies(answer)
        names = ("round", "split", "weight", "bytes_up", "clients", "dropped", "seconds")
        odd = {name: replies.columns["loss"] + 1e9 for name in names}
        return pack_replies(replace(replies, columns=replies.columns | odd))


def test_rows_and_ledger_stay_whole_where_clients_misname_their_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the ledger is cut at a resume: it is that of a run with well-behaved clients."""
    settings = ({"name": "fedavg"}, "evaluation.every=2")
    ran(tmp_path / "whole", *settings)
    monkeypatch.setattr("simulations.executors.LocalExecutor", Misnaming)
    ran(tmp_path / "odd", *settings, "rounds=2")
    ran(tmp_path / "odd", *settings, resume=True)
    said = ("round", "split", "clients")
    whole, odd = (rows(tmp_path / name, "metrics.jsonl") for name in ("whole", "odd"))
    assert [[row[key] for key in said] for row in odd] == [
        [row[key] for key in said] for row in whole
    ]
    assert all(
        (row["dropped"], row["seconds"] < 1e9) == (0, True) for row in trained(tmp_path / "odd")
    )
    wanted = ("round", "client", "weight", "loss")
    whole, odd = (rows(tmp_path / name) for name in ("whole", "odd"))
    assert [[line[key] for key in wanted] for line in odd] == [
        [line[key] for key in wanted] for line in whole
    ]
    assert not any("dropped" in line or line["bytes_up"] >= 1e9 for line in odd)


def test_pandas_reads_it_as_one_table(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    ran(tmp_path, {"name": "fedavg"})
    table = pandas.read_json(tmp_path / LEDGER, lines=True)
    assert len(table) == 4 * 6
    assert table.groupby("round").weight.sum().tolist() == pytest.approx([1.0] * 4)
