"""Sign the bundle of an app, so that devices with ``--trusted-entities`` run it and no other.

    python deploy/sign_bundle.py key operator.key                 once; prints a line for the devices
    python deploy/sign_bundle.py sign . --key operator.key --out bundle.json
    python deploy/sign_bundle.py enter bundle.json --database /var/lib/fedmeta/superlink.db

``key`` and ``sign`` belong on the operator's own machine: who breaks into the SuperLink then finds no
key to sign with. ``enter`` runs where the SuperLink does, as its user, and may do so while it is up.
Start the signed bundle by its name, ``flwr run @fedmeta/fedmeta CONNECTION``: ``flwr run .`` uploads a
bundle without a signature, which devices refuse and which takes the place of the signed one, until
``enter`` is given again. A signature does not expire; it ends with the line in the devices' file. That
file must keep a line: one that holds none is taken for no file at all, and devices run anything.

Flower signs apps by its Hub alone. This writes what the Hub would have, into tables that are Flower's
own: tried with flwr 1.41.0. With other tables it stops and changes nothing.
"""

import argparse
import base64
import hashlib
import json
import os
import sqlite3
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)
from flwr.cli.build import build_fab_from_disk
from flwr.common.config import get_fab_config, get_metadata_from_config
from flwr.common.constant import NOOP_FLWR_AID
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType

FAB = {"fab_hash", "content", "verifications"}
APP = {
    *("federation_id", "app_id", "fab_hash", "app_type", "is_hub_app", "display_name"),
    *("description", "color", "added_by", "added_at", "updated_at"),
}
NEVER = "9999-12-31 00:00:00+00:00"
"""When the app was last asked for at Flower's Hub: were it longer ago, the SuperLink would ask again."""


def make_key(path: Path) -> None:
    """A key pair for an operator: the secret part into a file, the public part onto the screen."""
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "wb") as output:
        output.write(secret)
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    print(f"{name_of(key)}: '{public}'")


def name_of(key: Ed25519PrivateKey) -> str:
    """What devices call the key."""
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return f"fpk_{hashlib.sha256(public).hexdigest()[:16]}"


def sign(app: Path, key_file: Path, out: Path) -> None:
    """Bundle the app as ``flwr run`` does, and write it with its signature."""
    key = load_ssh_private_key(key_file.read_bytes(), None)
    if not isinstance(key, Ed25519PrivateKey):
        sys.exit(f"{key_file}: is no Ed25519 key")
    content, now = build_fab_from_disk(app), int(time.time())
    signature = key.sign(now.to_bytes(8, "big") + hashlib.sha256(content).digest())
    text = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
    entry = json.dumps({"signature": text, "signed_at": now})
    bundle = {
        "content": base64.b64encode(content).decode(),
        "verifications": {name_of(key): entry, "valid_license": "Valid"},
    }
    out.write_text(json.dumps(bundle) + "\n")
    print(f"{out}: {app_id(content)}, sha256 {hashlib.sha256(content).hexdigest()}")


def enter(bundle: Path, database: Path) -> None:
    """Put a signed bundle where the SuperLink looks for apps from Flower's Hub."""
    found = json.loads(bundle.read_text())
    content, now = base64.b64decode(found["content"]), datetime.now(UTC).isoformat(sep=" ")
    digest, app = hashlib.sha256(content).hexdigest(), app_id(content)
    if not database.exists():
        sys.exit(f"{database}: is not there; the SuperLink makes it, started with --database")
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        for table, columns in (("fab", FAB), ("federation_app", APP)):
            rows = connection.execute(f"pragma table_info({table})")
            if {row[1] for row in rows} != columns:
                sys.exit(f"{database}: the table {table} is not that of flwr 1.41; nothing is done")
        connection.execute(
            "insert or replace into fab (fab_hash, content, verifications) values (?, ?, ?)",
            (digest, content, json.dumps(found["verifications"])),
        )
        connection.execute(
            "insert or replace into federation_app (federation_id, app_id, fab_hash, app_type,"
            " is_hub_app, added_by, added_at, updated_at) values (?, ?, ?, ?, 1, ?, ?, ?)",
            (NOOP_FEDERATION_ID, app, digest, TaskType.SERVER_APP, NOOP_FLWR_AID, now, NEVER),
        )
    print(f"start it with: flwr run {app} CONNECTION --stream")


def app_id(content: bytes) -> str:
    """The name by which ``flwr run`` starts the bundle."""
    return f"@{get_metadata_from_config(get_fab_config(content))[0]}"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("key", help="make an operator's key pair")
    command.add_argument("path", type=Path)
    command = commands.add_parser("sign", help="bundle an app and sign it")
    command.add_argument("app", type=Path)
    command.add_argument("--key", type=Path, required=True)
    command.add_argument("--out", type=Path, required=True)
    command = commands.add_parser("enter", help="give a signed bundle to the SuperLink")
    command.add_argument("bundle", type=Path)
    command.add_argument("--database", type=Path, required=True)
    given = parser.parse_args()
    try:
        match given.command:
            case "key":
                make_key(given.path)
            case "sign":
                sign(given.app, given.key, given.out)
            case "enter":
                enter(given.bundle, given.database)
    except (OSError, ValueError, LookupError, sqlite3.Error, click.ClickException) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
