"""Why there is no connection, in words that say what to look at."""

from __future__ import annotations

import socket
import ssl
from typing import Final, NamedTuple

from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.address import Address
from edge_agent.mqtt.reconnect import Outcome

_UNSUPPORTED: Final = 132  # MQTT 5 reason code; paho gives it for return code 1 of 3.1.1 too
_HINTS: Final = {
    134: ": check username and password",
    135: ": check username, password and rights",
}


class Ended(NamedTuple):
    """How a connection ended, or why there was none."""

    outcome: Outcome
    reason: str


def refusal(code: ReasonCode, address: Address) -> Ended:
    """What a CONNACK that refuses means."""
    name = code.getName()
    if code.value == _UNSUPPORTED:
        return Ended(Outcome.UNSUPPORTED, f"{address}: {name}: use another `protocol`")
    hint = _HINTS.get(code.value, "")
    return Ended(Outcome.REFUSED, f"{address} refuses: {name}{hint}")


def describe(exc: Exception, address: Address) -> str:
    """Why there is no connection, and what to look at."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"TLS: {address}: certificate not accepted: {exc.verify_message}: check ca_file"
    if isinstance(exc, ssl.SSLError) or (address.tls and isinstance(exc, ConnectionResetError)):
        what = getattr(exc, "reason", None) or exc.strerror or exc
        return f"TLS: {address}: {what}: does it speak TLS on this port?"
    if isinstance(exc, socket.gaierror):
        return f"DNS: {address.host} cannot be resolved: {exc.strerror}"
    if isinstance(exc, TimeoutError):
        return f"{address} did not answer in time"
    if isinstance(exc, ConnectionRefusedError):
        return f"{address} refuses connections: does the broker run?"
    return f"{address}: {getattr(exc, 'strerror', None) or exc}"
