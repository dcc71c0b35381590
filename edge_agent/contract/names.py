"""Names that become parts of topics and file names, and the one rule for each."""

from __future__ import annotations

import re

# No dot: NATS maps '/' to '.' and back, and a dot inside a level does not survive every broker.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_PREFIX = re.compile(r"[A-Za-z0-9_-]{1,32}(/[A-Za-z0-9_-]{1,32}){0,2}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def name_fault(what: str, text: str) -> str | None:
    """Say what is wrong with a device, group, model or pipeline name; None when it is right."""
    if _NAME.fullmatch(text):
        return None
    return (
        f"{what} {text!r} must be 1 to 64 letters, digits, '-' or '_', "
        "starting with a letter or digit"
    )


def version_fault(text: str) -> str | None:
    """Say what is wrong with a bundle version such as '1.4.0'; None when it is right."""
    if _VERSION.fullmatch(text):
        return None
    return f"version {text!r} must be 1 to 64 letters, digits or '._+-', such as 1.4.0"


def prefix_fault(text: str) -> str | None:
    """Say what is wrong with a topic prefix; None when it is right."""
    if _PREFIX.fullmatch(text):
        return None
    return f"topic prefix {text!r} must be 1 to 3 levels of letters, digits, '-' or '_'"


def is_sha256(text: str) -> bool:
    """Whether ``text`` is a lower-case hexadecimal SHA-256, safe as a file name and topic level."""
    return _SHA256.fullmatch(text) is not None
