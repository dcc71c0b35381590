"""Signing keys in files: Ed25519, PEM, the offline ones under a passphrase."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner

from edge_agent.contract.errors import ConfigError

SUFFIX: Final = ".key"
_PRIVATE: Final = 0o600


def make_key(path: Path, passphrase: bytes | None) -> CryptoSigner:
    """Make a key and write it, readable by its owner only.

    Args:
        path: must not exist yet.
        passphrase: None writes it in the clear.

    Raises:
        ConfigError: the file exists, or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    secret = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise ConfigError(f"{path} exists: a key is never overwritten") from None
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}: give a folder that can be written") from exc
    return CryptoSigner(key)


def read_key(path: Path, passphrase: bytes | None) -> CryptoSigner:
    """Read a key.

    Raises:
        ConfigError: it is not there, not a key, or the passphrase is wrong or missing.
    """
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}: bring the key and name its folder") from exc
    encrypted = b"ENCRYPTED" in data
    if encrypted and not passphrase:
        raise ConfigError(f"{path} has a passphrase: give it by --passphrase-file or when asked")
    try:
        key = load_pem_private_key(data, passphrase if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        what = "the passphrase is wrong" if encrypted else "not a private key in PEM form"
        raise ConfigError(f"{path}: {what}") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path}: not an Ed25519 key")
    return CryptoSigner(key)


def read_keys(folder: Path, role: str, passphrase: bytes | None) -> list[CryptoSigner]:
    """Every key of a role in a folder: ``ROLE-N.key``.

    Raises:
        ConfigError: there is none, or one cannot be read.
    """
    paths = sorted(folder.glob(f"{role}-*{SUFFIX}"))
    if not paths:
        raise ConfigError(f"{folder} has no {role}-N{SUFFIX}: name the folder with this key")
    return [read_key(path, passphrase) for path in paths]


def free_path(folder: Path, role: str) -> Path:
    """Where the next key of a role goes."""
    number = 1
    while (path := folder / f"{role}-{number}{SUFFIX}").exists():
        number += 1
    return path
