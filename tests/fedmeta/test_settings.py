"""Settings of a run that are out of range stop it with their key, the value and what is allowed."""

import pytest

from fedmeta.errors import ConfigError
from fedmeta.settings import AttackSettings, CohortSettings, DeviceSettings

nan, inf = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clients": 0}, "cohort.clients must be 1 or more, got 0"),
        ({"min_replies": 0}, "cohort.min_replies must be 1 or more, got 0"),
        ({"min_replies": 6}, "cohort.min_replies must be at most cohort.clients (5), got 6"),
        ({"timeout": 0.0}, "cohort.timeout must be a number above 0, got 0.0"),
        ({"timeout": -1.0}, "cohort.timeout must be a number above 0, got -1.0"),
        ({"timeout": inf}, "cohort.timeout must be a number above 0, got inf"),
        ({"timeout": nan}, "cohort.timeout must be a number above 0, got nan"),
        ({"wait": -1.0}, "cohort.wait must be a number above 0, got -1.0"),
        ({"wait": inf}, "cohort.wait must be a number above 0, got inf"),
        ({"wait": nan}, "cohort.wait must be a number above 0, got nan"),
        ({"outlier": 1.0}, "cohort.outlier must be a number above 1, got 1.0"),
        ({"outlier": 0.5}, "cohort.outlier must be a number above 1, got 0.5"),
        ({"outlier": -2.0}, "cohort.outlier must be a number above 1, got -2.0"),
        ({"outlier": inf}, "cohort.outlier must be a number above 1, got inf"),
        ({"outlier": nan}, "cohort.outlier must be a number above 1, got nan"),
    ],
)
def test_a_cohort_out_of_range(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        CohortSettings(**({"clients": 5} | changes))  # type: ignore[arg-type]
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    "changes",
    [
        {"min_replies": 5},
        {"timeout": 1e-3},
        {"wait": 0.0},
        {"wait": 0.5},
        {"outlier": 0.0},
        {"outlier": 1.001},
    ],
)
def test_a_cohort_at_its_limits(changes: dict[str, float]) -> None:
    """No wait is no wait, and without an outlier none is looked for."""
    settings = CohortSettings(clients=5, **changes)  # type: ignore[arg-type]
    assert all(getattr(settings, name) == value for name, value in changes.items())


@pytest.mark.parametrize("deadline", [3.0, 10.0])
def test_a_deadline_that_no_device_can_keep(deadline: float) -> None:
    """Each takes the overhead, and then it has computed and sent nothing yet."""
    with pytest.raises(ConfigError) as refusal:
        DeviceSettings("equal", overhead=10.0, deadline=deadline)
    assert str(refusal.value) == (
        "devices.deadline must be above devices.overhead (10 s), or no reply is in time; "
        f"got {deadline}"
    )
    assert DeviceSettings("equal", overhead=2.9, deadline=deadline).deadline == deadline


def test_attackers_that_do_nothing() -> None:
    with pytest.raises(ConfigError) as refusal:
        AttackSettings(fraction=0.2)
    assert str(refusal.value) == "attack.fraction needs an attack.name other than none, got 0.2"
