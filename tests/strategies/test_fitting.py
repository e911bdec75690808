"""What could never run is refused at the start, in one line that names the key."""

from pathlib import Path
from typing import Any

import pytest

from fedmeta.config import Experiment, parse, read_mapping
from fedmeta.errors import ConfigError
from strategies.fitting import check_fit, needs, temperature, weight_column
from strategies.opening import open_mapping
from strategies.stock import STRATEGIES

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
TIMED = ("devices.slowness=half_normal",)
BUFFERED = (*TIMED, "cohort.clients=10")


def sections(strategy: str) -> dict[str, Any]:
    return read_mapping(QUICKSTART) | {"strategy": {"name": strategy, "lr": 0.1}}


def built(strategy: str, *overrides: str) -> Experiment:
    return parse(sections(strategy), overrides, STRATEGIES)


def column(strategy: str, *overrides: str) -> str:
    experiment = built(strategy, *overrides)
    return weight_column(experiment, experiment.strategy.rules())


REFUSED = {
    "fedbuff without devices": (
        ("fedbuff",),
        "devices.slowness must be equal or half_normal for fedbuff, which is about time, got none",
    ),
    "fedbuff with a deadline": (
        ("fedbuff", *BUFFERED, "devices.deadline=60"),
        "devices.deadline must not be set for fedbuff: nobody waits for the slow",
    ),
    "fewer at once than a step takes": (
        ("fedbuff", *BUFFERED, "strategy.concurrency=9"),
        "strategy.concurrency must be at least the 10 deltas of a step (cohort.clients), got 9",
    ),
    "fedbuff that waits for replies": (
        ("fedbuff", *BUFFERED, "cohort.min_replies=2"),
        "cohort.min_replies must be 1 for fedbuff, got 2",
    ),
    "fedbuff in turns": (
        ("fedbuff", *BUFFERED, "cohort.sampling=round_robin"),
        "cohort.sampling must not be round_robin for fedbuff: whose turn it is may be on its way",
    ),
    "fewer candidates than begin at once": (
        ("fedbuff", *BUFFERED, "cohort.sampling=loss", "cohort.candidates=20"),
        "cohort.candidates must be at least the 100 clients of strategy.concurrency, got 20",
    ),
    "fedbuff in sums": (
        ("fedbuff", *BUFFERED, "cohort.replies=sum"),
        "cohort.replies must be auto or each, got sum: the strategy looks at the delta of every client",
    ),
    "sums for q-FedAvg": (
        ("qfedavg", "cohort.replies=sum"),
        "cohort.replies must be auto or each, got sum: the strategy looks at the delta of every client",
    ),
    "sums with a deadline": (
        ("fedavg", *TIMED, "devices.deadline=60", "cohort.replies=sum"),
        "cohort.replies must be auto or each, got sum: devices.deadline leaves out single clients",
    ),
    "seen clients that losses choose": (
        ("fedavg", "cohort.sampling=loss", "evaluation.seen=5"),
        "evaluation.seen must be 0 where who takes part depends on losses or on simulated devices, got 5",
    ),
    "seen clients that time chooses": (
        ("fedbuff", *BUFFERED, "evaluation.seen=5"),
        "evaluation.seen must be 0 where who takes part depends on losses or on simulated devices, got 5",
    ),
    "seen clients that may have dropped out": (
        ("fedavg", *TIMED, "devices.dropout=0.1", "evaluation.seen=5"),
        "evaluation.seen must be 0 where who takes part depends on losses or on simulated devices, got 5",
    ),
    "a cohort too small for Bulyan": (
        ("bulyan", "cohort.clients=6", "strategy.attackers=1"),
        "strategy.attackers 1 needs 7 clients or more, got 6",
    ),
    "candidates without a choice": (
        ("fedavg", "cohort.candidates=60"),
        "cohort.candidates is for sampling: loss, got uniform",
    ),
    "fewer candidates than clients": (
        ("fedavg", "cohort.sampling=loss", "cohort.candidates=49"),
        "cohort.candidates must be at least cohort.clients (50), got 49",
    ),
    "dropout without devices": (
        ("fedavg", "devices.dropout=0.1"),
        "devices.slowness must be equal or half_normal with dropout or deadline",
    ),
    "everybody drops out": (
        ("fedavg", *TIMED, "devices.dropout=1"),
        "devices.dropout must be at least 0 and below 1, got 1.0",
    ),
    "a deadline in the past": (
        ("fedavg", *TIMED, "devices.deadline=0"),
        "devices.deadline must be above 0, got 0.0",
    ),
    "a bandwidth of nothing": (
        ("fedavg", *TIMED, "devices.upload=0"),
        "devices.upload must be a number above 0, got 0.0",
    ),
    "another slowness": (("fedavg", "devices.slowness=slow"), "devices.slowness: Invalid value 'slow'"),
    "a negative q": (
        ("qfedavg", "strategy.q=-1"),
        "strategy.q must be a number of 0 or more, got -1.0",
    ),
    "q that is no number": (
        ("qfedavg", "strategy.q=.nan"),
        "strategy.q must be a number of 0 or more, got nan",
    ),
    "a local rate of 0": (
        ("qfedavg", "strategy.local_lr=0"),
        "strategy.local_lr must be a number above 0, got 0.0",
    ),
    "an infinite tilt": (
        ("term", "strategy.t=.inf"),
        "strategy.t must be a finite number, got inf",
    ),
    "no temperature": (
        ("pyramid", "strategy.temperature=0"),
        "strategy.temperature must be a number above 0, got 0.0",
    ),
    "another normalisation": (("pyramid", "strategy.normalise=max"), "strategy.normalise: Invalid"),
    "lambda that stands still": (
        ("afl", "strategy.lambda_lr=0"),
        "strategy.lambda_lr must be a number above 0, got 0.0",
    ),
    "late deltas that count more": (
        ("fedbuff", *BUFFERED, "strategy.power=-0.5"),
        "strategy.power must be a number of 0 or more, got -0.5",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("given", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(given: tuple[str, ...], message: str) -> None:
    name, *overrides = given
    with pytest.raises(ConfigError) as caught:
        open_mapping(sections(name), overrides, "test")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("fedavg",), "examples"),
        (("uniform",), "one"),
        (("pyramid",), "alpha"),
        (("pyramid", "cohort.replies=sum"), "alpha"),
        (("pyramid", "cohort.replies=each"), ""),
        (("fedavg", "wire.deltas=int8"), ""),
        (("fedavg", "wire.params=bfloat16"), "examples"),
        (("fedavg", *TIMED), "examples"),
        (("fedavg", *TIMED, "devices.dropout=0.1"), "examples"),
        (("fedavg", *TIMED, "devices.deadline=60"), ""),
        (("fedavg", "attack.name=label_flip", "attack.fraction=0.1"), "examples"),
        (("fedavg", "attack.name=noise", "attack.fraction=0.1"), ""),
        (("qfedavg",), ""),
        (("median",), ""),
        (("fedbuff", *BUFFERED), ""),
    ],
)  # fmt: skip
def test_nodes_send_sums_wherever_they_can(given: tuple[str, ...], expected: str) -> None:
    assert column(*given) == expected
    check_fit(built(*given))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("fedavg",), set()),
        (("fedavg", "cohort.measure=true"), set()),
        (("pyramid",), {"alpha"}),
        (("term",), {"loss_after"}),
        (("afl", "cohort.sampling=loss"), {"loss_after", "loss"}),
        (("uniform", *TIMED), {"steps"}),
        (("fedbuff", *BUFFERED), {"steps"}),
    ],
)
def test_clients_must_say_what_the_server_goes_by(
    given: tuple[str, ...], expected: set[str]
) -> None:
    experiment = built(*given)
    assert needs(experiment, experiment.strategy.rules()) == expected


def test_the_temperature_is_that_of_the_strategy() -> None:
    assert temperature(built("pyramid", "strategy.temperature=0.3").strategy.rules()) == 0.3
    assert temperature(built("qfedavg").strategy.rules()) == 1.0
