"""The command line, with a dataset ``deadly`` that ends every Ray worker in round 3.

The driver, and whoever resumes without Ray, has sines under that name: the same settings and numbers.
"""

import os
from dataclasses import dataclass

import torch

from fedmeta.data import DATASETS
from fedmeta.data.federation import Clients, Purpose
from fedmeta.data.sinusoid import Sinusoid, SinusoidFederation
from fedmeta.seeding import Part
from fedmeta.types import Episode
from simulations.cli import app
from tests.simulations.conftest import start_ray


@dataclass(frozen=True)
class Deadly(Sinusoid):
    def open(self, seed: int, device: torch.device, dtype: torch.dtype) -> "DeadlyFederation":
        return DeadlyFederation(self, seed, device, dtype)


class DeadlyFederation(SinusoidFederation):
    def draw(
        self, clients: Clients, draws: int, seed: int, purpose: Purpose, *address: Part
    ) -> Episode:
        if purpose == "train" and address[0] == 3:
            os._exit(1)
        return super().draw(clients, draws, seed, purpose, *address)


def register() -> None:
    """What every worker does first."""
    DATASETS["deadly"] = Deadly


if __name__ == "__main__":
    DATASETS["deadly"] = Sinusoid
    start_ray(runtime_env={"worker_process_setup_hook": "tests.simulations.deadly.register"})
    app()
