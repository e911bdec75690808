"""Omniglot twice: the real one where FEDMETA_DATA has it, and one whose images are labels."""

import os

import numpy as np
import pytest
import torch
from torch import Tensor

from fedmeta.data.omniglot_files import DRAWINGS, SIZE, Characters, read_characters

BACKGROUND = (
    [14, 55] + [32] * 27 + [31]
)  # 964 characters in 30 alphabets, of 14 to 55 as the real ones
EVALUATION = [33] * 19 + [32]  # 659 in 20


class Coded:
    """As many alphabets, characters and drawings as Omniglot; pixels tell which one an image is.

    The first row of an upright image reads: 255, the character's number in two digits of base 256,
    the drawing's number. The 255 in its corner tells how often an image was turned.
    """

    def __init__(self) -> None:
        sizes = BACKGROUND + EVALUATION
        total = sum(sizes)
        images = np.zeros((total, DRAWINGS, SIZE, SIZE), np.uint8)
        images[:, :, 0, 0] = 255
        images[:, :, 0, 1] = np.arange(total)[:, None] // 256
        images[:, :, 0, 2] = np.arange(total)[:, None] % 256
        images[:, :, 0, 3] = np.arange(DRAWINGS)
        self.characters = Characters(
            images=images,
            alphabets=np.repeat([f"alphabet{i:02d}" for i in range(len(sizes))], sizes),
            numbers=np.concatenate([np.arange(size) + 1 for size in sizes]),
            background=np.arange(total) < sum(BACKGROUND),
        )

    @staticmethod
    def read(image: Tensor) -> tuple[int, int]:
        """The class (4 x character + turn) and the drawing of an image ``[1, 28, 28]``."""
        upright = (255 * image[0]).round().to(torch.int64)
        turn = 0
        while upright[0, 0] != 255:
            upright, turn = torch.rot90(upright, -1), turn + 1
            assert turn < 4
        high, low, drawing = upright[0, 1:4].tolist()
        return 4 * (256 * high + low) + turn, drawing


@pytest.fixture(scope="session")
def coded() -> Coded:
    return Coded()


@pytest.fixture(scope="session")
def data_folder() -> str:
    if not (folder := os.environ.get("FEDMETA_DATA")):
        pytest.skip("FEDMETA_DATA is not set: it names the folder that holds the real data")
    return folder


@pytest.fixture(scope="session")
def real(data_folder: str) -> Characters:
    return read_characters(data_folder)
