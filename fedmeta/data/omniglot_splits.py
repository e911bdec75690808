"""Which characters of Omniglot train, validate and are unseen."""

import numpy as np

from fedmeta.data.federation import Clients, Split
from fedmeta.data.omniglot_files import Characters
from fedmeta.seeding import choose

VINYALS_VAL = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
VINYALS_TEST = (
    "Kannada", "Keble", "Malayalam", "Manipuri", "Mongolian", "Old_Church_Slavonic_(Cyrillic)",
    "Oriya", "Sylheti", "Syriac_(Serto)", "Tengwar", "Tibetan", "ULOG",
)  # fmt: skip


def pooled_characters(characters: Characters, split: str) -> dict[Split, Clients]:
    """Character indices of train, val and test."""
    if split == "maml":
        order = choose(len(characters.alphabets), len(characters.alphabets), "omniglot maml split")
        return {"train": order[:1100], "val": order[1100:1200], "test": order[1200:]}
    part = np.full(len(characters.alphabets), "train")
    part[np.isin(characters.alphabets, VINYALS_VAL)] = "val"
    part[np.isin(characters.alphabets, VINYALS_TEST)] = "test"
    part[(characters.alphabets == "Gurmukhi") & (characters.numbers >= 42)] = "test"
    return {name: np.flatnonzero(part == name) for name in ("train", "val", "test")}


def alphabet_characters(characters: Characters) -> list[Clients]:
    """Character indices of the alphabets: 25 that train, 5 that validate, 20 unseen."""
    background = sorted(set(characters.alphabets[characters.background]))
    evaluation = sorted(set(characters.alphabets[~characters.background]))
    order = choose(len(background), len(background), "omniglot alphabet split")
    names = [background[i] for i in order] + evaluation
    return [np.flatnonzero(characters.alphabets == name) for name in names]
