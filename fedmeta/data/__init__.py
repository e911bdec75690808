"""Datasets: who holds which examples. One file each."""

from fedmeta.data.cifar10 import Cifar10
from fedmeta.data.federation import Dataset
from fedmeta.data.omniglot import Omniglot
from fedmeta.data.own import OwnClasses, OwnValues
from fedmeta.data.sinusoid import Sinusoid

DATASETS: dict[str, type[Dataset]] = {
    "cifar10": Cifar10,
    "omniglot": Omniglot,
    "own_classes": OwnClasses,
    "own_values": OwnValues,
    "sinusoid": Sinusoid,
}
