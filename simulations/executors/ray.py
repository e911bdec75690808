"""Ray workers: actors made once, with data and model resident. Ray comes in here and in ``pool``."""

import logging
import os
import socket
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import ray
from flwr.app import ArrayRecord, Error, RecordDict
from ray.exceptions import RayError, RayTaskError

from fedmeta.errors import ConfigError, FedmetaError
from fedmeta.host import Host
from fedmeta.settings import EngineSettings

ATTEMPTS = 5
"""Workers that may die over one block of clients before the run gives up."""
PATIENCE = 120.0
"""Seconds in which workers must find a place in the cluster and start."""
_log = logging.getLogger(__name__)


class Worker:
    """One node: answers messages with what it keeps resident."""

    def __init__(self, states: Path) -> None:
        self._host = Host(states, trusted=True)

    def answer(
        self, message_type: str, params: ArrayRecord, rest: RecordDict
    ) -> RecordDict | Error:
        """The reply, or what a node's failure looks like; bad input is raised."""
        from fedmeta.node import answer

        try:
            return answer(message_type, RecordDict({**rest, "params": params}), self._host)
        except FedmetaError:
            raise
        except Exception as e:
            return Error(code=2, reason=f"{type(e).__name__}: {e}")


class RayExecutor:
    """``engine.workers`` nodes, on this machine or on the cluster at ``engine.address``."""

    def __init__(self, settings: EngineSettings, states: Path) -> None:
        self._states = states.resolve()  # workers have working folders of their own
        self.nodes = settings.workers
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            connect(settings.address, "engine.address")
        try:
            self._options = _share(settings)
            self._workers = self._spawn(self.nodes)
        except BaseException:
            self.close()
            raise

    def execute(
        self, message_type: str, work: Sequence[tuple[int, RecordDict]]
    ) -> list[RecordDict | Error]:
        """Answer in parallel. A worker that dies is replaced and its block computed anew."""
        puts: dict[int, Any] = {}
        calls = []
        for node, content in work:
            params = content["params"]
            if id(params) not in puts:  # shared by the messages of a round: stored once
                puts[id(params)] = ray.put(params)
            rest = RecordDict({k: v for k, v in content.items() if k != "params"})
            calls.append((node, (message_type, puts[id(params)], rest)))
        pending = [self._workers[node].answer.remote(*call) for node, call in calls]
        return [
            self._finish(answer, node, call)
            for answer, (node, call) in zip(pending, calls, strict=True)
        ]

    def close(self) -> None:
        """End the workers, and Ray if it was started here."""
        if self._owns_ray:
            ray.shutdown()
            return
        for worker in getattr(self, "_workers", []):
            ray.kill(worker)

    def _finish(self, answer: Any, node: int, call: tuple[Any, ...]) -> RecordDict | Error:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                found: RecordDict | Error = ray.get(answer)
                return found
            except RayTaskError as e:
                raise (e.cause if isinstance(e.cause, FedmetaError) else e) from None
            except RayError as e:  # the worker or its node died, maybe with a reply not yet fetched
                reason = first_line(e)
                if attempt < ATTEMPTS:
                    _log.warning("worker %d died (%s); its block is computed anew", node, reason)
                    (self._workers[node],) = self._spawn(1)
                    answer = self._workers[node].answer.remote(*call)
        raise FedmetaError(
            f"Ray worker {node} died {ATTEMPTS} times over the same block of clients ({reason}); "
            "the run can go on from its checkpoint with --resume"
        )

    def _spawn(self, count: int) -> list[Any]:
        """New workers, once they are up. For one that fits nowhere Ray itself would wait for ever."""
        actor = ray.remote(Worker).options(**self._options)
        workers: list[Any] = [actor.remote(self._states) for _ in range(count)]
        up = [worker.__ray_ready__.remote() for worker in workers]
        _, late = ray.wait(up, num_returns=count, timeout=PATIENCE)
        if late:
            raise FedmetaError(self._shortage(len(late)))
        return workers

    def _shortage(self, late: int) -> str:
        """What there is and what is asked for: a node may be gone, or its CPUs taken by others."""
        have: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        kinds = ["CPU", "GPU"] if self._options["num_gpus"] else ["CPU"]
        left = " and ".join(
            f"{have.get(k, 0):g} {k}s ({free.get(k, 0):g} of them free)" for k in kinds
        )
        each = " and ".join(f"{self._options[f'num_{k.lower()}s']:.3g} {k}" for k in kinds)
        return (
            f"{late} of {self.nodes} Ray workers were not up within {PATIENCE:g} s: the cluster has "
            f"{left}, a worker takes {each}; add nodes or lower engine.workers, and a run that "
            "had begun goes on with --resume"
        )


def connect(address: str | None, key: str, cpus: int | None = None) -> None:
    """Join the cluster at an address, which ``key`` gave; else start Ray on this machine.

    It then has so many CPUs, or as many as there are. Raises ConfigError.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            _knock(address)
            ray.init(address=address, **quiet)
        else:
            # not a cluster that someone else has on this machine, which Ray would join
            local: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
            ray.init("local", num_cpus=cpus, **local, **quiet)
    except (OSError, ValueError, RuntimeError) as e:
        raise ConfigError(
            f"{key}: no Ray cluster at {address!r} ({first_line(e)}); "
            "start one with `ray start --head`, or leave the address out"
        ) from e


def _knock(address: str) -> None:
    """Fail in seconds where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host in ("localhost", "127.0.0.1"):
        host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]  # as Ray reads it
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=5).close()


def _share(settings: EngineSettings) -> dict[str, Any]:
    """What each worker asks of Ray: a CPU per thread and, where the cluster has GPUs, its share of them."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus, cpus = resources.get("GPU", 0.0), resources.get("CPU", 0.0)
    if settings.workers * settings.threads > cpus:
        threads = f" / engine.threads ({settings.threads})" if settings.threads > 1 else ""
        raise ConfigError(
            f"engine.workers must be at most the {cpus:g} CPUs of the Ray cluster{threads}, "
            f"got {settings.workers}"
        )
    wants_gpu = settings.device == "auto" or settings.device.startswith("cuda")
    share = gpu_share(gpus, settings.workers) if wants_gpu else 0.0
    return {"num_cpus": settings.threads, "num_gpus": share, "max_restarts": 0}


def gpu_share(gpus: float, workers: int) -> float:
    """The largest equal share of a GPU with which all workers fit; a share is of one GPU."""
    return 1 / ceil(workers / gpus) if gpus >= 1 else 0.0


def first_line(error: Exception) -> str:
    """Ray's errors have many."""
    return str(error).strip().split("\n")[0]
