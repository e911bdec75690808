"""What a node says of itself: which clients it hosts, how much they have, what its owner allows."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, pairwise
from operator import attrgetter
from typing import Any

from fedmeta import __version__
from fedmeta.data.federation import SPLITS
from fedmeta.errors import FedmetaError
from fedmeta.wire import short, unpack_runs

Spans = tuple[tuple[range, ...], ...]
"""Hosted ids of train, val and test, in ascending runs."""
Records = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Hosted:
    """The clients of a node."""

    spans: Spans
    own: bool = False
    """Whether they are its own: a device's, not those of an experiment that every worker hosts."""
    sizes: Mapping[int, int] = field(default_factory=dict)
    """Examples of train clients; empty where the node does not say."""
    limits: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, records: Records) -> "Hosted":
        """The answer of a node that can take part. Raises FedmetaError."""
        try:
            record = records["node"]
            version = record["version"]
            if version != __version__:
                raise FedmetaError(
                    f"it runs fedmeta {version!s}, the server {__version__}: install the same version"
                )
            spans = tuple(unpack_runs(record[split]) for split in SPLITS)
            own = bool(record["own"])
        except (KeyError, TypeError, ValueError) as e:
            raise FedmetaError(f"it gave no roster ({type(e).__name__}: {e})") from e
        if not any(spans):
            raise FedmetaError("it hosts no client")
        hosted = cls(spans, own, _sizes(records, spans), records.get("limits", {}))
        for before, run in pairwise(hosted.runs):
            if run.start < before.stop:
                raise FedmetaError(f"it hosts client {run.start} in two splits")
        return hosted

    @cached_property
    def runs(self) -> list[range]:
        """The ids of all splits in ascending order."""
        return sorted(chain(*self.spans), key=attrgetter("start"))

    def clash(self, other: "Hosted") -> int | None:
        """The lowest client of both, where one of them has it as its own."""
        mine, theirs = self.runs, other.runs
        apart = mine[-1].stop <= theirs[0].start or theirs[-1].stop <= mine[0].start
        if apart or not (self.own or other.own):
            return None
        few, many = sorted((mine, theirs), key=len)
        for run in few:
            at = bisect_right(many, run.start, key=attrgetter("stop"))  # the first that reaches it
            if at < len(many) and many[at].start < run.stop:
                return max(run.start, many[at].start)
        return None

    def __str__(self) -> str:
        counts = [
            (split, sum(map(len, runs))) for split, runs in zip(SPLITS, self.spans, strict=True)
        ]
        said = [f"{count} {split} clients" for split, count in counts if count]
        return ", ".join([*said, *(f"{key} {short(value)}" for key, value in self.limits.items())])


def _sizes(records: Records, spans: Spans) -> dict[int, int]:
    """Shard sizes by train client; of those that a node does not give, none."""
    sizes = records.get("sizes", {}).get("train", [])
    runs = spans[SPLITS.index("train")]
    count = sum(map(len, runs))
    if not isinstance(sizes, list) or len(sizes) not in (0, count):
        raise FedmetaError(f"it gave no size for each of its {count} train clients")
    if not sizes:
        return {}  # a short message can name very many clients: they are not listed
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise FedmetaError("it gave a shard size that is not a whole number above 0")
    return dict(zip(chain(*runs), sizes, strict=True))
