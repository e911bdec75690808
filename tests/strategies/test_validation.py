"""One bad client is dropped and named; the others' deltas count as if it had not been asked."""

import io
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedmeta.packing import pack_params
from fedmeta.replies import Replies, summed
from fedmeta.types import Params
from fedmeta.wire import pack_replies, size
from strategies.roster import senders
from strategies.validation import Checked, Expected, check, failed_alike

PARAMS = {"w": torch.zeros(2), "rate": torch.zeros(())}
GOOD, BAD = 3, 2  # nodes
Reply = Callable[[int, RecordDict | Error], Message]


def answer(*clients: int) -> Replies:
    """Deltas that tell whose they are: the client's id everywhere."""
    ids = torch.tensor(clients, dtype=torch.float32)
    deltas = {"w": ids[:, None].expand(-1, 2).clone(), "rate": ids.clone()}
    columns = {"examples": torch.full((len(clients),), 5.0), "loss": ids.double()}
    return Replies(list(clients), deltas, columns)


def records(**changed: object) -> RecordDict:
    """Client 0's reply with some of its records exchanged."""
    return RecordDict({**pack_replies(answer(0)), **changed})  # type: ignore[dict-item]


def delta(**changed: torch.Tensor) -> RecordDict:
    """Client 0's reply with some entries of its delta exchanged."""
    return records(deltas=pack_params(answer(0).deltas | changed))


def columns(**values: object) -> RecordDict:
    """Client 0's reply with these columns."""
    return records(columns=MetricRecord({"client": [0], **values}))  # type: ignore[dict-item]


def failures(clients: list[object], reasons: list[object]) -> ConfigRecord:
    return ConfigRecord({"clients": clients, "reasons": reasons, "summed": False})  # type: ignore


def raw(data: bytes) -> RecordDict:
    """Client 0's reply whose numbers are these bytes, where an .npy file should be."""
    entry = Array(dtype="uint8", shape=(12,), stype="numpy.ndarray", data=data)
    return records(deltas=ArrayRecord({**pack_params(answer(0).deltas), "numbers": entry}))


def laid_out(*layout: object, numbers: int = 12) -> RecordDict:
    """Client 0's reply with such a layout; its own has 8 bytes of ``w`` and 4 of ``rate``."""
    text = np.frombuffer(json.dumps(layout).encode(), np.uint8)
    parts = {"layout": Array(text), "numbers": Array(np.zeros(numbers, np.uint8))}
    return records(deltas=ArrayRecord(parts))


