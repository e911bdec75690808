"""What a device's owner reads: a line for each message. Never data, params or keys."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path

from flwr.app import Message, RecordDict

from fedmeta.node import read_experiment
from fedmeta.wire import short, size, unpack_replies, unpack_scores, unpack_work

BYTES, FILES = 1_000_000, 3
_log = logging.getLogger("fedmeta.device")


@contextmanager
def logged(path: Path | None, message: Message) -> Iterator[Callable[[Message], None]]:
    """Log what a message asked for and what became of it. A log that cannot be written harms nothing."""
    if path is None:
        yield lambda reply: None
        return
    began = time.monotonic()
    _open(path)
    try:
        yield lambda reply: _log.info("%s", _describe(message, reply, time.monotonic() - began))
    except Exception as e:
        kind = message.metadata.message_type
        _log.error("%-8s failed: %s: %s", kind, type(e).__name__, short(e))
        raise


def _open(path: Path) -> None:
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(RotatingFileHandler(path, maxBytes=BYTES, backupCount=FILES))
    except OSError as e:
        _log.warning("%s: cannot be written (%s)", path, e.strerror or e)
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
    for old in _log.handlers:
        with suppress(OSError):  # what a full disk has not taken is flushed, and fails, once more
            old.close()
    _log.handlers, _log.propagate = handlers, False
    _log.setLevel(logging.INFO)


def _describe(message: Message, reply: Message, seconds: float) -> str:
    kind, content = message.metadata.message_type, reply.content
    work = unpack_work(message.content)
    experiment = read_experiment(work.experiment)
    traffic = f"{seconds:.1f} s, {_kilo(message.content)} in, {_kilo(content)} out"
    if kind == "query":
        return f"query     {experiment.name}: said which clients are here; {traffic}"
    trains = kind == "train"
    what = _trained(content) if trains else _scored(content)
    count = experiment.learner.draws if trains else experiment.evaluation.episodes
    episodes = "1 episode" if count == 1 else f"{count} episodes"
    return f"{kind:<8}  {experiment.name} round {work.round}: {what}; {episodes}, {traffic}"


def _trained(content: RecordDict) -> str:
    replies = unpack_replies(content)
    done = _whom(replies.clients, replies.failures)
    if not replies.clients:
        return done
    before, after = (float(replies.columns[name].mean()) for name in ("loss_before", "loss"))
    return f"{done}, loss {before:.4f} -> {after:.4f}"


def _scored(content: RecordDict) -> str:
    scores = unpack_scores(content)
    done = _whom(scores.clients, scores.failures)
    means = {name: values.mean(dim=0).tolist() for name, values in scores.curves.items()}
    curves = [f"{name} {curve[0]:.4f} -> {curve[-1]:.4f}" for name, curve in means.items()]
    return ", ".join([done, *curves])


def _whom(clients: list[int], failures: dict[int, str]) -> str:
    few = ", ".join(map(str, clients)) if len(clients) <= 3 else f"{len(clients)} of them"
    failed = [f"client {client} failed: {reason}" for client, reason in failures.items()]
    return "; ".join([f"client {few}" if clients else "no client", *failed[:3]])


def _kilo(content: RecordDict) -> str:
    return f"{size(content) / 1e3:,.1f} kB"
