"""A device that trusts one operator: it runs what that operator signed, and no other bundle."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from simulations.loopback import Loopback, Node
from tests.simulations.conftest import CONFIGS, SMALL

pytestmark = pytest.mark.slow
ROOT = CONFIGS.parent
TOOL = ROOT / "deploy" / "sign_bundle.py"
NAME = Path("@fedmeta/fedmeta")
OVERRIDES = " ".join([*SMALL, "rounds=1", "cohort.wait=1"])
CODE = """\
from pathlib import Path
from fedmeta import client_app
Path({mark!r}).touch()
app = client_app.app
"""


def sign_bundle(*words: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(TOOL), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def printed(*words: object) -> str:
    result = sign_bundle(*words)
    assert result.returncode == 0, result.stderr
    return result.stdout


def bundle_with_code(folder: Path, mark: Path) -> Path:
    """The app of this checkout, but with a ClientApp that travels and leaves a mark when it is run."""
    project = (ROOT / "pyproject.toml").read_text()
    project = project.replace("fedmeta.client_app:app", "travels.client:app")
    project = project.replace('["configs/**/*.yaml"]', '["configs/*.yaml", "travels/*.py"]')
    for place in ("configs", "travels"):
        (folder / place).mkdir(parents=True)
    (folder / "pyproject.toml").write_text(project)
    (folder / "configs" / "quickstart.yaml").write_text((CONFIGS / "quickstart.yaml").read_text())
    (folder / "travels" / "__init__.py").touch()
    (folder / "travels" / "client.py").write_text(CODE.format(mark=str(mark)))
    return folder


@dataclass
class Federation:
    """One device that trusts one operator, and what is started on it."""

    folder: Path
    loopback: Loopback
    mark: Path
    app: Path

    def enter(self, operator: str) -> None:
        bundle = self.folder / f"{operator}.json"
        printed("sign", self.app, "--key", self.folder / operator, "--out", bundle)
        printed("enter", bundle, "--database", self.loopback.folder / "superlink.db")

    def run(self, app: Path, name: str) -> Path:
        config = "configs/quickstart.yaml"
        settings = {"config": config, "overrides": OVERRIDES, "run-dir": str(self.folder / name)}
        self.loopback.run(app, settings, 150)
        return self.folder / name / "summary.json"


@pytest.mark.timeout(400)
def test_a_device_runs_what_its_operator_signed_and_nothing_else(tmp_path: Path) -> None:
    mark, trusted = tmp_path / "mark", tmp_path / "trusted.yaml"
    trusted.write_text(printed("key", tmp_path / "operator"))
    printed("key", tmp_path / "stranger")
    app = bundle_with_code(tmp_path / "app", mark)
    states = {"states": str(tmp_path / "states")}
    node = Node("device", states, options=("--trusted-entities", str(trusted)))
    with Loopback(tmp_path / "federation", [node]) as loopback:
        federation = Federation(tmp_path, loopback, mark, app)

        assert not federation.run(app, "unsigned").exists()
        assert "The FAB could not be verified" in loopback.log("device")
        assert not mark.exists()

        federation.enter("stranger")
        assert not federation.run(NAME, "strange").exists()
        assert "the provided trusted entities could not verify" in loopback.log("device")
        assert not mark.exists()

        federation.enter("operator")
        assert federation.run(NAME, "signed").exists(), loopback.log("device")
        assert mark.exists()


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    printed("key", tmp_path / "operator")
    app = bundle_with_code(tmp_path / "app", tmp_path / "mark")
    printed("sign", app, "--key", tmp_path / "operator", "--out", tmp_path / "signed.json")
    return tmp_path / "signed.json"


def test_a_key_is_for_its_owner_alone_and_never_overwritten(tmp_path: Path) -> None:
    key = tmp_path / "operator"
    line = printed("key", key)
    assert line.startswith("fpk_")
    assert key.stat().st_mode & 0o777 == 0o600
    secret = key.read_bytes()
    assert "File exists" in sign_bundle("key", key).stderr
    assert key.read_bytes() == secret


def test_other_tables_than_flowers_are_left_alone(signed: Path, tmp_path: Path) -> None:
    database = tmp_path / "superlink.db"
    database.touch()
    result = sign_bundle("enter", signed, "--database", database)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        f"{database}: the table fab is not that of flwr 1.41; nothing is done"
    ]
    assert database.read_bytes() == b""


def test_a_database_that_is_not_there_is_not_made(signed: Path, tmp_path: Path) -> None:
    database = tmp_path / "superlink.db"
    result = sign_bundle("enter", signed, "--database", database)
    assert "started with --database" in result.stderr
    assert not database.exists()
