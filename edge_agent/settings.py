"""The base of everything that a configuration file may say: unknown fields are errors."""

from __future__ import annotations

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Plain settings."""


class Kind(Settings, frozen=True, kw_only=True, tag_field="type"):
    """Settings of one kind of source or action, chosen by the field ``type``."""
