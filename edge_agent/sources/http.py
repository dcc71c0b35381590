"""Readings that sensors send by HTTP POST."""

from __future__ import annotations

import hmac
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta

from edge_agent.arrays import F32
from edge_agent.bearer import bearer_token
from edge_agent.contract.errors import ConfigError, SourceError
from edge_agent.settings import Kind
from edge_agent.sources.inbox import Inbox

if TYPE_CHECKING:
    from edge_agent.sources.web import Listener

_WAIT_S: Final = 1.0


class HttpConfig(Kind, frozen=True, kw_only=True, tag="http"):
    """Listen for readings by POST: an array, an object with a key per channel, or several of them.

    The answer is 204 when all readings of a body were taken, else none was: 400 with the reason,
    401 without the token, 413 for a body that is too large, 503 when too many wait.

    Attributes:
        port: to listen at; 0 takes a free one.
        host: address to listen at; ``0.0.0.0`` is every network, so give a token then.
        token_file: file whose text senders give as ``Authorization: Bearer TEXT``.
        token_env: environment variable that holds the token.
        body_bytes_max: largest body.
        queue_n_max: readings that may wait.
        sensor_key: key of an object that names its sensor, as of ``jsonl``.
        time_key: as of ``jsonl``.
    """

    port: Annotated[int, Meta(ge=0, le=65_535)]
    host: str = "127.0.0.1"
    token_file: str | None = None
    token_env: str | None = None
    body_bytes_max: Annotated[int, Meta(ge=64, le=16 * 1024 * 1024)] = 256 * 1024
    queue_n_max: Annotated[int, Meta(ge=1)] = 10_000
    sensor_key: str | None = None
    time_key: str | None = None

    def __post_init__(self) -> None:
        if self.token_file and self.token_env:
            raise ValueError("give token_file or token_env, not both")


class HttpSource:
    """Takes bodies on the listener's threads and gives their readings to the pipeline's.

    Args:
        config: what the configuration file says.
        channels: names, in the order of a row.
        base: folder where a relative path of the token's file starts.

    Attributes:
        port: that it listens at, once it is open.
    """

    def __init__(self, config: HttpConfig, channels: Sequence[str], *, base: Path) -> None:
        self._config = config
        self._base = base
        self._inbox = Inbox(
            channels,
            sensor_key=config.sensor_key,
            time_key=config.time_key,
            n_max=config.queue_n_max,
        )
        self._came = threading.Condition()  # guards the inbox
        self._token: bytes | None = None
        self._listener: Listener | None = None
        self.port = config.port

    def open(self) -> None:
        """Begin to listen.

        Raises:
            SourceError: the token cannot be read, or the address is not free.
        """
        from edge_agent.sources.web import Listener  # noqa: PLC0415 - http.server is heavy

        self.close()
        self._token = self._read_token()
        try:
            self._listener = Listener(
                self._config.host,
                self._config.port,
                bytes_max=self._config.body_bytes_max,
                allowed=self._allowed,
                take=self._take,
            )
        except OSError as exc:
            raise SourceError(
                f"{self._config.host}:{self._config.port}: {exc.strerror}: check host, and that "
                "nothing else listens at this port"
            ) from exc
        self.port = self._listener.port

    def read(self, out: F32) -> int:
        """Give what has come, else wait for the next body, at most 1 s."""
        with self._came:
            if not self._inbox:
                self._came.wait(_WAIT_S)
            return self._inbox.give(out)

    def close(self) -> None:
        """Stop listening, and forget readings that wait."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        with self._came:
            self._inbox.clear()

    @property
    def faults(self) -> dict[str, int]:
        """``torn`` and ``malformed`` readings; ``overrun``, those that were answered with 503."""
        return self._inbox.faults

    @property
    def sensors(self) -> Sequence[str]:
        """Which sensor each row of the last ``read`` came from; empty without a ``sensor_key``."""
        return self._inbox.sensors

    @property
    def stamps(self) -> Sequence[float]:
        """When each row of the last ``read`` was taken; empty without a ``time_key``."""
        return self._inbox.stamps

    def _take(self, body: bytes) -> tuple[int, str]:
        """Take a whole body or nothing of it; the status and the reason. A listener's thread."""
        with self._came:
            before = self._inbox.faults
            found = self._inbox.decode(body)
            after = self._inbox.faults
            if after["torn"] > before["torn"]:
                return 400, "not JSON"
            if after["malformed"] > before["malformed"] or not found.rows:
                return 400, self._expected()
            if len(found.rows) > self._config.queue_n_max:
                return 413, f"at most {self._config.queue_n_max} readings"
            if len(self._inbox) + len(found.rows) > self._config.queue_n_max:
                self._inbox.overran(len(found.rows))
                return 503, "too many readings wait: try again later"
            self._inbox.add(found)
            self._came.notify()
        return 204, ""

    def _expected(self) -> str:
        keys = [key for key in (self._config.sensor_key, self._config.time_key) if key]
        return (
            "not a reading of these channels: send an array with a number or null for each, or an "
            "object with their names" + "".join(f", and with {key!r}" for key in keys)
        )

    def _allowed(self, authorization: str) -> bool:
        if self._token is None:
            return True
        given = authorization.encode(errors="replace")
        return hmac.compare_digest(given, b"Bearer " + self._token)

    def _read_token(self) -> bytes | None:
        file = self._base / self._config.token_file if self._config.token_file else None
        try:
            token = bearer_token(file, self._config.token_env)
        except ConfigError as exc:
            raise SourceError(str(exc)) from exc
        return token.encode() if token is not None else None
