"""What a node refuses to do for a server."""

import pytest
from flwr.app import ArrayRecord

from fedmeta.errors import ConfigError
from fedmeta.node import answer
from fedmeta.wire import Work, pack_work, short


def test_a_message_cannot_read_the_environment_of_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "hunter2")
    content = pack_work(ArrayRecord(), Work("name: ${oc.env:MY_SECRET}", 0, []))
    with pytest.raises(ConfigError) as refusal:
        answer("query", content)
    assert "hunter2" not in str(refusal.value)


def test_a_reason_is_one_short_line() -> None:
    assert short("OSError: no\n  space") == "OSError: no space"
    assert len(short("x" * 10**6)) == 200