def npy(shape: str, payload: bytes = b"") -> bytes:
    """An .npy file of format 1.0 that claims a shape."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + payload


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([print], dtype=object), allow_pickle=True)
    return file.getvalue()


def without(name: str) -> RecordDict:
    return records(deltas=pack_params({k: v for k, v in answer(0).deltas.items() if k != name}))


W, RATE = ["w", "<f4", [1, 2]], ["rate", "<f4", [1]]
nan, inf = float("nan"), float("inf")
UNUSABLE = "not a usable number"
BROKEN: dict[str, tuple[RecordDict | Error, str]] = {
    "error reply": (Error(code=2, reason="CUDA out of memory"), "CUDA out of memory"),
    "missing key": (without("rate"), "missing ['rate'], unknown []"),
    "extra key": (delta(extra=torch.zeros(1)), "missing [], unknown ['extra']"),
    "renamed key": (
        records(deltas=pack_params({"w": torch.zeros(1, 2), "rates": torch.zeros(1)})),
        "missing ['rate'], unknown ['rates']",
    ),
    "too long": (delta(w=torch.zeros(1, 3)), "w has shape (1, 3), expected (1, 2)"),
    "broadcastable": (delta(w=torch.zeros(1, 1)), "w has shape (1, 1), expected (1, 2)"),
    "no client dimension": (delta(w=torch.zeros(2)), "w has shape (2,), expected (1, 2)"),
    "two clients' rows": (delta(w=torch.zeros(2, 2)), "w has shape (2, 2), expected (1, 2)"),
    "rank of a scalar": (delta(rate=torch.zeros(1, 1)), "rate has shape (1, 1), expected (1,)"),
    "wider dtype": (delta(w=torch.zeros(1, 2).double()), "w is torch.float64, expected"),
    "integers": (delta(w=torch.zeros(1, 2).int()), "w is torch.int32, expected torch.float32"),
    "nan": (delta(w=torch.tensor([[0.0, nan]])), UNUSABLE),
    "inf": (delta(rate=torch.tensor([inf])), UNUSABLE),
    "minus inf": (delta(rate=torch.tensor([-inf])), UNUSABLE),
    "nan metric": (columns(examples=[5.0], loss=[nan]), UNUSABLE),
    "no examples": (columns(examples=[0.0], loss=[1.0]), UNUSABLE),
    "negative examples": (columns(examples=[-5.0], loss=[1.0]), UNUSABLE),
    "nan examples": (columns(examples=[nan], loss=[1.0]), UNUSABLE),
    "infinite examples": (columns(examples=[inf], loss=[1.0]), UNUSABLE),
    "examples missing": (columns(loss=[1.0]), "does not say examples of its clients"),
    "long column": (columns(examples=[5.0, 5.0], loss=[1.0]), "different number of clients"),
    "empty column": (columns(examples=[5.0], loss=[]), "different number of clients"),
    "scalar column": (columns(examples=[5.0], loss=1.0), "different number of clients"),
    "another client": (columns(client=[7], examples=[5.0]), "not for the clients that were asked"),
    "one more client": (columns(client=[0, 1], examples=[5.0]), "not for the clients"),
    "a client twice": (columns(client=[0, 0], examples=[5.0]), "not for the clients"),
    "nobody": (columns(client=[], examples=[]), "not for the clients that were asked"),
    "good and failed": (records(failures=failures([0], ["no"])), "not for the clients"),
    "a client's name": (records(failures=failures(["a"], ["no"])), "not for the clients"),
    "half a client": (columns(client=[0.5], examples=[5.0]), "not for the clients"),
    "no reason": (records(failures=failures([0], [])), "cannot be read (ValueError"),
    "no records": (RecordDict(), "cannot be read (KeyError"),
    "no failures": (records(failures=ConfigRecord({})), "cannot be read (KeyError"),
    "one number for ids": (columns(client=0, examples=[5.0]), "cannot be read (TypeError"),
    "no bytes": (raw(b""), "cannot be read (EOFError"),
    "noise": (raw(b"noise"), "cannot be read (ValueError"),
    "zip": (raw(b"PK\x03\x04noise"), "cannot be read (BadZipFile"),
    "cut short": (raw(npy("(12,)", b"\0" * 5)), "cannot be read (ValueError"),
    "fewer bytes than laid out": (laid_out(W, RATE, numbers=11), "layout of 'rate' does not fit"),
    "more bytes than laid out": (laid_out(W, RATE, numbers=13), "1 bytes are more than the layout"),
    "a name twice": (laid_out(W, ["w", "<f4", [1]]), "layout of 'w' does not fit"),
    "a shape below 0": (laid_out(["w", "<f4", [-1, -2]], RATE), "[-1, -2] is no shape"),
    "half a shape": (laid_out(["w", "<f4", [0.5]], RATE), "[0.5] is no shape"),
    "a huge shape": (laid_out(["w", "<f4", [10**9, 10**9]]), "layout of 'w' does not fit"),
    "objects": (laid_out(["w", "|O", [1]], RATE, numbers=12), "layout of 'w' does not fit"),
    "no dtype": (laid_out(["w", "secret", [1]]), "cannot be read (TypeError"),
    "no layout": (laid_out(7), "cannot be read (TypeError"),
    "a petabyte": (raw(npy("(1" + "0" * 15 + ",)")), "cannot be read ("),
    "more than 64 bits": (raw(npy("(1" + "0" * 21 + ",)")), "cannot be read ("),
    "pickle": (raw(pickled()), "allow_pickle=False"),
}  # fmt: skip


def ids(checked: Checked) -> list[list[int]]:
    return [reply.clients for reply in checked.replies]


@pytest.mark.parametrize(("content", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_reply_drops_its_client_alone(
    reply: Reply, content: RecordDict | Error, reason: str
) -> None:
    messages = [reply(BAD, content), reply(GOOD, pack_replies(answer(1, 4)))]
    checked = check(messages, {BAD: [0], GOOD: [1, 4]}, Expected(PARAMS))
    assert checked.dropped.keys() == {0}
    assert reason in checked.dropped[0]
    (kept,) = checked.replies
    assert kept.clients == [1, 4]
    assert kept.deltas["w"].tolist() == [[1.0, 1.0], [4.0, 4.0]]
    assert kept.columns["loss"].tolist() == [1.0, 4.0]


@pytest.mark.parametrize("bad", [nan, inf, -inf])
@pytest.mark.parametrize("where", ["w", "rate", "examples", "loss"])
def test_a_bad_number_of_one_client_drops_it_from_its_node(
    reply: Reply, where: str, bad: float
) -> None:
    block = answer(0, 1, 2)
    (block.deltas | block.columns)[where][1] = bad
    checked = check([reply(GOOD, pack_replies(block))], {GOOD: [0, 1, 2]}, Expected(PARAMS))
    assert checked.dropped.keys() == {1}
    assert checked.clients == 2
    (kept,) = checked.replies
    assert kept.deltas["w"].tolist() == [[0.0, 0.0], [2.0, 2.0]]
    assert kept.columns["examples"].tolist() == [5.0, 5.0]


def test_a_reply_without_fault_is_kept_whole(reply: Reply) -> None:
    checked = check([reply(GOOD, pack_replies(answer(3, 1)))], {GOOD: [1, 3]}, Expected(PARAMS))
    assert (ids(checked), checked.dropped) == ([[3, 1]], {})


def test_replies_come_in_client_order(reply: Reply) -> None:
    messages = [reply(4, pack_replies(answer(5))), reply(2, pack_replies(answer(1)))]
    assert ids(check(messages, {2: [1], 4: [5]}, Expected(PARAMS))) == [[1], [5]]


def test_a_silent_node_is_named(reply: Reply) -> None:
    checked = check(
        [reply(GOOD, pack_replies(answer(1)))], {GOOD: [1], BAD: [0, 8]}, Expected(PARAMS)
    )
    assert checked.dropped == dict.fromkeys([0, 8], "no reply in time")
    assert ids(checked) == [[1]]


def test_a_client_that_failed_on_its_node_is_named(reply: Reply) -> None:
    block = replace(answer(1, 4), failures={2: "DataError: shard is empty"})
    checked = check([reply(GOOD, pack_replies(block))], {GOOD: [1, 2, 4]}, Expected(PARAMS))
    assert checked.dropped == {2: "DataError: shard is empty"}
    assert ids(checked) == [[1, 4]]


def test_a_second_reply_and_a_stranger_count_for_nothing(reply: Reply) -> None:
    messages = [reply(node, pack_replies(answer(1))) for node in (GOOD, GOOD, 99)]
    checked = check(messages, {GOOD: [1]}, Expected(PARAMS))
    assert (ids(checked), checked.dropped) == ([[1]], {})


def test_of_a_node_that_is_gone_the_superlink_says_so() -> None:
    """Its error has the SuperLink's own number, 1, and the id of the message that was never answered."""
    sent = Message(RecordDict(), BAD, "train")
    sent.metadata.__dict__["_message_id"] = "to BAD"
    error = Message(Error(code=5, reason="Node Unavailable"), reply_to=sent)
    error.metadata.__dict__["_src_node_id"] = 1
    asked = {BAD: [0], GOOD: [1]}
    checked = check([error], asked, Expected(PARAMS, nodes=senders([sent])))
    assert checked.dropped == {0: "Node Unavailable", 1: "no reply in time"}


