"""What is left out of a delta comes later, what is broken is refused, and fewer bytes travel."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedmeta.client_state import ClientStates
from fedmeta.compression import (
    INDEX,
    SCALE,
    VALUE,
    codec_of,
    compress,
    expand,
    grow,
    shrink,
    traffic,
)
from fedmeta.config import parse
from fedmeta.errors import ConfigError
from fedmeta.packing import pack_params, unpack_params
from fedmeta.replies import Replies
from fedmeta.settings import WireSettings
from fedmeta.types import Params
from fedmeta.wire import pack_replies, size, unpack_replies
from tests.fedmeta.test_wire import same, travel

FORMS = ("exact", "float16", "bfloat16", "int8", "topk")
LOSSY = FORMS[1:]
LIKE = {"w": torch.zeros(2, 3), "rate": torch.zeros(()), "bias": torch.zeros(2)}
NUMBERS = 6 + 1 + 2
quick = settings(derandomize=True, deadline=None, max_examples=50)


def wire(form: str, fraction: float = 0.3, feedback: bool = True) -> WireSettings:
    return WireSettings(deltas=form, fraction=fraction, feedback=feedback)  # type: ignore


def stack(*seeds: int, dtype: torch.dtype = torch.float32) -> Params:
    """Standard normal deltas, one for each seed."""
    each = [
        {
            name: torch.from_numpy(np.random.default_rng([seed, i]).normal(size=value.shape))
            for i, (name, value) in enumerate(LIKE.items())
        }
        for seed in seeds
    ]
    return {name: torch.stack([one[name] for one in each]).to(dtype) for name in LIKE}


def replies(deltas: Params, *clients: int) -> Replies:
    columns = {"examples": torch.full((len(clients),), 5.0), "loss": torch.ones(len(clients))}
    return Replies(list(clients), deltas, columns)


def flat(deltas: Params) -> np.ndarray:
    """``[clients, numbers]``."""
    return np.concatenate([v.numpy().reshape(len(v), -1) for v in deltas.values()], axis=1)


def decoded(form: str, deltas: Params, fraction: float = 0.3) -> Params:
    like = {name: value[0] for name, value in deltas.items()}
    codec = codec_of(wire(form, fraction))
    return codec.decode(codec.encode(deltas), like)


# Codecs


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """The upper half of a float32, rounded to the nearest and, in the middle, to even."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


@given(values=hnp.arrays(np.float32, 8, elements=st.floats(-(2.0**100), 2.0**100, width=32)))
@quick
def test_bfloat16_is_the_upper_half_of_float32(values: np.ndarray) -> None:
    small = shrink({"w": torch.from_numpy(values)}, "bfloat16")["w"]
    assert small.dtype == torch.int16
    assert (small.numpy().view(np.uint16) == bfloat16_bits(values)).all()
    back = grow({"w": small}, "bfloat16", torch.float32)["w"].numpy()
    assert (back.view(np.uint32) == bfloat16_bits(values).astype(np.uint32) << 16).all()


@given(values=hnp.arrays(np.float32, 8, elements=st.floats(-60000, 60000, width=32)))
@quick
def test_float16_is_numpys(values: np.ndarray) -> None:
    small = shrink({"w": torch.from_numpy(values)}, "float16")["w"]
    assert small.numpy().tobytes() == values.astype(np.float16).tobytes()
    back = grow({"w": small}, "float16", torch.float64)["w"]
    assert (back.numpy() == values.astype(np.float16).astype(np.float64)).all()


