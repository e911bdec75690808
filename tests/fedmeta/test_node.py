"""What a node refuses to do for a server."""

import os
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, RecordDict

from fedmeta.config import parse
from fedmeta.data.shard import write_shard
from fedmeta.errors import ConfigError
from fedmeta.host import Host
from fedmeta.initial import first_params
from fedmeta.node import answer
from fedmeta.packing import pack_params, unpack_params
from fedmeta.wire import Work, pack_work, short, unpack_replies


def test_a_message_cannot_read_the_environment_of_a_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SECRET", "hunter2")
    content = pack_work(ArrayRecord(), Work("name: ${oc.env:MY_SECRET}", 0, []))
    with pytest.raises(ConfigError) as refusal:
        answer("query", content, Host(tmp_path))
    assert "hunter2" not in str(refusal.value)


FEDPER = """
name: kept
seed: 0
rounds: 3
data: {name: sinusoid, shots: 4, queries: 5, examples: 12, clients: {train: 9, val: 5, test: 5}}
model: {name: mlp, hidden: [6]}
learner: {name: fedper, lr: 0.02, epochs: 1, batch_size: 4}
strategy: {name: fedavg}
cohort: {clients: 3}
engine: {name: loop, device: cpu}
evaluation: {every: 1, steps: 1, clients: 5}
"""


def message(run: str, clients: list[int], config: str = FEDPER) -> RecordDict:
    params, _ = first_params(parse(config))
    return pack_work(pack_params(params), Work(config, 1, clients, run=run))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("run", ["../x", "../../x", "/x", "a/b", "..", ".", "", "A", "~"])
def test_a_server_cannot_choose_where_a_node_writes(tmp_path: Path, run: str) -> None:
    (tmp_path / "states").mkdir()
    with pytest.raises(ConfigError, match="name of a run must be hexadecimal"):
        answer("train", message(run, [1, 2]), Host(tmp_path / "states"))
    assert files(tmp_path) == []


def test_a_node_keeps_a_state_for_each_client_under_the_name_of_the_run(tmp_path: Path) -> None:
    for run in ("0af3", "0af4"):
        reply = unpack_replies(answer("train", message(run, [1, 2]), Host(tmp_path / "states")))
        assert (reply.clients, reply.failures) == ([1, 2], {})
    assert files(tmp_path) == [
        f"states/{run}/{client}/1.safetensors" for run in ("0af3", "0af4") for client in (1, 2)
    ]


def test_clients_that_keep_nothing_leave_no_file(tmp_path: Path) -> None:
    config = FEDPER.replace("fedper", "sgd")
    answer("train", message("0af3", [1, 2], config), Host(tmp_path / "states"))
    assert files(tmp_path) == []


def test_a_client_that_is_no_number_leads_nowhere(tmp_path: Path) -> None:
    """A hostile server's ids are no path."""
    content = message("0af3", [1])
    content.config_records["work"]["clients"] = ["../../x"]
    with pytest.raises(ValueError, match="invalid literal for int"):
        answer("train", content, Host(tmp_path / "states"))
    assert files(tmp_path) == []


def test_a_reason_is_one_short_line() -> None:
    assert short("OSError: no\n  space") == "OSError: no space"
    assert len(short("x" * 10**6)) == 300
    assert (
        short("<class 'fedmeta.errors.DataError'>:<'no such shard'>") == "DataError: no such shard"
    )
    assert short("<class 'OSError'>:<'no <'x'>'>") == "OSError: no <'x'>"
    assert short("\x1b]0;title\x07 \u202eback") == "?]0;title? ?back"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"clients": [10**9]}, "client 1000000000 is not hosted here"),
        ({"clients": [1, -3]}, "client -3 is not hosted here"),
        ({"clients": [1, 2, 1]}, "a client is named more than once"),
        ({"round": -7}, "the round must be 0 or more, got -7"),
    ],
)
def test_work_that_no_server_would_send_is_refused(tmp_path: Path, change, reason: str) -> None:
    content = message("0af3", [1])
    for key, value in change.items():
        content.config_records["work"][key] = value
    with pytest.raises(ValueError, match=reason):
        answer("train", content, Host(tmp_path / "states"))
    assert files(tmp_path) == []


def test_a_server_gets_no_more_threads_than_there_are_processors(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    config = FEDPER.replace("{name: loop, device: cpu}", "{name: loop, device: cpu, threads: 500}")
    try:
        answer("query", message("0af3", [1], config), Host(tmp_path / "states"))
        assert torch.get_num_threads() == os.cpu_count()
    finally:
        torch.set_num_threads(before)


def test_params_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    content = message("0af3", [1])
    sent = unpack_params(content.array_records["params"])
    name = next(iter(sent))
    for wrong in ({}, sent | {"more": sent[name]}, sent | {name: sent[name][:1]}):
        content.array_records["params"] = pack_params(wrong)
        with pytest.raises(ValueError, match="the params do not fit the experiment: "):
            answer("evaluate", content, Host(tmp_path / "states"))


def test_an_escaped_interpolation_reads_no_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SECRET", "hunter2")
    content = message("0af3", [1])
    content.config_records["work"]["experiment"] += 'start: "\\x24{oc.env:MY_SECRET}"\n'
    with pytest.raises(ConfigError, match="must be resolved") as refusal:
        answer("query", content, Host(tmp_path))
    assert "hunter2" not in str(refusal.value)


def test_a_roster_says_whether_the_clients_are_those_of_a_device(tmp_path: Path) -> None:
    """A node without a shard hosts those of the experiment, as every other."""
    federation = parse(FEDPER).data.open(0, torch.device("cpu"), torch.float32)
    write_shard(federation.take(3, "sinusoid"), tmp_path / "3.safetensors")
    content = message("0af3", [])
    found = []
    for host in (Host(tmp_path), Host(tmp_path, tmp_path / "3.safetensors")):
        node = answer("query", content, host).config_records["node"]
        found.append((node["own"], node["train"]))
    assert found == [(False, [0, 9]), (True, [3, 4])]