def test_all_clients_failing_alike_are_seen_to(reply: Reply) -> None:
    """Numbers in the reasons do not make them different."""
    block = Replies([], {}, {}, {c: f"DataError: client {c} holds 3 examples" for c in (0, 4)})
    messages = [
        reply(BAD, pack_replies(block)),
        reply(GOOD, Error(code=2, reason="DataError: client 7 holds 2 examples")),
    ]
    asked = {BAD: [0, 4], GOOD: [7]}
    checked = check(messages, asked, Expected(PARAMS))
    assert failed_alike(checked, asked) == "DataError: client 0 holds 3 examples"


def test_divergence_is_failing_alike(reply: Reply) -> None:
    block, asked = answer(0, 1), {GOOD: [0, 1]}
    block.deltas["w"][:] = nan
    checked = check([reply(GOOD, pack_replies(block))], asked, Expected(PARAMS))
    assert UNUSABLE in str(failed_alike(checked, asked))


def test_silence_of_all_is_failing_alike() -> None:
    asked = {BAD: [0], GOOD: [1]}
    assert failed_alike(check([], asked, Expected(PARAMS)), asked) == "no reply in time"


def test_clients_failing_differently_stop_nothing(reply: Reply) -> None:
    messages = [reply(BAD, Error(code=2, reason="CUDA out of memory"))]
    asked = {BAD: [0], GOOD: [1]}
    checked = check(messages, asked, Expected(PARAMS))
    assert checked.dropped == {0: "CUDA out of memory", 1: "no reply in time"}
    assert failed_alike(checked, asked) is None
    assert (checked.replies, checked.clients) == ([], 0)