@pytest.mark.parametrize("form", ["exact", "float16", "bfloat16"])
def test_params_travel_to_the_bit_of_their_form(form: str) -> None:
    """Every pattern of 16 bits that is a number, infinities included."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    half = bits.view(torch.bfloat16 if form == "bfloat16" else torch.float16)
    half = half[~half.isnan()]
    params = {"w": half.float().reshape(2, -1), "rate": torch.tensor(0.5)}
    packed = shrink(params, form)
    sent = travel(RecordDict({"params": pack_params(packed)})).array_records["params"]
    assert same(unpack_params(sent), packed)
    assert same(grow(unpack_params(sent), form, torch.float32), params)


@given(
    a=hnp.arrays(np.float32, (2, 3), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    b=hnp.arrays(np.float32, (2, 3), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
)
@quick
def test_int8_is_off_by_half_a_step_at_most(a: np.ndarray, b: np.ndarray) -> None:
    """A step is the greatest number of the tensor / 127; float32 rounds it by 1 in 2^24."""
    found = decoded("int8", {"w": torch.from_numpy(np.stack([a, b]))})["w"].numpy()
    for each, back in zip((a, b), found.astype(np.float64), strict=True):
        step = np.abs(each).max().astype(np.float64) / 127
        rounding = 127 * step * 2.0**-22 + 128 * 2.0**-149  # of a subnormal step, by its last bit
        assert np.abs(back - each).max() <= step / 2 + rounding


@given(values=hnp.arrays(np.float32, 5, elements=st.floats(-(2.0**-140), 2.0**-140, width=32)))
@quick
def test_int8_of_the_smallest_numbers_does_not_wrap_around(values: np.ndarray) -> None:
    found = decoded("int8", {"w": torch.from_numpy(values)[None]})["w"][0].numpy()
    assert (np.sign(found) * np.sign(values) >= 0).all()


def test_int8_is_numpys() -> None:
    deltas = stack(1, 2)
    encoded = codec_of(wire("int8")).encode(deltas)
    assert encoded.keys() == {name + end for name in LIKE for end in ("", SCALE)}
    for name, values in deltas.items():
        rows = values.numpy().reshape(2, -1)
        scale = np.abs(rows).max(axis=1) / np.float32(127)
        steps = np.round(rows / scale[:, None]).astype(np.int8).reshape(values.shape)
        assert encoded[name + SCALE].numpy().tobytes() == scale.tobytes()
        assert encoded[name].numpy().tobytes() == steps.tobytes()
        assert np.abs(steps.reshape(2, -1)).max(axis=1).tolist() == [127, 127]


@pytest.mark.parametrize("form", LOSSY)
def test_a_zero_delta_stays_zero(form: str) -> None:
    zeros = {name: torch.zeros(2, *value.shape) for name, value in LIKE.items()}
    assert same(decoded(form, zeros), zeros)


@pytest.mark.parametrize("form", LOSSY)
def test_a_client_is_written_the_same_whoever_stands_beside_it(form: str) -> None:
    """One with numbers a million times as large, one with none."""
    deltas = stack(1, 2, 3)
    for values in deltas.values():
        values[1] *= 1e6 if form != "float16" else 1e4
        values[2] = 0
    alone = {name: values[:1] for name, values in deltas.items()}
    together = {name: values[:1] for name, values in decoded(form, deltas).items()}
    assert same(together, decoded(form, alone))


@pytest.mark.parametrize("fraction", [1e-9, 0.1, 0.3, 0.5, 0.77, 1.0])
def test_topk_keeps_the_greatest_of_all_tensors_together(fraction: float) -> None:
    """Of 9 numbers 1, 1, 3, 4, 7 and 9: Python rounds 4.5 to the even 4."""
    kept = {1e-9: 1, 0.1: 1, 0.3: 3, 0.5: 4, 0.77: 7, 1.0: 9}[fraction]
    deltas = stack(4, 5)
    found, expected = flat(decoded("topk", deltas, fraction)), flat(deltas)
    for row in expected:
        row[np.argsort(-np.abs(row))[kept:]] = 0
    assert found.tobytes() == expected.tobytes()
    assert ((found != 0).sum(axis=1) == kept).all()
    encoded = codec_of(wire("topk", fraction)).encode(deltas)
    assert {name: (v.dtype, v.shape) for name, v in encoded.items()} == {
        INDEX: (torch.int32, (2, kept)), VALUE: (torch.float32, (2, kept)),
    }  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_deltas_come_back_under_their_names_in_their_shapes_and_dtypes(
    tmp_path: Path, form: str, dtype: torch.dtype
) -> None:
    """Scalars too; off by at most 1 in 2^8 of the greatest number, the 8 bits of bfloat16."""
    sent, asked = replies(stack(1, 2, dtype=dtype), 7, 3), wire(form, fraction=1.0)
    packed = travel(pack_replies(compress(sent, asked, ClientStates(tmp_path), 1)))
    like = {name: value.to(dtype) for name, value in LIKE.items()}
    found = expand(unpack_replies(packed), asked, like)
    assert found.clients == [7, 3]
    for name, values in found.deltas.items():
        assert (values.dtype, values.shape) == (dtype, sent.deltas[name].shape)
        worst = (values - sent.deltas[name]).abs().max()
        assert worst <= 2.0**-8 * sent.deltas[name].abs().max()
    assert same(found.deltas, sent.deltas) == (
        form == "exact" or (form == "topk" and dtype == torch.float32)
    )


# Error feedback


def read_residual(folder: Path, client: int, round: int) -> Params:
    first = {name: torch.zeros_like(v, dtype=torch.float64) for name, v in LIKE.items()}
    return ClientStates(folder / "residuals").read([client], round, first)


@pytest.mark.parametrize("form", LOSSY)
def test_what_was_said_in_all_rounds_is_the_sum_of_deltas_less_the_last_residual(
    tmp_path: Path, form: str
) -> None:
    """sum_t said_t = sum_t (delta + r_(t-1) - r_t) = T delta - r_T with r_0 = 0."""
    rounds, asked, states = 12, wire(form), ClientStates(tmp_path)
    deltas, total = stack(8, 9, dtype=torch.float64), np.zeros((2, NUMBERS))
    for round in range(1, rounds + 1):
        encoded = compress(replies(deltas, 4, 6), asked, states, round)
        total += flat(expand(encoded, asked, {n: v[0] for n, v in deltas.items()}).deltas)
    left = np.concatenate([flat(read_residual(tmp_path, c, rounds + 1)) for c in (4, 6)])
    rounding = 100 * rounds * np.finfo(np.float64).eps * np.abs(rounds * flat(deltas)).max()
    assert np.abs(total - (rounds * flat(deltas) - left)).max() <= rounding
    assert np.abs(left).max() > 1e-7  # so there was something to feed back


def test_topk_with_feedback_says_every_number_in_the_end(tmp_path: Path) -> None:
    """Without it the same three of nine come again and again."""
    deltas, states = stack(8), ClientStates(tmp_path)
    said = {True: np.zeros(NUMBERS), False: np.zeros(NUMBERS)}
    for feedback, total in said.items():
        for round in range(1, 21):
            asked = wire("topk", 0.3, feedback)
            encoded = compress(replies(deltas, 4), asked, states, round)
            total += flat(expand(encoded, asked, LIKE).deltas)[0]
    assert (said[True] != 0).all()
    assert (said[False] != 0).sum() == 3
    assert read_residual(tmp_path / "nobody", 4, 21).keys() == LIKE.keys()


def test_every_client_has_a_residual_of_its_own_on_disk(tmp_path: Path) -> None:
    asked, states = wire("topk"), ClientStates(tmp_path)
    both, alone = stack(1, 2), stack(2)
    compress(replies(both, 4, 6), asked, states, 1)
    compress(replies(alone, 6), asked, ClientStates(tmp_path / "alone"), 1)
    assert same(read_residual(tmp_path, 6, 2), read_residual(tmp_path / "alone", 6, 2))
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.safetensors"))
    assert found == [
        "alone/residuals/6/1.safetensors",
        "residuals/4/1.safetensors",
        "residuals/6/1.safetensors",
    ]


def test_a_round_that_is_repeated_begins_with_the_residual_from_before_it(tmp_path: Path) -> None:
    """A run that was killed after round 3 and goes on after round 2 says the same in round 3."""
    asked, states = wire("int8"), ClientStates(tmp_path)
    first = [compress(replies(stack(n), 4), asked, states, n).deltas for n in (1, 2, 3)]
    again = [compress(replies(stack(n), 4), asked, states, n).deltas for n in (3, 3)]
    assert all(same(found, first[2]) for found in again)
    fresh = compress(replies(stack(3), 4), asked, ClientStates(tmp_path / "new"), 3).deltas
    assert not same(fresh, first[2])


@pytest.mark.parametrize("form", LOSSY)
def test_without_feedback_nothing_is_kept_and_every_round_is_alike(
    tmp_path: Path, form: str
) -> None:
    asked, states = wire(form, feedback=False), ClientStates(tmp_path)
    found = [compress(replies(stack(1), 4), asked, states, n).deltas for n in (1, 2, 3)]
    assert same(found[0], found[1])
    assert same(found[0], found[2])
    assert not list(tmp_path.iterdir())


def test_exact_deltas_keep_nothing(tmp_path: Path) -> None:
    sent = replies(stack(1), 4)
    assert compress(sent, wire("exact"), ClientStates(tmp_path), 1) is sent
    assert expand(sent, wire("exact"), LIKE) is sent
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", LOSSY)
def test_a_client_whose_delta_is_no_number_is_named_and_harms_nobody(
    tmp_path: Path, form: str
) -> None:
    deltas = stack(1, 2, 3)
    deltas["w"][1, 0, 0] = math.nan
    found = compress(replies(deltas, 4, 6, 8), wire(form), ClientStates(tmp_path), 1)
    good = {name: value[[0, 2]] for name, value in deltas.items()}
    alone = compress(replies(good, 4, 8), wire(form), ClientStates(tmp_path / "alone"), 1)
    assert (found.clients, list(found.failures)) == ([4, 8], [6])
    assert same(found.deltas, alone.deltas)
    assert not (tmp_path / "residuals" / "6").exists()


def test_of_failures_alone_nothing_is_encoded(tmp_path: Path) -> None:
    sent = Replies([], {}, {}, {4: "OSError"})
    asked = wire("topk")
    assert compress(sent, asked, ClientStates(tmp_path), 1) == sent
    assert expand(sent, asked, LIKE) == sent


def test_what_overflows_in_one_round_does_not_spoil_the_next(tmp_path: Path) -> None:
    """1e6 is infinite in float16: that reply is no use, and the residual is that of before."""
    asked, states = wire("float16"), ClientStates(tmp_path)
    compress(replies(stack(1), 4), asked, states, 1)
    before = read_residual(tmp_path, 4, 2)
    huge = {name: 1e6 * torch.ones_like(value) for name, value in stack(1).items()}
    assert torch.isinf(compress(replies(huge, 4), asked, states, 2).deltas["w"]).all()
    assert same(read_residual(tmp_path, 4, 3), before)
    calm = compress(replies(stack(3), 4), asked, states, 3)
    assert all(torch.isfinite(value).all() for value in calm.deltas.values())


# Bytes


@pytest.mark.parametrize(
    ("form", "up"),
    [
        ("exact", 4 * NUMBERS),
        ("float16", 2 * NUMBERS),
        ("bfloat16", 2 * NUMBERS),
        ("int8", NUMBERS + 3 * 4),  # a float32 scale for each of three tensors
        ("topk", 3 * (4 + 4)),  # int32 and float32 for each of 0.3 x 9
    ],
)
@pytest.mark.parametrize(("params", "down"), [("exact", 36), ("float16", 18), ("bfloat16", 18)])
def test_traffic_is_params_down_and_deltas_up(form: str, up: int, params: str, down: int) -> None:
    settings = WireSettings(params=params, deltas=form, fraction=0.3)  # type: ignore
    assert traffic(LIKE, settings) == down + up


def test_of_many_numbers_the_message_is_as_long_as_the_traffic(tmp_path: Path) -> None:
    """But for headers and columns, under 4 kB."""
    params = {"w": torch.ones(300, 200)}
    for form in FORMS:
        sent = replies({"w": torch.randn(1, 300, 200)}, 4)
        packed = pack_replies(compress(sent, wire(form), ClientStates(tmp_path / form), 1))
        up = traffic(params, wire(form)) - 4 * 300 * 200
        assert up <= size(packed) < up + 4000


# Config


CONFIG = """
name: small
rounds: 3
data: {name: sinusoid, shots: 4, queries: 5, examples: 12, clients: {train: 9, val: 5, test: 5}}
model: {name: mlp, hidden: [6]}
learner: {name: sgd, lr: 0.02, epochs: 1, batch_size: 4}
strategy: {name: fedavg}
cohort: {clients: 3}
evaluation: {every: 1, steps: 1, clients: 5}
"""


@pytest.mark.parametrize("form", LOSSY)
def test_a_sum_of_replies_has_no_delta_of_a_client_to_round(form: str) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"^wire\.deltas: {form} rounds .* cohort\.replies must be auto or each, got sum$",
    ):
        parse(CONFIG, [f"wire.deltas={form}", "cohort.replies=sum"])
    for replies in ("auto", "each"):
        found = parse(CONFIG, [f"wire.deltas={form}", f"cohort.replies={replies}"])
        assert found.wire.deltas == form


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("wire.fraction=0", r"wire\.fraction must be above 0 and at most 1, got 0\.0"),
        ("wire.fraction=1.01", r"wire\.fraction must be above 0 and at most 1, got 1\.01"),
        ("wire.fraction=.nan", r"wire\.fraction must be above 0 and at most 1, got nan"),
        ("wire.params=int8", r"wire\.params: .*int8"),
        ("wire.deltas=gzip", r"wire\.deltas: .*gzip"),
        ("wire.feedbck=false", r"wire\.feedbck is not a setting; .*did you mean feedback\?"),
    ],
)
def test_bad_settings_of_the_wire(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        parse(CONFIG, [override])
