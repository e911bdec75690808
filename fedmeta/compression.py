"""Fewer bytes on the wire: params and deltas in less precision, or only the largest numbers of a delta.

What a lossy delta leaves out is not lost: the client adds it to its next one (error feedback, Seide et
al., Interspeech 2014; Karimireddy et al., ICML 2019, Algorithm 2), and keeps it on its own disk.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from fedmeta.client_state import ClientStates
from fedmeta.params import finite, select
from fedmeta.replies import Replies, drop_unusable
from fedmeta.settings import WireSettings
from fedmeta.types import Params

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
SCALE, INDEX, VALUE = ":scale", ":index", ":value"
"""What is added to a name, or stands for one, in an encoded delta. No param is called so."""
RESIDUALS = "residuals"
"""Folder of what was left out, among the states of a run."""


@dataclass(frozen=True)
class Codec:
    """A way to write a stack of deltas ``[clients, ...]``, and to read it. Reading may raise anything."""

    encode: Callable[[Params], Params]
    decode: Callable[[Params, Params], Params]
    """Given what was written, and params that have the names, shapes and dtypes."""


def shrink(params: Params, form: str) -> Params:
    """Params in another precision; ``bfloat16`` as the int16 of the same bits: NumPy has none."""
    if form == "exact":
        return params
    small = {name: value.to(HALVES[form]) for name, value in params.items()}
    if form == "bfloat16":
        return {name: value.view(torch.int16) for name, value in small.items()}
    return small


def grow(params: Params, form: str, dtype: torch.dtype) -> Params:
    """The inverse of ``shrink``, rounding aside."""
    if form == "exact":
        return params
    packed = torch.int16 if form == "bfloat16" else HALVES[form]
    if any(value.dtype != packed for value in params.values()):
        raise ValueError(f"a number is not {form}")
    return {name: value.view(HALVES[form]).to(dtype) for name, value in params.items()}


def compress(replies: Replies, wire: WireSettings, states: ClientStates, round: int) -> Replies:
    """The replies with their deltas encoded, one for each client."""
    if wire.deltas == "exact":
        return replies
    replies = drop_unusable(replies)
    if not replies.clients:
        return replies
    codec, like = codec_of(wire), {name: value[0] for name, value in replies.deltas.items()}
    if not wire.feedback:
        return replace(replies, deltas=codec.encode(replies.deltas))
    residuals = ClientStates(states.folder / RESIDUALS)
    zeros = {name: torch.zeros_like(value) for name, value in like.items()}
    behind = residuals.read(replies.clients, round, zeros)
    wanted = {name: value + behind[name] for name, value in replies.deltas.items()}
    encoded = codec.encode(wanted)
    said = codec.decode(encoded, like)
    left = {name: value - said[name] for name, value in wanted.items()}
    kept = finite(left).nonzero().flatten()  # what overflowed would spoil all rounds to come
    residuals.write([replies.clients[i] for i in kept], round, select(left, kept))
    return replace(replies, deltas=encoded)


def expand(replies: Replies, wire: WireSettings, params: Params) -> Replies:
    """Replies with readable deltas. Raises whatever where the encoding is none."""
    if wire.deltas == "exact" or not replies.clients:
        return replies
    if any(value.shape[:1] != (len(replies.clients),) for value in replies.deltas.values()):
        raise ValueError("there is not one delta for each client")  # a few bytes can say a million
    return replace(replies, deltas=codec_of(wire).decode(replies.deltas, params))


def codec_of(wire: WireSettings) -> Codec:
    """The codec of lossy deltas."""
    if wire.deltas in HALVES:
        return Codec(
            lambda stack: shrink(stack, wire.deltas),
            lambda stack, like: grow(stack, wire.deltas, _dtype(like)),
        )
    if wire.deltas == "int8":
        return Codec(_encode_int8, _decode_int8)
    return Codec(lambda stack: _encode_topk(stack, wire.fraction), _decode_topk)


def traffic(params: Params, wire: WireSettings, deltas: int = 1) -> int:
    """Bytes of the numbers that a node receives in a round and sends, where it sends so many deltas."""
    stack = {name: value[None] for name, value in params.items()}
    down = shrink(params, wire.params)
    up = stack if wire.deltas == "exact" else codec_of(wire).encode(stack)
    return _bytes(down) + deltas * _bytes(up)


def _encode_int8(stack: Params) -> Params:
    """Each tensor of a client in steps of its greatest number / 127, to the nearest."""
    encoded: Params = {}
    for name, values in stack.items():
        scale = values.reshape(len(values), -1).abs().amax(dim=1) / 127
        steps = values / _beside(scale.where(scale > 0, 1), values)
        steps = steps.round().clamp(-127, 127)  # the scale of subnormal numbers is a rough one
        encoded |= {name: steps.to(torch.int8), name + SCALE: scale.float()}
    return encoded


def _decode_int8(encoded: Params, like: Params) -> Params:
    if encoded.keys() != {n + end for n in like for end in ("", SCALE)}:
        raise ValueError("the names are not those of int8 deltas")
    if any(encoded[name].dtype != torch.int8 for name in like):
        raise ValueError("a delta is not int8")
    for scale, steps in ((encoded[name + SCALE], encoded[name]) for name in like):
        if scale.dtype != torch.float32 or scale.shape != steps.shape[:1]:
            raise ValueError("a scale is not float32, one for each client")
    return {
        name: encoded[name].to(value.dtype)
        * _beside(encoded[name + SCALE].to(value.dtype), encoded[name])
        for name, value in like.items()
    }


def _encode_topk(stack: Params, fraction: float) -> Params:
    """The numbers of greatest magnitude over all params of a client together, and where they are."""
    flat = torch.cat([values.reshape(len(values), -1) for values in stack.values()], dim=1)
    count = max(1, round(fraction * flat.shape[1]))
    where = flat.abs().topk(count, dim=1).indices.sort(dim=1).values
    return {INDEX: where.to(torch.int32), VALUE: flat.gather(1, where).float()}


def _decode_topk(encoded: Params, like: Params) -> Params:
    if encoded.keys() != {INDEX, VALUE}:
        raise ValueError("the names are not those of topk deltas")
    if (encoded[INDEX].dtype, encoded[VALUE].dtype) != (torch.int32, torch.float32):
        raise ValueError("the indices are not int32, or the numbers not float32")
    where, values = encoded[INDEX].long(), encoded[VALUE]
    sizes = [prod(value.shape) for value in like.values()]
    ascending = where.ndim == 2 and bool((where.diff(dim=1) > 0).all())
    if where.shape != values.shape or not ascending or where.min() < 0 or where.max() >= sum(sizes):
        raise ValueError("the indices are not those of these params")
    flat = torch.zeros(len(where), sum(sizes), dtype=_dtype(like))
    flat.scatter_(1, where, values.to(flat.dtype))
    parts = torch.split(flat, sizes, dim=1)
    return {
        name: part.reshape(-1, *value.shape)
        for (name, value), part in zip(like.items(), parts, strict=True)
    }


def _bytes(params: Params) -> int:
    return sum(value.numel() * value.element_size() for value in params.values())


def _beside(per_client: Tensor, values: Tensor) -> Tensor:
    return per_client.reshape(-1, *[1] * (values.ndim - 1))


def _dtype(params: Params) -> torch.dtype:
    return next(iter(params.values())).dtype
