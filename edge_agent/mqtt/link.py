"""The link: one thread that connects again and again, and serves the ports in between."""

from __future__ import annotations

import logging
import threading
from typing import Final

from edge_agent.address import parse_url, read_password
from edge_agent.config import BrokerConfig
from edge_agent.mqtt.connection import Connection, Profile
from edge_agent.mqtt.mailbox import Mailbox, MqttPort
from edge_agent.mqtt.reasons import Ended
from edge_agent.mqtt.reconnect import Outcome, Reconnect
from edge_agent.mqtt.tls import tls_context

log = logging.getLogger(__name__)

STOP_S: Final = 2.0


class MqttLink:
    """A :class:`~edge_agent.link.Link` to a broker.

    Args:
        config: the broker. Its password and TLS files are read again at every connection.
        client_id: must differ from that of every other client of the broker.
        will: topic and payload that the broker publishes, retained, when the connection is lost.
        in_flight_n_max: publishes on the wire that the broker has not acknowledged; a lower limit
            that the broker states (MQTT 5 receive maximum) is kept too.

    Raises:
        ConfigError: the URL, the password or the TLS files cannot be used.
    """

    def __init__(
        self,
        config: BrokerConfig,
        *,
        client_id: str,
        will: tuple[str, bytes] | None = None,
        in_flight_n_max: int = 10,
    ) -> None:
        address = parse_url(config.url)
        read_password(config)
        if address.tls:
            tls_context(config)
        self._profile = Profile(config, address, client_id, will, in_flight_n_max)
        self._mailbox = Mailbox()
        self._said = ""
        self._thread = threading.Thread(target=self._run, name=f"mqtt {client_id}", daemon=True)

    @property
    def connected(self) -> bool:
        """Whether the link is up at this moment. Any thread."""
        return self._mailbox.connected

    def port(self, name: str) -> MqttPort:
        """See :meth:`edge_agent.link.Link.port`."""
        port = MqttPort(self._mailbox, name)
        self._mailbox.ports.append(port)
        return port

    def start(self) -> None:
        """See :meth:`edge_agent.link.Link.start`."""
        self._thread.start()

    def stop(self, last: tuple[str, bytes] | None = None) -> None:
        """See :meth:`edge_agent.link.Link.stop`. May be called twice, and without ``start``."""
        self._mailbox.stop(last)
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def _run(self) -> None:
        """The link's thread: one connection after another until ``stop``."""
        mailbox = self._mailbox
        reconnect = Reconnect(self._profile.config.protocol)
        while not mailbox.stopping.is_set():
            connection = Connection(self._profile, reconnect.protocol, mailbox)
            ended = self._serve(connection)
            pause_s = reconnect.pause_s(ended.outcome, connection.held_s())
            if pause_s is not None:  # else it tries the other version: no news yet
                self._say(ended)
                mailbox.go_down(ended.reason)
                mailbox.stopping.wait(pause_s)
        mailbox.close()

    def _say(self, ended: Ended) -> None:
        """Log why the link is down; of attempts that fail alike only the first stands out."""
        if self._mailbox.stopping.is_set():
            return
        again = ended.reason == self._said and ended.outcome is not Outcome.LOST
        log.log(logging.DEBUG if again else logging.WARNING, "not connected: %s", ended.reason)
        self._said = ended.reason

    @staticmethod
    def _serve(connection: Connection) -> Ended:
        """Let one connection live. Whatever goes wrong in it, the way out is the next one."""
        try:
            return connection.serve()
        except Exception as exc:
            log.exception("the connection ended by an unexpected error")
            return Ended(Outcome.LOST, f"unexpected {type(exc).__name__} in the connection")
