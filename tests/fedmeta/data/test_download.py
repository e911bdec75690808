"""Downloads: fetched once, checked, and one line about what is wrong."""

from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from fedmeta.data import download as module
from fedmeta.data.download import download
from fedmeta.errors import DataError

CONTENT = b"scans of a handful of patients"


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a server with one file, and a cache that is empty."""
    monkeypatch.setattr(module, "cache_folder", lambda: tmp_path / "cache")
    (tmp_path / "served").mkdir()
    (tmp_path / "served/file.bin").write_bytes(CONTENT)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/file.bin"
        server.shutdown()


def test_a_file_is_fetched_once(address: str, tmp_path: Path) -> None:
    digest = sha256(CONTENT).hexdigest()
    assert download(address, digest).read_bytes() == CONTENT
    (tmp_path / "served/file.bin").unlink()
    assert download(address, digest).read_bytes() == CONTENT


def test_another_file_than_expected_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot download .*file\.bin \(ValueError: SHA256 hash"):
        download(address, "0" * 64)
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_is_not_there_is_told_in_the_words_of_the_server(address: str) -> None:
    with pytest.raises(
        DataError, match=r"nothing \(HTTPError: 404 .*; set FEDMETA_DATA or data.root"
    ):
        download(address.replace("file.bin", "nothing"), "0" * 64)


def test_without_a_network_the_line_is_the_sockets_own() -> None:
    with pytest.raises(DataError) as told:
        download("http://127.0.0.1:1/file.bin", "0" * 64)
    assert str(told.value) == (
        "cannot download http://127.0.0.1:1/file.bin (ConnectionRefusedError: [Errno 111] Connection "
        "refused); set FEDMETA_DATA or data.root to a folder that holds the file"
    )