def test_the_only_client_of_a_round_stops_nothing(reply: Reply) -> None:
    checked = check([reply(BAD, Error(code=2, reason="gone"))], {BAD: [0]}, Expected(PARAMS))
    assert checked.dropped == {0: "gone"}
    assert failed_alike(checked, {BAD: [0]}) is None


def test_a_sum_is_kept_or_dropped_as_a_whole(reply: Reply) -> None:
    """A NaN in the sum names all of its clients, for the server cannot tell whose it is."""
    poisoned = summed(answer(0, 2), "examples")
    poisoned.deltas["w"][1] = nan
    good = summed(answer(1, 4), "examples")
    messages = [reply(BAD, pack_replies(poisoned)), reply(GOOD, pack_replies(good))]
    checked = check(messages, {BAD: [0, 2], GOOD: [1, 4]}, Expected(PARAMS, "examples"))
    assert checked.dropped.keys() == {0, 2}
    assert all(UNUSABLE in reason for reason in checked.dropped.values())
    (kept,) = checked.replies
    assert kept.summed
    assert kept.deltas["w"].tolist() == [5 * 1.0 + 5 * 4.0] * 2


def test_a_sum_has_no_client_dimension(reply: Reply) -> None:
    stacked: Params = answer(0).deltas
    wrong = Replies([0], stacked, answer(0).columns, summed=True)
    whole = summed(answer(1), "examples")
    messages = [reply(BAD, pack_replies(wrong)), reply(GOOD, pack_replies(whole))]
    checked = check(messages, {BAD: [0], GOOD: [1]}, Expected(PARAMS, "examples"))
    assert checked.dropped == {0: "the delta of w has shape (1, 2), expected (2,)"}


@pytest.mark.parametrize("asked_for_sums", [False, True])
def test_a_sum_is_no_stack_and_a_stack_no_sum(reply: Reply, asked_for_sums: bool) -> None:
    """Robust rules need every client's delta, so a node may not answer with its sum instead."""
    stack, total = answer(0), summed(answer(1), "examples")
    messages = [reply(BAD, pack_replies(stack)), reply(GOOD, pack_replies(total))]
    checked = check(
        messages, {BAD: [0], GOOD: [1]}, Expected(PARAMS, "examples" if asked_for_sums else "")
    )
    wrong = 0 if asked_for_sums else 1
    assert checked.dropped.keys() == {wrong}
    assert "one sum" in checked.dropped[wrong] or "one delta" in checked.dropped[wrong]


