"""A delta that is wrongly encoded is dropped by name; nobody else's is touched."""

import math
from collections.abc import Callable

import pytest
import torch
from flwr.app import Error, Message, RecordDict
from torch import Tensor

from fedmeta.compression import INDEX, SCALE, VALUE, codec_of, shrink
from fedmeta.types import Params
from fedmeta.wire import pack_replies
from strategies.validation import Expected, check
from tests.fedmeta.test_compression import LIKE, LOSSY, decoded, replies, stack, wire
from tests.fedmeta.test_wire import same

Reply = Callable[[int, RecordDict | Error], Message]


def encoded(form: str, **changed: Tensor | None) -> Params:
    """Client 0's encoded delta with some entries exchanged or, by None, left out."""
    entries = codec_of(wire(form)).encode(stack(1)) | changed
    return {name: value for name, value in entries.items() if value is not None}


def int8(**changed: Tensor | None) -> Params:
    return encoded("int8", **{name.replace("_scale", SCALE): v for name, v in changed.items()})


def topk(index: object = None, value: object = None, **more: Tensor | None) -> Params:
    """Three of the nine numbers are sent."""
    entries = {} if index is None else {INDEX: torch.as_tensor(index, dtype=torch.int32)}
    entries |= {} if value is None else {VALUE: torch.as_tensor(value)}
    return encoded("topk", **entries, **more)


INT8, ONES = torch.int8, torch.ones(1)
BROKEN: dict[str, tuple[str, Params]] = {
    "exact for float16": ("float16", stack(1)),
    "bfloat16 for float16": ("float16", shrink(stack(1), "bfloat16")),
    "float16 for bfloat16": ("bfloat16", shrink(stack(1), "float16")),
    "half as many float32 for bfloat16": (
        "bfloat16",
        shrink(stack(1), "bfloat16") | {"bias": torch.ones(1, 1)},
    ),
    "float16, a name missing": ("float16", encoded("float16", rate=None)),
    "float16, a wrong shape": ("float16", encoded("float16", w=torch.zeros(1, 3, 2).half())),
    "float16, infinite": ("float16", encoded("float16", w=torch.full((1, 2, 3), math.inf).half())),
    "exact for int8": ("int8", stack(1)),
    "int8, no scale": ("int8", int8(w_scale=None)),
    "int8, one name more": ("int8", int8(other=ONES)),
    "int8, float steps": ("int8", int8(w=torch.ones(1, 2, 3))),
    "int8, uint8 steps": ("int8", int8(w=torch.ones(1, 2, 3, dtype=torch.uint8))),
    "int8, wrong shape": ("int8", int8(w=torch.ones(1, 3, 2, dtype=INT8))),
    "int8, rows of two clients": ("int8", int8(w=torch.ones(2, 2, 3, dtype=INT8))),
    "int8, scales of two clients": ("int8", int8(w_scale=torch.ones(2))),
    "int8, a scale for each number": ("int8", int8(w_scale=torch.ones(1, 2, 3))),
    "int8, a scale without a client": ("int8", int8(w_scale=torch.tensor(1.0))),
    "int8, steps without a client": ("int8", int8(rate=torch.tensor(1, dtype=INT8))),
    "int8, NaN scale": ("int8", int8(w_scale=torch.tensor([math.nan]))),
    "int8, infinite scale": ("int8", int8(w_scale=torch.tensor([math.inf]))),
    "int8, whole-numbered scale": ("int8", int8(w_scale=torch.ones(1, dtype=torch.int64))),
    "exact for topk": ("topk", stack(1)),
    "topk, no numbers": ("topk", encoded("topk", **{VALUE: None})),
    "topk, no indices": ("topk", encoded("topk", **{INDEX: None})),
    "topk, one name more": ("topk", topk(w=ONES)),
    "topk, beyond the end": ("topk", topk([[0, 1, 9]])),
    "topk, below 0": ("topk", topk([[-1, 0, 1]])),
    "topk, one twice": ("topk", topk([[0, 1, 1]])),
    "topk, out of order": ("topk", topk([[2, 1, 0]])),
    "topk, more indices than numbers": ("topk", topk([[0, 1, 2, 3]])),
    "topk, more numbers than indices": ("topk", topk(value=torch.ones(1, 4))),
    "topk, nothing": ("topk", topk(torch.zeros(1, 0), torch.zeros(1, 0))),
    "topk, no client dimension": ("topk", topk([0, 1, 2], torch.ones(3))),
    "topk, one dimension more": ("topk", topk([[[0, 1, 2]]], torch.ones(1, 1, 3))),
    "topk, two clients": ("topk", topk([[0, 1, 2]] * 2, torch.ones(2, 3))),
    "topk, NaN": ("topk", topk(value=torch.full((1, 3), math.nan))),
    "topk, infinite": ("topk", topk(value=torch.full((1, 3), -math.inf))),
    "topk, whole numbers": ("topk", topk(value=torch.ones(1, 3, dtype=torch.int64))),
    "topk, indices that are no whole numbers": (
        "topk",
        encoded("topk", **{INDEX: torch.tensor([[0.5, 1.5, 2.5]])}),
    ),
    "topk, indices of 64 bits": ("topk", encoded("topk", **{INDEX: torch.tensor([[0, 1, 2]])})),
}


@pytest.mark.parametrize(("form", "deltas"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_encoding_drops_its_client_alone(reply: Reply, form: str, deltas: Params) -> None:
    asked = wire(form)
    good = codec_of(asked).encode(stack(2, 3))
    messages = [
        reply(2, pack_replies(replies(deltas, 0))),
        reply(3, pack_replies(replies(good, 1, 4))),
    ]
    checked = check(messages, {2: [0], 3: [1, 4]}, Expected(LIKE, wire=asked))
    assert checked.dropped.keys() == {0}
    (kept,) = checked.replies
    assert kept.clients == [1, 4]
    assert same(kept.deltas, decoded(form, stack(2, 3)))


@pytest.mark.parametrize("form", LOSSY)
def test_no_more_is_decoded_than_there_are_clients(reply: Reply, form: str) -> None:
    """With topk a few bytes say a whole model: a thousand rows of them would fill the memory."""
    many = codec_of(wire(form)).encode(stack(*range(1000)))
    message = reply(2, pack_replies(replies(many, 0)))
    (reason,) = check([message], {2: [0]}, Expected(LIKE, wire=wire(form))).dropped.values()
    assert reason.endswith("there is not one delta for each client)")


@pytest.mark.parametrize("form", LOSSY)
def test_an_encoding_without_fault_is_kept(reply: Reply, form: str) -> None:
    """So that each of the broken ones is dropped for its own fault."""
    message = reply(2, pack_replies(replies(encoded(form), 0)))
    checked = check([message], {2: [0]}, Expected(LIKE, wire=wire(form)))
    assert (checked.dropped, checked.clients) == ({}, 1)
