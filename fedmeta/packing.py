"""Params as one array of bytes: Flower moves every array as objects of its own, at over a kilobyte each.

Beside the numbers stands a layout, JSON: for each tensor name, dtype and shape, in their order.
"""

import json
from math import prod

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedmeta.types import Params

LAYOUT, NUMBERS = "layout", "numbers"
PLAIN = "biuf"
"""Kinds of NumPy dtypes that are numbers."""


def pack_params(params: Params) -> ArrayRecord:
    """Params or a stack of them; order, dtypes and shapes are kept."""
    arrays = {name: value.numpy(force=True) for name, value in params.items()}
    layout = [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]
    parts = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays.values()]
    numbers = np.concatenate([np.empty(0, np.uint8), *parts])
    text = np.frombuffer(json.dumps(layout).encode(), np.uint8)
    return ArrayRecord({LAYOUT: Array(text), NUMBERS: Array(numbers)})


def unpack_params(record: ArrayRecord) -> Params:
    """The inverse of ``pack_params``. Raises whatever for bytes that it did not make."""
    layout = json.loads(_bytes(record, LAYOUT).tobytes())
    numbers, start = _bytes(record, NUMBERS), 0
    params: Params = {}
    for name, kind, shape in layout:
        dtype, size = np.dtype(str(kind)), _size(shape)
        end = start + size * dtype.itemsize
        if dtype.kind not in PLAIN or name in params or end > len(numbers):
            raise ValueError(f"the layout of {name!r} does not fit the numbers")
        values = np.empty(size, dtype)  # of its own, for what is cut out may not be aligned
        values.view(np.uint8)[:] = numbers[start:end]
        params[str(name)] = torch.from_numpy(values.reshape(shape))
        start = end
    if start != len(numbers):
        raise ValueError(f"{len(numbers) - start} bytes are more than the layout says")
    return params


def _bytes(record: ArrayRecord, name: str) -> NDArray[np.uint8]:
    array = record[name].numpy()
    if array.dtype != np.uint8 or array.ndim != 1:
        raise ValueError(f"the {name} are no bytes")
    return array


def _size(shape: object) -> int:
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"{shape!r} is no shape")
    return prod(shape)
