"""What rounds have cost, added up over rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedmeta.run_folder import write_lines
from fedmeta.tracking.progress import Progress, behind
from fedmeta.tracking.recorder import Run

Watch = Callable[..., Run]


def trained(round: int, **more: Any) -> dict[str, Any]:
    return {
        "round": round, "split": "train", "clients": 4, "dropped": 1, "seconds": 0.5,
        "bytes_down": 100, "bytes_up": 30, "steps": 2.5,
    } | more  # fmt: skip


EVALUATED = {"round": 1, "split": "val", "seconds": 99.0, "clients": 50}


def test_dropped_clients_were_sent_the_params_and_sent_nothing_that_counts() -> None:
    """5 of 100 bytes down, 4 of 30 up: 620 a round. 4 clients of 2.5 steps: 10 gradients."""
    found = Progress.of([trained(1), EVALUATED, trained(2)])
    assert found == Progress(2, 1.0, 1240, 8, 20, None)
    assert Progress.of([EVALUATED]) == Progress()


def test_simulated_seconds_are_a_clock_that_rows_read() -> None:
    rows = [trained(1, simulated_seconds=7.5), trained(2, simulated_seconds=11.0)]
    assert Progress.of(rows).simulated_seconds == 11.0


def test_what_one_row_does_not_say_is_not_known_from_there_on() -> None:
    old = {key: value for key, value in trained(1).items() if key not in ("bytes_down", "steps")}
    found = Progress.of([old, trained(2)])
    assert (found.bytes, found.gradients, found.client_updates) == (None, None, 8)
    assert found.scalars() == {
        "progress/round": 2, "progress/seconds": 1.0, "progress/client_updates": 8,
    }  # fmt: skip


def test_a_round_without_clients_has_no_mean_and_no_gradients() -> None:
    empty = {key: value for key, value in trained(1, clients=0).items() if key != "steps"}
    assert Progress.of([empty]).gradients == 0


def test_a_resumed_run_goes_on_from_what_its_checkpoint_has_behind(
    tmp_path: Path, watch: Watch
) -> None:
    write_lines(tmp_path / "metrics.jsonl", [trained(1), EVALUATED, trained(2)])
    assert behind(watch(tmp_path, resumed_at=1)) == Progress(1, 0.5, 620, 4, 10)
    assert behind(watch(tmp_path)) == Progress()
