"""A run that dies goes on to the same bits, whatever it died of."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from simulations.run import run
from strategies import server
from strategies.opening import open_old
from tests.simulations.conftest import CONFIGS, SMALL, small

ROUNDS = 80
"""Of 6 clients: under 500 computations no engine is measured, so every process has the same one."""
CHECKPOINT = "checkpoint/state.safetensors"


def start(
    folder: Path, config: Path = CONFIGS / "quickstart.yaml", rounds: int = ROUNDS
) -> "subprocess.Popen[str]":
    """A run in a process of its own."""
    command = [sys.executable, "-m", "simulations", "run", str(config)]
    settings = [*SMALL, f"rounds={rounds}", "evaluation.every=50"]
    return subprocess.Popen(
        [*command, *settings, "--run-dir", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=hear_ctrl_c,
    )


def hear_ctrl_c() -> None:
    """Where the tests themselves run in the background, their children would be deaf to it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def rows(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def wait_for_rounds(folder: Path, count: int) -> None:
    metrics, deadline = folder / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count('"train"') >= count):
        assert time.monotonic() < deadline, "the run did not get that far"
        time.sleep(0.02)


def without_clock(folder: Path) -> list[dict[str, object]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows(folder)]


@pytest.mark.parametrize(
    ("death", "code", "rounds"),
    [
        (signal.SIGKILL, -9, ROUNDS),
        (signal.SIGINT, 130, ROUNDS),
        pytest.param(signal.SIGKILL, -9, 300, marks=pytest.mark.slow),  # on a measured engine
    ],
)
def test_killed_and_resumed_equals_uninterrupted(
    tmp_path: Path, death: signal.Signals, code: int, rounds: int
) -> None:
    folder, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(folder, rounds=rounds)
    wait_for_rounds(folder, 10)
    os.kill(process.pid, death)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert len([r for r in rows(folder) if r["split"] == "train"]) < rounds
    assert (folder / CHECKPOINT).exists()
    assert ("--resume" in output) == (death == signal.SIGINT)  # nobody can say it after a SIGKILL
    assert "Traceback" not in output

    experiment, _ = open_old(folder, None, [])
    resumed = run(experiment, folder, resume=True, pictures=False)
    whole.mkdir()
    again = small(f"rounds={rounds}", "evaluation.every=50")
    uninterrupted = run(again, whole, pictures=False)

    assert all(resumed.params[k].equal(uninterrupted.params[k]) for k in uninterrupted.params)
    assert (folder / "clients.jsonl").read_bytes() == (whole / "clients.jsonl").read_bytes()
    assert without_clock(folder) == without_clock(whole)
    assert resumed.summary["test"] == uninterrupted.summary["test"]


def test_three_rounds_and_two_more_equal_five_with_server_momentum(tmp_path: Path) -> None:
    settings = ("strategy.name=fedyogi", "strategy.tau=0.001")
    for name, rounds in (("split", 3), ("whole", 5)):
        (tmp_path / name).mkdir()
        experiment = small(*settings, f"rounds={rounds}", "evaluation.every=5")
        run(experiment, tmp_path / name, pictures=False)
    run(experiment, tmp_path / "split", resume=True, pictures=False)
    # the best on validation differs: three rounds end with an evaluation of their own
    last = [tmp_path / name / "metrics.jsonl" for name in ("split", "whole")]
    split, whole = ([json.loads(line) for line in path.read_text().splitlines()] for path in last)
    pick = [[r["loss"] for r in part if r["split"] == "train"] for part in (split, whole)]
    assert pick[0] == pick[1]
    assert [r["after"] for r in split if (r["round"], r["split"]) == (5, "val")] == [
        r["after"] for r in whole if (r["round"], r["split"]) == (5, "val")
    ]


def test_killed_after_its_first_checkpoint_a_run_records_no_round_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of round 0: there is a checkpoint, and the row of the first evaluation was written before it."""
    save = server.save_state

    def save_and_die(*state: object) -> None:
        save(*state)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    experiment = small("engine.name=loop", "tracking.tensorboard=true")
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(server, "save_state", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            run(experiment, tmp_path / "killed", pictures=False)
    assert [(row["round"], row["split"]) for row in rows(tmp_path / "killed")] == [(0, "val")]
    resumed = run(experiment, tmp_path / "killed", resume=True, pictures=False)
    uninterrupted = run(experiment, tmp_path / "whole", pictures=False)
    assert without_clock(tmp_path / "killed") == without_clock(tmp_path / "whole")
    assert resumed.summary["test"] == uninterrupted.summary["test"]
    events = EventAccumulator(str(tmp_path / "killed" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("val/after/loss")] == [0, 2, 4]
