"""Fired decisions as HTTP requests."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated, ClassVar, Final
from urllib.parse import urlsplit

from msgspec import Meta

from edge_agent.bearer import bearer_token
from edge_agent.contract.errors import ActionError, ConfigError
from edge_agent.contract.messages import Decision, encode
from edge_agent.settings import Kind

_PAUSE_S: Final = 0.5  # before the second try, twice that before the third


class WebhookConfig(Kind, frozen=True, kw_only=True, tag="webhook"):
    """POST the decision as JSON. Certificates are checked; redirections are not followed.

    Attributes:
        url: ``https://HOST/PATH``, without a password in it.
        token_file: file whose text is sent as a bearer token; read each time.
        token_env: environment variable that holds the token.
        timeout_s: of each try, for each wait on the network.
        tries: at most, when there is no connection or the answer is 5xx.
    """

    url: Annotated[str, Meta(pattern=r"^https?://[^/@\s]+(/\S*)?$")]
    token_file: str | None = None
    token_env: str | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 5.0
    tries: Annotated[int, Meta(ge=1, le=5)] = 3

    def __post_init__(self) -> None:
        if self.token_file and self.token_env:
            raise ValueError("give token_file or token_env, not both")


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
        from http.client import HTTPException  # noqa: PLC0415 - not for the agent's start

        where = urlsplit(self._config.url).netloc  # a path may be a secret
        body, headers = encode(decision), self._headers()
        fault = "closed"
        for number in range(self._config.tries):
            if self._closed.wait(_PAUSE_S * number):
                break
            try:
                status = self._post(body, headers)
            except (OSError, HTTPException) as exc:
                fault = f"{type(exc).__name__}: {exc}"
                continue
            if 200 <= status < 300:
                return
            fault = f"answered {status}"
            if status < 500:
                break
        raise ActionError(f"webhook at {where}: {fault}: check url, token and the network")

    def close(self) -> None:
        """Try no more; a try that runs ends within its time limit."""
        self._closed.set()

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        file = Path(self._config.token_file) if self._config.token_file else None
        try:
            token = bearer_token(file, self._config.token_env)
        except ConfigError as exc:
            raise ActionError(str(exc)) from exc
        return headers if token is None else {**headers, "Authorization": f"Bearer {token}"}

    def _post(self, body: bytes, headers: dict[str, str]) -> int:
        from http.client import HTTPConnection, HTTPSConnection  # noqa: PLC0415 - see above

        url = urlsplit(self._config.url)
        kind = HTTPSConnection if url.scheme == "https" else HTTPConnection
        connection = kind(url.netloc, timeout=self._config.timeout_s)
        try:
            target = (url.path or "/") + (f"?{url.query}" if url.query else "")
            connection.request("POST", target, body, headers)
            return connection.getresponse().status
        finally:
            connection.close()
