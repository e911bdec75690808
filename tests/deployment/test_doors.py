"""Who is not let in: real processes with the wrong papers, and bundles that try to climb out."""

import io
import json
import subprocess
import zipfile
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import click
import pytest
from flwr.cli.install import install_from_fab

from fedmeta.errors import ConfigError
from simulations.certificates import write_certificates, write_node_key
from simulations.loopback import BIN, CONNECTION, Loopback, Node
from strategies.server_app import bundled

LIMIT = 30.0
"""Seconds for a process that is turned away to end."""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """A SuperLink that knows no node."""
    with Loopback(tmp_path_factory.mktemp("doors") / "federation", []) as found:
        yield found


@pytest.fixture(scope="module")
def stranger(federation: Loopback) -> Node:
    """A SuperNode with a key that nobody registered."""
    node = Node("stranger")
    write_node_key(federation.key(node))
    return node


def without(command: Sequence[str], option: str) -> list[str]:
    """The command less an option and its value."""
    at = command.index(option)
    return [*command[:at], *command[at + 2 :]]


def turned_away(federation: Loopback, command: Sequence[str]) -> str:
    """What a SuperNode prints that ends by itself, not well."""
    federation.spawn("stranger", command, {})
    assert federation.wait("stranger", LIMIT) != 0
    return federation.log("stranger")


def test_a_key_that_is_not_registered(federation: Loopback, stranger: Node) -> None:
    assert "Failed to activate SuperNode" in turned_away(federation, federation.command(stranger))


def test_no_key(federation: Loopback, stranger: Node) -> None:
    command = without(federation.command(stranger), "--auth-supernode-private-key")
    assert "SuperNode authentication is enabled" in turned_away(federation, command)


def test_no_certificate_authority(federation: Loopback, stranger: Node) -> None:
    """A node that does not know the authority does not talk to the server."""
    command = without(federation.command(stranger), "--root-certificates")
    assert "CERTIFICATE_VERIFY_FAILED" in turned_away(federation, command)


def test_another_certificate_authority(
    federation: Loopback, stranger: Node, tmp_path: Path
) -> None:
    write_certificates(tmp_path)
    command = federation.command(stranger)
    command[command.index("--root-certificates") + 1] = str(tmp_path / "ca.crt")
    assert "CERTIFICATE_VERIFY_FAILED" in turned_away(federation, command)


def test_a_node_without_encryption(federation: Loopback, stranger: Node) -> None:
    """Flower itself tries for ever unless it is told how often."""
    command = federation.command(stranger)
    for option in ("--root-certificates", "--auth-supernode-private-key"):
        command = without(command, option)
    turned_away(federation, [*command, "--insecure", "--max-retries", "1"])


def test_an_operator_without_the_certificate_authority(
    federation: Loopback, tmp_path: Path
) -> None:
    """Nor is anything let through that would start runs without knowing the server."""
    write_certificates(tmp_path / "others")
    home = tmp_path / "home"
    home.mkdir()
    certificate = json.dumps(str(tmp_path / "others" / "ca.crt"))
    (home / "config.toml").write_text(
        f'[superlink.{CONNECTION}]\naddress = "127.0.0.1:{federation.port}"\n'
        f"root-certificates = {certificate}\n"
    )
    result = subprocess.run(
        [str(BIN / "flwr"), "supernode", "list", CONNECTION],
        env=federation.environment_of("cli") | {"FLWR_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert result.returncode == 1
    assert "Connection to the SuperLink is unavailable" in result.stdout + result.stderr


def bundle(member: str) -> bytes:
    """A bundle as Flower builds it, with one more member."""
    project = (
        '[project]\nname = "x"\nversion = "0.1.0"\nlicense = "Apache-2.0"\n'
        '[tool.flwr.app]\npublisher = "x"\n[tool.flwr.app.components]\n'
        'serverapp = "strategies.server_app:app"\nclientapp = "fedmeta.client_app:app"\n'
    )
    files = {"pyproject.toml": project.encode(), member: b"name: evil\n"}
    listed = "".join(f"{n},{sha256(c).hexdigest()},{8 * len(c)}\n" for n, c in files.items())
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        for name, content in {**files, ".info/CONTENT": listed.encode()}.items():
            zipped.writestr(name, content)
    return archive.getvalue()


@pytest.mark.parametrize(
    "climb", ["../evil.yaml", "configs/../../../evil.yaml", "{root}/evil.yaml"]
)
def test_a_bundle_that_climbs_out_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, climb: str
) -> None:
    """By the function that SuperLink and SuperNode unpack bundles with."""
    home = tmp_path / "home"
    monkeypatch.setenv("FLWR_HOME", str(home))
    install_from_fab(bundle("configs/good.yaml"), skip_prompt=True)
    assert len(list(home.rglob("good.yaml"))) == 1
    with pytest.raises(click.ClickException, match="Unsafe path"):
        install_from_fab(bundle(climb.format(root=tmp_path)), skip_prompt=True)
    assert list(tmp_path.rglob("evil.yaml")) == []


@pytest.mark.parametrize("climb", ["../evil.yaml", "configs/../../evil.yaml", "/etc/passwd"])
def test_a_config_that_climbs_out_of_the_bundle_is_not_read(climb: str) -> None:
    with pytest.raises(ConfigError, match="config must be a path inside the bundle"):
        bundled(climb)
