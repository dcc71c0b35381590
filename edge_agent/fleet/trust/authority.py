"""The fleet's own certificate authority: who may connect to a broker by a TLS certificate.

It has nothing to do with who may say what devices run; the two share only the offline folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_agent.contract.errors import ConfigError

CA_KEY: Final = "ca.key"
"""In the folder of the offline keys."""

_PRIVATE: Final = 0o600
_CA_DAYS: Final = 20 * 365
_DAYS: Final = 10 * 365  # a device in the field is not visited for a certificate; revoking ends it
_EARLIER: Final = timedelta(days=1)  # clocks differ


class Credential(NamedTuple):
    """A certificate and its key, in PEM form, and the certificate's serial number."""

    certificate: bytes
    key: bytes
    serial: int


class Authority:
    """Signs certificates. :meth:`open` makes it at first use.

    Args:
        certificate: its own.
        key: of that.
    """

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate, self._key = certificate, key

    @classmethod
    def open(cls, certificate: Path, keys: Path, passphrase: bytes | None) -> Authority:
        """Read the authority; make one when there is neither certificate nor key.

        Args:
            certificate: its file.
            keys: folder of the offline keys.
            passphrase: of its key; None for one in the clear.

        Raises:
            ConfigError: one of the two is missing, damaged, or the passphrase is wrong.
        """
        path = keys / CA_KEY
        if not certificate.exists() and not path.exists():
            _require_passphrase(keys, passphrase)
            _create(certificate, path, passphrase)
        try:
            made = x509.load_pem_x509_certificate(certificate.read_bytes())
            pem = path.read_bytes()
            key = load_pem_private_key(pem, passphrase if b"ENCRYPTED" in pem else None)
        except OSError as exc:
            raise ConfigError(
                f"{exc.filename}: {exc.strerror}: bring the folder of the offline keys by --keys"
            ) from exc
        except (ValueError, TypeError) as exc:  # damaged, or of a wrong or missing passphrase
            raise ConfigError(f"{path}: it cannot be read, or the passphrase is wrong") from exc
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != made.public_key():
            raise ConfigError(f"{path} is not the key of {certificate}: bring the one that is")
        return cls(made, key)

    def issue(self, name: str, servers: Sequence[str] = ()) -> Credential:
        """A new key with a certificate that says whose it is.

        Args:
            name: the common name, by which the broker knows the client.
            servers: host names and addresses, for a broker's own certificate; none for a client's.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.SERVER_AUTH if servers else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            _builder(name, key, self._certificate.subject, self._key, _DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        if servers:
            names = x509.SubjectAlternativeName([_general_name(server) for server in servers])
            builder = builder.add_extension(names, critical=False)
        made = builder.sign(self._key, hashes.SHA256())
        return Credential(_pem(made), _key_pem(key, None), made.serial_number)

    def revocations(self, serials: Iterable[int]) -> bytes:
        """A list of certificates that hold no more, in PEM form. It holds as long as the authority.

        Brokers let nobody in by a list that has expired, and nobody is there to renew this one.
        """
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(now - _EARLIER)
            .next_update(self._certificate.not_valid_after_utc)
        )
        for serial in serials:
            revoked = x509.RevokedCertificateBuilder(serial, now - _EARLIER)
            builder = builder.add_revoked_certificate(revoked.build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _require_passphrase(keys: Path, passphrase: bytes | None) -> None:
    """The authority's key is kept no worse than the keys beside it."""
    if passphrase is None and any(b"ENCRYPTED" in key.read_bytes() for key in keys.glob("*.key")):
        raise ConfigError(
            "the offline keys have a passphrase: give it by --passphrase-file or when asked"
        )


def _create(certificate: Path, path: Path, passphrase: bytes | None) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("edge-fleet authority")
    made = (
        _builder("edge-fleet authority", key, name, key, _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        certificate.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
        with os.fdopen(handle, "wb") as file:
            file.write(_key_pem(key, passphrase))
            file.flush()
            os.fsync(file.fileno())
        certificate.write_bytes(_pem(made))
    except OSError as exc:
        raise ConfigError(f"{exc.filename}: {exc.strerror}: it must be possible to write") from exc


def _builder(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    days: int,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    above = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(above, critical=False)
    )


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(server: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(server))
    except ValueError:
        return x509.DNSName(server)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None) -> bytes:
    secret = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret)