def lengths(*values: float) -> Replies:
    """Clients 0, 1, ... with deltas of these Euclidean lengths: 0.6 and 0.8 of it, and 0."""
    each = torch.tensor(values)
    deltas = {"w": each[:, None] * torch.tensor([0.6, 0.8]), "rate": torch.zeros(len(values))}
    columns = {"examples": torch.full((len(values),), 5.0)}
    return Replies(list(range(len(values))), deltas, columns)


def judged(reply: Reply, block: Replies, longest: float = 0.0, column: str = "") -> Checked:
    expected = Expected(PARAMS, column, outlier=100.0, longest=longest)
    return check([reply(GOOD, pack_replies(block))], {GOOD: block.clients}, expected)


def test_an_absurdly_long_delta_is_dropped(reply: Reply) -> None:
    """The lower median of 1, 2, 3 and a million is 2, so at most 200 is averaged."""
    checked = judged(reply, lengths(1.0, 2.0, 1e6, 3.0))
    assert checked.dropped == {2: "its delta is 5e+05 times as long as others, at most 100"}
    assert ids(checked) == [[0, 1, 3]]
    assert checked.longest == pytest.approx(3.0, rel=1e-6)


def test_a_long_delta_that_is_not_absurd_is_averaged(reply: Reply) -> None:
    assert judged(reply, lengths(1.0, 1.0, 99.0)).dropped == {}


@pytest.mark.parametrize(("count", "dropped"), [(1, {0}), (2, {0, 1})])
def test_who_has_no_majority_is_held_against_earlier_rounds(
    reply: Reply, count: int, dropped: set[int]
) -> None:
    block = lengths(*[1000.0] * count)
    assert judged(reply, block).dropped == {}
    assert judged(reply, block, longest=1.0).dropped.keys() == dropped
    assert judged(reply, block, longest=11.0).dropped == {}


def test_lengths_are_those_of_float64(reply: Reply) -> None:
    """1e30 squared is no float32."""
    checked = judged(reply, lengths(1.0, 1.0, 1.0, 1e30))
    assert checked.dropped.keys() == {3}


def test_a_zero_delta_counts_and_is_named(reply: Reply) -> None:
    checked = judged(reply, lengths(1.0, 0.0, 2.0, 3.0))
    assert (checked.still, checked.dropped, checked.clients) == ((1,), {}, 4)


def test_a_sum_is_judged_by_its_mean(reply: Reply) -> None:
    """Two clients of 5 examples and length 1000: their sum of 10,000 is a mean of 1000."""
    block = summed(lengths(1000.0, 1000.0), "examples")
    assert judged(reply, block, 10.1, "examples").dropped == {}
    assert judged(reply, block, 9.9, "examples").dropped.keys() == {0, 1}
    assert judged(reply, block, 0.0, "examples").longest == pytest.approx(1000.0, rel=1e-6)


def test_bytes_are_those_of_one_client(reply: Reply) -> None:
    """Of a stack its part, of a sum all of it: a device with one client would send as much."""
    one, two = (judged(reply, lengths(*[1.0] * n)).bytes_up for n in (1, 2))
    assert two < one < 2 * two
    alone = summed(lengths(1.0), "examples")
    assert judged(reply, alone, column="examples").bytes_up == size(pack_replies(alone))


