"""Who was given which credential, and the lists of them that brokers read.

::

    given.json         what this module knows
    mosquitto.passwd   for mosquitto's password_file: hashes
    nats-users.conf    for nats-server, included by nats.conf: rights, and passwords in the clear
    ca.crt             for both: by whom certificates are signed
    revoked.crl        for mosquitto's crlfile
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from pathlib import Path
from typing import Final

import msgspec

from edge_agent.contract.bundle import write_bundle
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.topics import Topics
from edge_agent.fleet.access.roles import BROKER, rights_of

FOLDER: Final = "access"
"""In the folder of the signed repository."""

_ROUNDS: Final = 101  # as mosquitto_passwd: the password has 256 random bits, nobody guesses it
_SALT_BYTES: Final = 12
_PASSWORD_BYTES: Final = 32


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """The credential of one user.

    Attributes:
        prefix: of the topics that it may use.
        reads: further topic filters, of the sources of its pipelines.
        writes: further topics, of the actions of its pipelines.
        serial: of its certificate; empty without one.
        hashed: its password as mosquitto keeps it; empty without one.
        clear: its password for nats-server, which knows no hash that Python's library can make.
    """

    prefix: str = "edge"
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    serial: str = ""
    hashed: str = ""
    clear: str = ""


class Book(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was given and not taken back.

    Attributes:
        given: by user name.
        revoked: serial numbers of certificates that hold no more.
    """

    given: dict[str, Given] = {}
    revoked: tuple[str, ...] = ()

    def with_user(self, user: str, given: Given | None) -> Book:
        """With another credential of a user, or None: what it had before holds no more."""
        before = self.given.get(user)
        others = {name: other for name, other in self.given.items() if name != user}
        return Book(
            given=others | ({user: given} if given else {}),
            revoked=(*self.revoked, *([before.serial] if before and before.serial else [])),
        )


def read_book(folder: Path) -> Book:
    """What is in the folder; empty when there is nothing yet.

    Raises:
        ConfigError: it cannot be read.
    """
    path = folder / "given.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Book)
    except FileNotFoundError:
        return Book()
    except (OSError, msgspec.DecodeError) as exc:
        raise ConfigError(f"{path} cannot be read: {exc}: restore a backup") from exc


def write_book(folder: Path, book: Book, revocations: bytes | None) -> None:
    """Write the book and the brokers' lists, each whole or not at all.

    Args:
        folder: made when absent.
        book: what is true from now on.
        revocations: the list for ``crlfile``; None leaves it as it is.

    Raises:
        ConfigError, BundleError: the folder cannot be made, or a file in it not be written.
    """
    files = {
        "given.json": msgspec.json.format(msgspec.json.encode(book), indent=1),
        "mosquitto.passwd": _password_file(book).encode(),
        "nats-users.conf": nats_users(book).encode(),
    }
    if revocations is not None:
        files["revoked.crl"] = revocations
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"{folder}: {exc.strerror}: it must be possible to make it") from exc
    for name, data in files.items():
        write_bundle(folder / name, data, private=True)


def make_password() -> str:
    """A password for a machine."""
    return secrets.token_urlsafe(_PASSWORD_BYTES)


def hashed(password: str) -> str:
    """A password as mosquitto keeps it behind ``USER:``, by PBKDF2 with SHA-512."""
    salt = secrets.token_bytes(_SALT_BYTES)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ROUNDS, 64)
    parts = (base64.b64encode(part).decode() for part in (salt, digest))
    return f"$7${_ROUNDS}${'$'.join(parts)}"


def nats_users(book: Book) -> str:
    """The users of a nats-server, with their rights by subject, for its ``authorization``."""
    users = [_nats_user(user, given) for user, given in sorted(book.given.items())]
    return "users: [\n" + "".join(filter(None, users)) + "]\n"


def _password_file(book: Book) -> str:
    lines = (f"{user}:{given.hashed}\n" for user, given in sorted(book.given.items()))
    return "".join(line for line in lines if not line.endswith(":\n"))


def _nats_user(user: str, given: Given) -> str:
    """One user, who comes over MQTT only: other ways into a nats-server have other rules."""
    if user == BROKER:
        return ""
    if given.serial:
        who = f"user: {json.dumps(f'CN={user}')}"
    elif given.clear:
        who = f"user: {json.dumps(user)}, password: {json.dumps(given.clear)}"
    else:
        return ""
    rights = rights_of(user, Topics(given.prefix))
    return (
        f'  {{\n    {who}\n    allowed_connection_types: ["MQTT"]\n    permissions: {{\n'
        f"      publish: {_subjects((*rights.write, *given.writes))}\n"
        f"      subscribe: {_subjects((*rights.read, *given.reads))}\n    }}\n  }}\n"
    )


def _subjects(topics: tuple[str, ...]) -> str:
    """Topic filters as nats-server names them. Without any, nothing is allowed."""
    if not topics:
        return '{ deny: ">" }'
    above = (topic.removesuffix("/#") for topic in topics if topic.endswith("/#"))
    return json.dumps([_subject(topic) for topic in (*topics, *above)])  # a/# is a, too


def _subject(topic: str) -> str:
    levels = (level.replace(".", "//") or "/" for level in topic.split("/"))
    return ".".join(levels).replace("+", "*").replace("#", ">")
