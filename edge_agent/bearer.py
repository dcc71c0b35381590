"""The token of an HTTP request, from where it is kept."""

from __future__ import annotations

import os
from pathlib import Path

from edge_agent.contract.errors import ConfigError


def bearer_token(file: Path | None, env: str | None) -> str | None:
    """The token of a file or of an environment variable; None when neither is given.

    Raises:
        ConfigError: it is not there or is no token; it is never part of the message.
    """
    if file is not None:
        where = str(file)
        try:
            token = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{where}: the token cannot be read") from exc
    elif env is not None:
        where = f"the variable {env}"
        if env not in os.environ:
            raise ConfigError(f"{where} is not set: it is to hold the token")
        token = os.environ[env].strip()
    else:
        return None
    if not (token and token.isascii() and token.isprintable()):
        raise ConfigError(f"{where}: a token is one line of ASCII")
    return token
