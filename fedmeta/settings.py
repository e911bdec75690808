"""The sections of an experiment that are settings of the run itself, not a component with a name."""

from dataclasses import dataclass, field
from typing import Literal

import torch

from fedmeta.errors import ConfigError


@dataclass(frozen=True)
class CohortSettings:
    """Who takes part in a round."""

    clients: int
    """Clients sampled per round, without replacement."""
    replies: Literal["auto", "sum", "each"] = "auto"
    """``sum``: a node sends one weighted sum of its clients' deltas. ``each``: one delta a client.
    ``auto``: sums wherever the strategy and the wire can do with them."""
    sampling: Literal["uniform", "size", "loss", "round_robin"] = "uniform"
    """Who is sampled: anyone alike; by shard size; of ``candidates`` those with the highest loss when
    last seen; or all in turn."""
    candidates: int | None = None
    """Clients drawn for ``sampling: loss`` to choose from; without a number, twice ``clients``."""
    measure: bool = False
    """Whether clients say their scores before and after adaptation in every round: costs an adaptation
    more. Strategies that weigh by losses need no setting."""
    min_replies: int = 1
    """With fewer good replies the round keeps the old params."""
    outlier: float = 100.0
    """A delta this many times longer than others is dropped: than the median of its round and than any
    that was averaged before. 0: none is."""
    timeout: float = 3600.0
    """Seconds that clients have for a round, or an evaluation; who is not back then is left out."""
    wait: float = 600.0
    """Seconds to wait for enough clients to be connected: at the start for all that ``clients`` and
    ``evaluation.clients`` ask for, before a round for ``min_replies``."""

    def __post_init__(self) -> None:
        _at_least("cohort.clients", self.clients, 1)
        _at_least("cohort.min_replies", self.min_replies, 1)
        if self.min_replies > self.clients:
            raise ConfigError(
                f"cohort.min_replies must be at most cohort.clients ({self.clients}), "
                f"got {self.min_replies}"
            )
        if self.candidates is not None and self.sampling != "loss":
            raise ConfigError(f"cohort.candidates is for sampling: loss, got {self.sampling}")
        if self.candidates is not None and self.candidates < self.clients:
            raise ConfigError(
                f"cohort.candidates must be at least cohort.clients ({self.clients}), "
                f"got {self.candidates}"
            )
        for name, least in (("timeout", 0.0), ("wait", 0.0), ("outlier", 1.0)):
            value = getattr(self, name)
            off = name != "timeout" and value == 0
            if not (off or least < value < float("inf")):
                raise ConfigError(f"cohort.{name} must be a number above {least:g}, got {value!r}")


@dataclass(frozen=True)
class DeviceSettings:
    """How long simulated devices take, so that a round has simulated seconds. Simulation only.

    The constants are those of Wang et al. 2021, section 4.2.
    """

    slowness: Literal["none", "equal", "half_normal"] = "none"
    """``none``: no simulated time. Else how slow devices are beside each other."""
    overhead: float = 10.0
    """Seconds that every device takes for each message, besides gradients and bytes."""
    seconds_per_step: float = 0.05
    """Of an average device, per gradient step."""
    download: float = 0.75
    """MB per second."""
    upload: float = 0.25
    """MB per second."""
    dropout: float = 0.0
    """Part of the clients asked that do not answer a round (Bonawitz et al. 2019 saw 0.06 to 0.1)."""
    deadline: float | None = None
    """Simulated seconds after which a round takes no more replies."""

    def __post_init__(self) -> None:
        for name in ("overhead", "seconds_per_step", "download", "upload"):
            if not 0 < (value := getattr(self, name)) < float("inf"):
                raise ConfigError(f"devices.{name} must be a number above 0, got {value!r}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"devices.dropout must be at least 0 and below 1, got {self.dropout}")
        if self.deadline is not None and not self.deadline > 0:
            raise ConfigError(f"devices.deadline must be above 0, got {self.deadline!r}")
        if self.deadline is not None and self.deadline <= self.overhead:
            raise ConfigError(
                f"devices.deadline must be above devices.overhead ({self.overhead:g} s), or no reply "
                f"is in time; got {self.deadline!r}"
            )
        if self.slowness == "none" and (self.dropout or self.deadline is not None):
            raise ConfigError(
                "devices.slowness must be equal or half_normal with dropout or deadline"
            )


@dataclass(frozen=True)
class WireSettings:
    """In what form numbers travel. Anything but ``exact`` rounds them."""

    params: Literal["exact", "float16", "bfloat16"] = "exact"
    """From the server to the clients."""
    deltas: Literal["exact", "float16", "bfloat16", "int8", "topk"] = "exact"
    """From the clients to the server. ``topk``: only the numbers of greatest magnitude. All but
    ``exact`` need ``cohort.replies: each``."""
    fraction: float = 0.05
    """Part of the numbers that ``topk`` sends."""
    feedback: bool = True
    """Whether a client adds what it left out to its next delta."""

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"wire.fraction must be above 0 and at most 1, got {self.fraction!r}")


