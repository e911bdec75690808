"""Datasets: who holds which examples. One file each."""

from fedmeta.data.federation import Dataset
from fedmeta.data.omniglot import Omniglot
from fedmeta.data.sinusoid import Sinusoid

DATASETS: dict[str, type[Dataset]] = {"omniglot": Omniglot, "sinusoid": Sinusoid}
