"""Whether the parts of an experiment fit each other, as far as the server decides it."""

from fedmeta.config import Experiment
from fedmeta.errors import ConfigError
from strategies.rules import Rules
from strategies.weighting import LossSigmoid


def check_fit(experiment: Experiment) -> None:
    """Refuse what could never run. Raises ConfigError."""
    rules = experiment.strategy.rules()
    weight_column(experiment, rules)
    rules.aggregation.check(experiment.cohort.clients)
    if rules.buffer is not None:
        _check_buffer(experiment, rules.buffer.concurrency)
    losses = experiment.cohort.sampling == "loss"
    if experiment.evaluation.seen and (rules.buffer or losses or experiment.devices.dropout):
        raise ConfigError(
            "evaluation.seen must be 0 where who takes part depends on losses or on simulated "
            f"devices, got {experiment.evaluation.seen}"
        )


def weight_column(experiment: Experiment, rules: Rules) -> str:
    """The column that nodes weigh one sum of their clients' deltas with; empty: one delta a client."""
    why = _why_each(experiment, rules)
    if why and experiment.cohort.replies == "sum":
        raise ConfigError(f"cohort.replies must be auto or each, got sum: {why}")
    return "" if why or experiment.cohort.replies == "each" else rules.column


def needs(experiment: Experiment, rules: Rules) -> frozenset[str]:
    """The columns without which a reply is of no use, besides the size of shards."""
    heard = {"loss"} if experiment.cohort.sampling == "loss" else set[str]()
    timed = {"steps"} if experiment.devices.slowness != "none" else set[str]()
    return rules.weighting.needs | heard | timed


def temperature(rules: Rules) -> float:
    """Of the loss-sigmoid weight, which clients compute."""
    return rules.weighting.temperature if isinstance(rules.weighting, LossSigmoid) else 1.0


def _why_each(experiment: Experiment, rules: Rules) -> str:
    """What needs the delta of every client by itself, if anything."""
    if not rules.column:
        return "the strategy looks at the delta of every client"
    if experiment.wire.deltas != "exact":
        return f"wire.deltas: {experiment.wire.deltas} rounds the delta of every client"
    if experiment.attack.on_deltas:
        return f"attack.name: {experiment.attack.name} changes the delta of a client"
    if experiment.devices.deadline is not None:
        return "devices.deadline leaves out single clients"
    return ""


def _check_buffer(experiment: Experiment, concurrency: int) -> None:
    cohort = experiment.cohort
    if experiment.devices.slowness == "none":
        raise ConfigError(
            "devices.slowness must be equal or half_normal for fedbuff, which is about time, got none"
        )
    if experiment.devices.deadline is not None:
        raise ConfigError("devices.deadline must not be set for fedbuff: nobody waits for the slow")
    if concurrency < cohort.clients:
        raise ConfigError(
            f"strategy.concurrency must be at least the {cohort.clients} deltas of a step "
            f"(cohort.clients), got {concurrency}"
        )
    if cohort.sampling == "round_robin":
        raise ConfigError(
            "cohort.sampling must not be round_robin for fedbuff: whose turn it is may be on its way"
        )
    if cohort.candidates is not None and cohort.candidates < concurrency:
        raise ConfigError(
            f"cohort.candidates must be at least the {concurrency} clients of strategy.concurrency, "
            f"got {cohort.candidates}"
        )
    if cohort.min_replies != 1:
        raise ConfigError(f"cohort.min_replies must be 1 for fedbuff, got {cohort.min_replies}")