@dataclass(frozen=True)
class AttackSettings:
    """Train clients that mean harm, to see what a strategy withstands. In simulation only."""

    name: Literal[
        "none", "sign_flip", "noise", "inner_product", "little_is_enough", "label_flip"
    ] = "none"
    """What they do: ``simulations/attacks.py`` says it of deltas, which needs ``cohort.replies: each``
    and ``wire.deltas: exact``, ``fedmeta/attack.py`` of labels."""
    fraction: float = 0.0
    """Part of all train clients that are attackers, the same ones in every round. A config that names
    an attack says it."""
    scale: float = 1.0
    """How strong an attack on deltas is: its factor, for ``little_is_enough`` its z."""

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:
            raise ConfigError(f"attack.fraction must be 0 or more, below 1, got {self.fraction!r}")
        if not 0 <= self.scale < float("inf"):
            raise ConfigError(f"attack.scale must be a number of 0 or more, got {self.scale!r}")
        if self.name == "none" and self.fraction:
            raise ConfigError(
                f"attack.fraction needs an attack.name other than none, got {self.fraction!r}"
            )
        if self.name == "label_flip" and self.scale != 1:
            raise ConfigError(f"attack.scale has no meaning for label_flip, got {self.scale!r}")

    @property
    def on_deltas(self) -> bool:
        """Whether attackers train as all do and send something else."""
        return self.name not in ("none", "label_flip")


@dataclass(frozen=True)
class EngineSettings:
    """Where and how clients are computed."""

    name: Literal["auto", "loop", "vmap", "recorded", "lowrank", "channels_last", "compiled"] = (
        "auto"
    )
    chunk: int | None = None
    """Most clients per vectorised call; without one, ``auto`` finds it, the others take 32."""
    memory: float = 2.0
    """GiB that the tensors of a chunk may take; for ``auto``."""
    executor: Literal["local", "ray"] = "local"
    """In simulation: this process, or Ray workers."""
    workers: int = 2
    """Ray workers."""
    address: str | None = None
    """Ray cluster that ``executor: ray`` joins: ``auto`` or host:port. Without one, Ray starts on this
    machine."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    dtype: Literal["float32", "float64"] = "float32"
    threads: int = 1
    """CPU threads of each node. More than one changes the last bits of float32 sums."""

    def __post_init__(self) -> None:
        _at_least("engine.threads", self.threads, 1)
        if self.chunk is not None:
            _at_least("engine.chunk", self.chunk, 1)
        _at_least("engine.workers", self.workers, 1)
        if not 0 < self.memory < float("inf"):
            raise ConfigError(f"engine.memory must be a number of GiB above 0, got {self.memory!r}")

    @property
    def most(self) -> int:
        """Clients per vectorised call where nothing is measured."""
        return 32 if self.chunk is None else self.chunk

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch dtype of params and data."""
        return torch.float64 if self.dtype == "float64" else torch.float32

    def torch_device(self) -> torch.device:
        """The device, or a ConfigError where this machine has none such."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            torch.zeros(1, device=device).item()  # meta has tensors, and no numbers in them
        except (RuntimeError, AssertionError) as e:  # AssertionError: torch built without CUDA
            have = ["auto", "cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
            raise ConfigError(
                f"engine.device: this machine has {', '.join(have)}, got {self.device!r}"
            ) from e
        return device


@dataclass(frozen=True)
class EvaluationSettings:
    """How unseen clients are scored: adapt on the support, score the query after every step."""

    every: int
    """Rounds between evaluations on validation clients."""
    steps: int
    """Inner steps (K): the curve has the scores after 0, 1, ..., K."""
    clients: int
    """Validation clients, the first of the split. All test clients are scored, once, at the end."""
    episodes: int = 1
    """Episodes per client, averaged."""
    seen: int = 0
    """Training clients that are scored too at the end, those that took part last, each with what it
    kept and on what ``data.held_out`` kept from its training. The params are the last."""
    transductive: bool = True
    """Whether batch norm sees the queries of an episode together; else each with the support alone."""
    select: Literal["best", "last"] = "best"
    """Params that the test clients see: best on the validation clients, or the last."""

    def __post_init__(self) -> None:
        _at_least("evaluation.every", self.every, 1)
        _at_least("evaluation.steps", self.steps, 0)
        _at_least("evaluation.clients", self.clients, 1)
        _at_least("evaluation.episodes", self.episodes, 1)
        _at_least("evaluation.seen", self.seen, 0)


@dataclass(frozen=True)
class WandbSettings:
    """Weights & Biases. ``offline`` needs no account; ``wandb sync`` sends the run later."""

    mode: Literal["disabled", "offline", "online"] = "disabled"
    project: str = "fedmeta"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TrackingSettings:
    """Who watches the run, besides the console and ``metrics.jsonl``."""

    wandb: WandbSettings = field(default_factory=WandbSettings)
    tensorboard: bool = False
    ledger: bool = True
    """Whether ``ledger.jsonl`` gets a line for every client of every round."""


@dataclass(frozen=True)
class PublishedSettings:
    """The result that a config follows, to stand beside its own."""

    source: str | None = None
    """Paper and table."""
    accuracy: float | None = None
    """Percent."""
    ci95: float | None = None
    rounds: int | None = None
    """Server steps of the paper."""


def _at_least(key: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{key} must be {least} or more, got {value!r}")
