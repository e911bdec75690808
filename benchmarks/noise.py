"""Omniglot's federation with noise for drawings: nothing to download, and the same work."""

from dataclasses import dataclass

import numpy as np
import torch

from fedmeta.data.omniglot import Omniglot
from fedmeta.data.omniglot_federation import OmniglotFederation
from fedmeta.data.omniglot_files import DRAWINGS, SIZE, Characters

CHARACTERS = 1623


@dataclass(frozen=True)
class Noise(Omniglot):
    """As many characters as Omniglot has."""

    def open(self, seed: int, device: torch.device, dtype: torch.dtype) -> OmniglotFederation:
        """The federation, with all images resident."""
        random = np.random.default_rng(seed)
        characters = Characters(
            random.integers(0, 256, (CHARACTERS, DRAWINGS, SIZE, SIZE), dtype=np.uint8),
            np.array([f"alphabet{i % 50}" for i in range(CHARACTERS)]),
            np.arange(CHARACTERS),
            np.ones(CHARACTERS, dtype=bool),
        )
        return OmniglotFederation(self, characters, seed, device, dtype)


def register() -> None:
    """Make it known; run in every Ray worker when it starts, so it imports for itself."""
    from benchmarks.noise import Noise
    from fedmeta.data import DATASETS

    DATASETS["noise"] = Noise
