"""What is counted over a run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from strategies.validation import Checked

NAMED = 1000
"""Dropped clients whose reason is kept; all are counted."""


@dataclass(frozen=True)
class Tally:
    """What is counted over the run."""

    seconds: float = 0.0
    """Wall time of the rounds, evaluations included."""
    client_rounds: int = 0
    """Clients trained, summed over rounds."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Dropped replies by client id."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why each client was last dropped."""
    idle_rounds: int = 0
    """Rounds that kept the old params for want of good replies."""
    failing_rounds: int = 0
    """Latest rounds in a row in which all clients failed alike."""
    zero_deltas: dict[str, int] = field(default_factory=dict)
    """Deltas of zero by client id, where they came one by one."""
    longest: float = 0.0
    """Length of the longest delta that was averaged."""
    simulated_seconds: float = 0.0
    """Of all rounds, where devices are simulated."""
    gradients: float = 0.0
    """Gradient steps of all clients."""
    bytes_down: float = 0.0
    bytes_up: float = 0.0
    """Sent to clients and by them in all rounds, as if each were a node of its own."""


def count(
    tally: Tally,
    checked: Checked,
    idle: bool,
    alike: bool,
    bytes_down: float,
    seconds: float,
    now: float = 0.0,
) -> Tally:
    """The tally after a round in which each client received so many bytes; ``now`` is simulated."""
    reasons = dict(tally.reasons)
    for client, reason in checked.dropped.items():
        if len(reasons) < NAMED or str(client) in reasons:
            reasons[str(client)] = reason
    asked = checked.clients + len(checked.dropped)
    return Tally(
        seconds=tally.seconds + seconds,
        client_rounds=tally.client_rounds + checked.clients,
        dropped=_more(tally.dropped, checked.dropped),
        reasons=reasons,
        idle_rounds=tally.idle_rounds + idle,
        failing_rounds=tally.failing_rounds + 1 if alike else 0,
        zero_deltas=_more(tally.zero_deltas, checked.still),
        longest=checked.longest,
        simulated_seconds=now,
        gradients=tally.gradients + _gradients(checked),
        bytes_down=tally.bytes_down + asked * bytes_down,
        bytes_up=tally.bytes_up + checked.clients * checked.bytes_up,
    )


def _gradients(checked: Checked) -> float:
    steps = [reply.columns["steps"] for reply in checked.replies if "steps" in reply.columns]
    return float(sum(each.sum() for each in steps))


def _more(counts: Mapping[str, int], clients: Iterable[int]) -> dict[str, int]:
    return dict(counts) | {str(client): counts.get(str(client), 0) + 1 for client in clients}
