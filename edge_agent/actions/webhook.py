"""Fired decisions as HTTP requests."""

from __future__ import annotations

import http.client
import threading
from pathlib import Path
from typing import Annotated, ClassVar, Final
from urllib.parse import urlsplit

from msgspec import Meta

from edge_agent.contract.errors import ActionError
from edge_agent.contract.messages import Decision, encode
from edge_agent.settings import Kind

_PAUSE_S: Final = 0.5  # before the second try, twice that before the third


class WebhookConfig(Kind, frozen=True, kw_only=True, tag="webhook"):
    """POST the decision as JSON. Certificates are checked; redirections are not followed.

    Attributes:
        url: ``https://HOST/PATH``, without a password in it.
        token_file: absolute path of a file whose text is sent as a bearer token, read each time.
        timeout_s: of each try, for each wait on the network.
        tries: at most, when there is no connection or the answer is 5xx.
    """

    url: Annotated[str, Meta(pattern=r"^https?://[^/@\s]+(/\S*)?$")]
    token_file: Annotated[str, Meta(pattern="^/")] | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 5.0
    tries: Annotated[int, Meta(ge=1, le=5)] = 3


class WebhookAction:
    """One request a fired decision. The action worker's thread; close from any."""

    blocking: ClassVar[bool] = True

    def __init__(self, config: WebhookConfig) -> None:
        self._config = config
        self._closed = threading.Event()

    def fire(self, decision: Decision) -> None:
        """Send it, again when that may help.

        Raises:
            ActionError: it was not taken with 2xx, or the token cannot be read.
        """
        where = urlsplit(self._config.url).netloc  # a path may be a secret
        body, headers = encode(decision), self._headers()
        fault = "closed"
        for number in range(self._config.tries):
            if self._closed.wait(_PAUSE_S * number):
                break
            try:
                status = self._post(body, headers)
            except (OSError, http.client.HTTPException) as exc:
                fault = f"{type(exc).__name__}: {exc}"
                continue
            if 200 <= status < 300:
                return
            fault = f"answered {status}"
            if status < 500:
                break
        raise ActionError(f"webhook at {where}: {fault}: check url, token_file and the network")

    def close(self) -> None:
        """Try no more; a try that runs ends within its time limit."""
        self._closed.set()

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        if self._config.token_file:
            try:
                token = Path(self._config.token_file).read_text().strip()
            except (OSError, UnicodeDecodeError) as exc:
                raise ActionError(f"{self._config.token_file}: the token cannot be read") from exc
            if not (token.isascii() and token.isprintable()):
                raise ActionError(f"{self._config.token_file}: a token is one line of ASCII")
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _post(self, body: bytes, headers: dict[str, str]) -> int:
        url = urlsplit(self._config.url)
        secure = url.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(url.netloc, timeout=self._config.timeout_s)
        try:
            target = (url.path or "/") + (f"?{url.query}" if url.query else "")
            connection.request("POST", target, body, headers)
            return connection.getresponse().status
        finally:
            connection.close()