def weighed(reply: Reply, name: str, values: list[float], summing: bool = False) -> Checked:
    """Clients 0, 1, ... of one node that say such a number of themselves, beside a good node."""
    block, other = answer(*range(len(values))), answer(7)
    block.columns[name] = torch.tensor(values, dtype=torch.float64)
    other.columns[name] = torch.tensor([1.0], dtype=torch.float64)
    if summing:
        block, other = summed(block, name), summed(other, name)
    messages = [reply(BAD, pack_replies(block)), reply(GOOD, pack_replies(other))]
    expected = Expected(PARAMS, name if summing else "", columns=frozenset({name}))
    return check(messages, {BAD: block.clients, GOOD: [7]}, expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("alpha", 0.49), ("alpha", 1.01), ("alpha", -1.0), ("alpha", 1e300)],
        *[("loss_after", -0.1), ("loss_after", 1e39)],
        *[("examples", 0.5), ("examples", 1e10), ("examples", 1e300)],
    ],
)
def test_who_says_what_cannot_be_is_dropped_alone(reply: Reply, name: str, value: float) -> None:
    good, other = (3.0, 4.0) if name == "examples" else (0.6, 0.7)
    checked = weighed(reply, name, [good, value, other])
    assert checked.dropped == {1: f"its {name} cannot be true"}
    assert ids(checked) == [[0, 2], [7]]
    assert checked.replies[0].deltas["w"].tolist() == [[0.0, 0.0], [2.0, 2.0]]
    assert checked.replies[0].columns[name].tolist() == [good, other]


@pytest.mark.parametrize("bad", [nan, inf])
@pytest.mark.parametrize("name", ["alpha", "loss_after"])
def test_who_diverged_while_it_measured_is_dropped_alone(
    reply: Reply, name: str, bad: float
) -> None:
    checked = weighed(reply, name, [0.6, bad, 0.7])
    assert checked.dropped.keys() == {1}
    assert UNUSABLE in checked.dropped[1]
    assert ids(checked) == [[0, 2], [7]]


def test_a_sum_with_a_weight_that_cannot_be_is_dropped_as_a_whole(reply: Reply) -> None:
    assert weighed(reply, "alpha", [0.6, 0.7], summing=True).dropped == {}
    checked = weighed(reply, "alpha", [0.6, 1.7], summing=True)
    assert checked.dropped == dict.fromkeys([0, 1], "its alpha cannot be true")
    assert ids(checked) == [[7]]


def test_who_claims_more_examples_than_anybody_has_stops_no_step(reply: Reply) -> None:
    """Beside 1e39 examples everybody's share of a sum in float32 is zero; nobody has 1e12."""
    checked = weighed(reply, "examples", [1e12], summing=True)
    assert checked.dropped == {0: "its examples cannot be true"}
    assert ids(checked) == [[7]]


@pytest.mark.parametrize("name", ["k" * 800_000, "\x1b[31mred\n"])
def test_a_reason_is_short_whatever_a_client_calls_its_params(reply: Reply, name: str) -> None:
    """It goes to the log, and into the header of the checkpoint, which has a limit."""
    checked = check([reply(BAD, delta(**{name: torch.ones(1)}))], {BAD: [0]}, Expected(PARAMS))
    assert len(checked.dropped[0]) <= 300
    assert checked.dropped[0].isprintable()


@pytest.mark.parametrize("value", [0.5, 0.9999, 1.0])
def test_the_ends_of_what_can_be_are_good(reply: Reply, value: float) -> None:
    assert weighed(reply, "alpha", [value]).dropped == {}
    assert weighed(reply, "loss_after", [0.0, 3e38]).dropped == {}


def test_nobody_is_held_to_numbers_that_nothing_depends_on(reply: Reply) -> None:
    block = answer(0)
    block.columns["alpha"] = torch.tensor([-3.0])
    assert check([reply(GOOD, pack_replies(block))], {GOOD: [0]}, Expected(PARAMS)).dropped == {}


@pytest.mark.parametrize("name", ["loss_after", "alpha", "steps"])
def test_what_the_strategy_needs_must_be_said(reply: Reply, name: str) -> None:
    expected = Expected(PARAMS, columns=frozenset({name}))
    checked = check([reply(BAD, pack_replies(answer(0)))], {BAD: [0]}, expected)
    assert checked.dropped == {0: f"the reply does not say {name} of its clients"}
