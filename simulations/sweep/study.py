"""What is tried next, and which trial is hopeless, as Optuna says. The only module that imports it.

Trials are proposed by the tree-structured Parzen estimator (Bergstra et al. 2011, section 4). One is
hopeless where its best score so far is worse than the median of what finished trials had at that round
(Optuna's ``MedianPruner``, which waits for five of them).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from fedmeta.errors import RunFolderError
from fedmeta.seeding import bits
from simulations.sweep.file import Sweep, Values
from simulations.sweep.space import Choices, Dimension

FILE = "study.journal"
NAME = "sweep"
State = Literal["complete", "pruned", "failed", "running"]
STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
    TrialState.RUNNING: "running", TrialState.WAITING: "running",
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """A trial as the study remembers it."""

    number: int
    state: State
    values: Values
    score: float | None
    """Mean over seeds on validation clients; of a pruned trial the last that was seen."""
    scores: Sequence[float]
    """By seed."""
    round: int
    """Up to which it was seen."""
    seconds: float
    reason: str
    """Why it failed."""


class Study:
    """The trials of a sweep, in a journal in its folder."""

    def __init__(self, sweep: Sweep, folder: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._sweep = sweep
        self._space = {key: _distribution(each) for key, each in sweep.space.items()}
        self._study = optuna.create_study(
            storage=_opened((folder / FILE).resolve()),
            study_name=NAME,
            direction="maximize" if sweep.measure == "accuracy" else "minimize",
            pruner=optuna.pruners.MedianPruner() if sweep.prune else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        if not self._study.user_attrs:
            self._study.set_user_attr("sweep", sweep.identity)
        if self._study.user_attrs["sweep"] != sweep.identity:
            raise RunFolderError(
                f"{folder}: is of another sweep; remove it, or choose another --out"
            )

    def __len__(self) -> int:
        """Trials that were ever proposed."""
        return len(self._study.get_trials(deepcopy=False))

    def begun(self) -> Iterator[tuple[int, Values]]:
        """Trials that were proposed and never came to an end."""
        for trial in self._study.get_trials(states=[TrialState.RUNNING]):
            yield trial.number, self._completed(trial)

    def ask(self) -> tuple[int, Values]:
        """The next trial: a function of the seed, its number and the trials before it."""
        self._seed(len(self))
        trial = self._study.ask(self._space)
        return trial.number, trial.params

    def hopeless(self, number: int, round: int, score: float) -> bool:
        """Whether a trial with that score at that round may be stopped. Each round counts once."""
        frozen = self._study.get_trials(deepcopy=False)[number]
        trial = optuna.Trial(self._study, frozen._trial_id)
        if round in frozen.intermediate_values:
            return False
        trial.report(score, round)
        return trial.should_prune()

    def complete(self, number: int, scores: Sequence[float], round: int, seconds: float) -> None:
        """A trial has its scores, one for each seed."""
        self._note(number, scores=list(scores), round=round, seconds=seconds)
        self._study.tell(number, sum(scores) / len(scores))

    def prune(self, number: int, seconds: float) -> None:
        """A trial was stopped."""
        self._note(number, seconds=seconds)
        self._study.tell(number, state=TrialState.PRUNED)

    def fail(self, number: int, reason: str, seconds: float = 0.0) -> None:
        """A trial has no score."""
        self._note(number, reason=reason, seconds=seconds)
        self._study.tell(number, state=TrialState.FAIL)

    def outcomes(self) -> list[Outcome]:
        """All trials, by number."""
        return [_outcome(trial) for trial in self._study.get_trials()]

    def _seed(self, number: int) -> None:
        draw = int(bits(self._sweep.probe.seed, "sweep", number) >> 32)
        self._study.sampler = optuna.samplers.TPESampler(seed=draw)

    def _completed(self, trial: FrozenTrial) -> Values:
        """What a trial lacks that was cut short while it was proposed is drawn now."""
        if trial.params.keys() == self._space.keys():
            return trial.params
        self._seed(trial.number)
        again = optuna.Trial(self._study, trial._trial_id)
        return {key: again._suggest(key, each) for key, each in self._space.items()}

    def _note(self, number: int, **notes: Any) -> None:
        id = self._study.get_trials(deepcopy=False)[number]._trial_id
        for key, value in notes.items():
            optuna.Trial(self._study, id).set_user_attr(key, value)


def _opened(journal: Path) -> JournalStorage:
    """The storage of an absolute path, which Optuna's lock must have. Raises RunFolderError.

    A last line that a killed process cut short is removed: Optuna leaves it out, but would put the next
    behind it, and could then read neither.
    """
    try:
        backend = JournalFileBackend(str(journal))
        _cut(journal)
        return JournalStorage(backend)
    except (ValueError, KeyError, TypeError) as e:
        raise RunFolderError(f"{journal}: cannot be read ({type(e).__name__}: {e})") from e


def _cut(journal: Path) -> None:
    lock = JournalFileSymlinkLock(str(journal))  # others write whole lines while they hold it
    lock.acquire()
    try:
        with journal.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
    finally:
        lock.release()


def _distribution(found: Dimension) -> BaseDistribution:
    if isinstance(found, Choices):
        return CategoricalDistribution(list(found.by_label))
    if found.whole:
        return IntDistribution(int(found.low), int(found.high), found.log, int(found.step or 1))
    return FloatDistribution(found.low, found.high, found.log, found.step)


def _outcome(trial: FrozenTrial) -> Outcome:
    state, seen, notes = STATES[trial.state], trial.intermediate_values, trial.user_attrs
    last = max(seen, default=0)
    return Outcome(
        number=trial.number,
        state=state,
        values=trial.params,
        score=seen.get(last) if state == "pruned" else trial.value,
        scores=notes.get("scores", []),
        round=notes.get("round", last),
        seconds=notes.get("seconds", 0.0),
        reason=notes.get("reason", ""),
    )
