"""What passes between the ports, on any thread, and the link's own thread."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Final, NamedTuple

from edge_agent.link import Down, Event, Published, Refused, Up

UNCONFIRMED_N_MAX: Final = 1024  # publishes of all ports together
READ_AHEAD_N: Final = 1000  # unread events at which a subscribed port counts as behind


class Publish(NamedTuple):
    """A port wants to publish."""

    port: MqttPort
    token: int
    topic: str
    payload: bytes
    retain: bool


class Subscribe(NamedTuple):
    """A port wants filters."""

    port: MqttPort
    topics: tuple[str, ...]


class Unsubscribe(NamedTuple):
    """A port gives filters up."""

    port: MqttPort
    topics: tuple[str, ...]


Command = Publish | Subscribe | Unsubscribe


class MqttPort:
    """A :class:`~edge_agent.link.Port`.

    Attributes:
        subscribed: whether it has subscribed on this connection, so that somebody must be reading
            its events. Only for the link's thread.
    """

    def __init__(self, mailbox: Mailbox, name: str) -> None:
        self.events: SimpleQueue[Event] = SimpleQueue()
        self.name = name
        self.subscribed = False
        self._mailbox = mailbox

    @property
    def connected(self) -> bool:
        """Whether the link is up at this moment."""
        return self._mailbox.connected

    def publish(self, token: int, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """See :meth:`edge_agent.link.Port.publish`."""
        self._mailbox.ask(Publish(self, token, topic, payload, retain))

    def subscribe(self, topics: Sequence[str]) -> None:
        """See :meth:`edge_agent.link.Port.subscribe`."""
        self._mailbox.ask(Subscribe(self, tuple(topics)))

    def unsubscribe(self, topics: Sequence[str]) -> None:
        """See :meth:`edge_agent.link.Port.unsubscribe`."""
        self._mailbox.ask(Unsubscribe(self, tuple(topics)))


class Mailbox:
    """Commands one way, events the other; it takes commands only while the link is up.

    Attributes:
        ports: everyone who gets events.
        connected: whether the link is up.
        stopping: set when the link is to disconnect for good.
        last: topic and payload to publish, retained, before that.
    """

    def __init__(self) -> None:
        self.ports: list[MqttPort] = []
        self.connected = False
        self.stopping = threading.Event()
        self.last: tuple[str, bytes] | None = None
        self._lock = threading.Lock()
        self._commands: deque[Command] = deque()
        self._unconfirmed_n = 0
        self._reader, self._writer = socket.socketpair()
        self._reader.settimeout(0)
        self._writer.settimeout(0)

    # Any thread.

    def ask(self, command: Command) -> None:
        """Leave a command for the link's thread; while the link is down it is dropped."""
        with self._lock:
            if not self.connected:
                return
            if isinstance(command, Publish):
                if self._unconfirmed_n >= UNCONFIRMED_N_MAX:
                    reason = f"{UNCONFIRMED_N_MAX} publishes wait already: keep to an in-flight cap"
                    command.port.events.put(Refused(command.token, reason))
                    return
                self._unconfirmed_n += 1
            self._commands.append(command)
            if len(self._commands) == 1:
                self._wake()

    def stop(self, last: tuple[str, bytes] | None) -> None:
        """Ask the link's thread to publish ``last`` and to disconnect for good."""
        with self._lock:
            self.last = last
            self.stopping.set()
            self._wake()

    # The link's thread.

    def fileno(self) -> int:
        """Readable since there was something new: commands, or ``stopping``."""
        return self._reader.fileno()

    def drain(self) -> None:
        """Make :meth:`fileno` wait for something new; look at everything after this."""
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(4096)

    def take(self) -> list[Command]:
        """Every command since the last call."""
        with self._lock:
            commands = list(self._commands)
            self._commands.clear()
        return commands

    def finish(self, publish: Publish, event: Published | Refused) -> None:
        """Tell a port what became of its publish."""
        with self._lock:
            self._unconfirmed_n -= 1
        publish.port.events.put(event)

    def go_up(self, protocol: int) -> None:
        """Take commands from now on, and tell every port."""
        with self._lock:
            self.connected = True
        self._tell(Up(protocol))

    def go_down(self, reason: str) -> None:
        """Drop every command, take none from now on, and tell every port."""
        with self._lock:
            self.connected = False
            self._commands.clear()
            self._unconfirmed_n = 0
        for port in self.ports:
            port.subscribed = False
        self._tell(Down(reason))

    def behind(self) -> bool:
        """Whether an owner that must be reading has much unread; then nothing more is fetched."""
        return any(port.subscribed and port.events.qsize() >= READ_AHEAD_N for port in self.ports)

    def close(self) -> None:
        """Give the sockets back; only after the last ``go_down``."""
        with self._lock:
            self._reader.close()
            self._writer.close()

    def _tell(self, event: Up | Down) -> None:
        for port in self.ports:
            port.events.put(event)

    def _wake(self) -> None:
        # Full: it is readable already. Closed: the thread has ended and needs no waking.
        with contextlib.suppress(OSError):
            self._writer.send(b"\0")
