"""The rules of delivery, without I/O: what may be sent now, and what of it may be forgotten.

* Every message is in one of three classes. *Live*: records appended while the link is up and
  never sent before; they go at once and before all else. *Message*: a message to a user's topic.
  *Backlog*: every other record, in order from the lowest one that is unsent.
* At most ``in_flight_n_max`` publishes wait for the broker; backlog leaves one place to live
  records and keeps to ``backlog_n_per_s``.
* A reconnect may be a broker's restart, and a PUBACK proves nothing about what it kept: on every
  ``Up`` everything that is not yet confirmed is unsent again.
* With confirmation by the broker a message is forgotten ``settle_s`` after its PUBACK; so are
  messages to users' topics always.
* With confirmation by a collector only its acknowledgement lets a record go. The backlog begins
  with one message; once that is answered, the window opens by what is confirmed, up to
  ``unconfirmed_n_max``. No more is sent while a message waits for longer than twice what the last
  answer took. So as long as nobody collects little is wasted, and whoever comes first, or in
  place of a collector that died, gets the lowest records first. What is overtaken (later records
  are confirmed) or unanswered for ``resend_s``, or for twice the time that the last answer took,
  goes back to the backlog; when nothing was confirmed in that time all goes back, and the wait
  doubles. It is never above 30 s.
* A PUBACK that does not come within 30 s counts as lost. A topic that the broker refuses is left
  alone for 30 s; its records wait, or, if it is the live topic, take the way of the backlog.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Final

import msgspec

from edge_agent.config import UplinkConfig
from edge_agent.spans import Spans
from edge_agent.uplink.rate import Rate

_S: Final = 1_000_000_000
_PUBACK_NS: Final = 30 * _S
_REFUSED_NS: Final = 30 * _S
_RESEND_NS_MAX: Final = 30 * _S
_STALL_NS: Final = _S // 10  # shortest silence after which no more backlog is sent
_WINDOW_N: Final = 200  # backlog records that the first message may hold


class Way(Enum):
    """The class of a message."""

    LIVE = "live"
    MESSAGE = "message"
    BACKLOG = "backlog"


class Sent(msgspec.Struct):
    """A message that was sent and is not yet confirmed.

    Attributes:
        spans: positions of what it carries and nobody has confirmed yet.
        since_ns: when its present wait began: for the PUBACK, then for settling or a collector.
    """

    way: Way
    topic: str
    spans: Spans
    sent_ns: int
    since_ns: int


class Delivery:
    """What is unsent, in flight and unconfirmed on one connection after the other.

    Times are monotonic nanoseconds. Everything is called by the uplink's thread.

    Args:
        config: bounds and times.
        live: topic of live records.
        backlog: topic of backlog records.
        by_collector: initial value of the attribute.

    Attributes:
        up: whether the link is up.
        by_collector: whether records wait for a collector rather than for the broker.
        unsent: positions of the backlog; many may not exist any more.
        unsent_messages: the same for messages to users' topics.
        live_from: the first position that was not sent and is not backlog.
    """

    def __init__(
        self, config: UplinkConfig, *, live: str, backlog: str, by_collector: bool
    ) -> None:
        self._config = config
        self._live, self._backlog = live, backlog
        self.by_collector = by_collector
        self.up = False
        self.unsent = Spans()
        self.unsent_messages = Spans()
        self.live_from = 1
        self._in_flight: dict[int, Sent] = {}
        self._records: dict[int, Sent] = {}  # acknowledged by the broker, in that order
        self._messages: dict[int, Sent] = {}
        self._refused: dict[str, int] = {}  # topic: when it may be tried again
        self._held: dict[str, Spans] = {}  # messages that wait for a refused topic
        self._resend_ns = self._resend_ns_min = round(config.resend_s * _S)
        self._window_n, self._answered = _WINDOW_N, False
        self._stall_ns, self._stalled = _STALL_NS, False
        self._progress_ns = 0
        self._rate = Rate(config.backlog_n_per_s)

    # --- the connection ---

    def connected(self, position: int, message: int, now: int) -> None:
        """The link came up; ``position`` and ``message`` are the last ones that were given."""
        self.disconnected()
        self.up = True
        self.unsent = Spans([(1, position)])
        self.unsent_messages = Spans([(1, message)])
        self.live_from = position + 1
        self._resend_ns, self._stall_ns = self._resend_ns_min, _STALL_NS
        self._window_n, self._answered = _WINDOW_N, False
        self._rate.begin(now)

    def disconnected(self) -> None:
        """The link went down: nothing that is not confirmed counts as sent."""
        self.up = False
        for known in (self._in_flight, self._records, self._messages, self._refused, self._held):
            known.clear()

    def appended_messages(self, first: int, last: int) -> None:
        """Messages to users' topics were appended."""
        self.unsent_messages.add(first, last)

    # --- sending ---

    @property
    def has_place(self) -> bool:
        """Whether a live record or a message may be sent now."""
        return self.up and len(self._in_flight) < self._config.in_flight_n_max

    def backlog_n(self, now: int) -> int:
        """How many backlog records may be sent now."""
        if not self._backlog_is_open:
            return 0
        oldest_ns = min((sent.sent_ns for sent in self._backlog_waits()), default=now)
        self._stalled = now - oldest_ns > self._stall_ns
        return max(0, min(self._rate.allowed(now), self._window_room))

    @property
    def live_is_refused(self) -> bool:
        """Whether live records must take the way of the backlog for now."""
        return self._live in self._refused

    def sent(self, token: int, way: Way, topic: str, spans: Spans, now: int) -> None:
        """A message was handed to the link."""
        if way is Way.BACKLOG:
            self._rate.spend(spans.count)
        self._in_flight[token] = Sent(way, topic, spans, now, now)

    def is_refused(self, topic: str) -> bool:
        """Whether a topic was refused and must be left alone for now."""
        return topic in self._refused

    def hold(self, topic: str, position: int) -> None:
        """Leave a message until its refused topic may be tried again."""
        self._held.setdefault(topic, Spans()).add(position, position)

    def give_up_live(self, position: int) -> None:
        """The live topic is refused: what was appended up to ``position`` is backlog."""
        self.unsent.add(self.live_from, position)
        self.live_from = position + 1

    # --- what became of it ---

    def published(self, token: int, now: int) -> None:
        """The broker acknowledged a message."""
        sent = self._in_flight.pop(token, None)
        if sent and sent.spans:
            sent.since_ns = now
            waiting = self._messages if sent.way is Way.MESSAGE else self._records
            waiting[token] = sent

    def refused(self, token: int, now: int) -> str | None:
        """The broker refused a message: its topic, when that was not known yet."""
        sent = self._in_flight.pop(token, None)
        if sent is None:
            return None
        known = sent.topic in self._refused
        self._refused[sent.topic] = now + _REFUSED_NS
        self._return(sent)
        return None if known else sent.topic

    def confirmed(self, spans: Spans, now: int) -> None:
        """A collector confirmed records that were still kept."""
        newest, count, answer_ns = -1, 0, 0
        for token, sent in self._record_waits():
            gone = sum(sent.spans.remove(first, last) for first, last in spans)
            if gone:
                newest = max(newest, token)
                answer_ns = max(answer_ns, now - sent.sent_ns)
                count += gone if sent.way is Way.BACKLOG else 0
                # A part was known before: whoever says so has not had this message for sure.
                self._answered |= sent.way is Way.BACKLOG and not sent.spans
            if not sent.spans:
                self._records.pop(token, None)
        for token, sent in self._record_waits():
            if token >= newest >= 0:  # later ones are not overtaken, they may yet be answered
                sent.since_ns = now
        self._progress_ns, self._stalled = now, False
        self._stall_ns = max(_STALL_NS, 2 * answer_ns)
        self._resend_ns = min(max(self._resend_ns_min, 2 * answer_ns), _RESEND_NS_MAX)
        self._window_n = min(self._window_n + count, self._config.unconfirmed_n_max)

    def settled(self, now: int) -> tuple[Spans, Spans]:
        """Positions of records and of messages that the broker has had for long enough."""
        settle_ns = round(self._config.settle_s * _S)
        records = Spans() if self.by_collector else _ripe(self._records, now - settle_ns)
        return records, _ripe(self._messages, now - settle_ns)

    def expire(self, now: int) -> None:
        """Return what has waited too long, and try refused topics again."""
        for topic in [topic for topic, until in self._refused.items() if until <= now]:
            del self._refused[topic]
            self.unsent_messages.update(self._held.pop(topic, Spans()))
        for token, sent in list(self._in_flight.items()):
            if now - sent.since_ns >= _PUBACK_NS:
                del self._in_flight[token]
                self._return(sent)
        if self.by_collector:
            self._expire_unanswered(now)

    def due_ns(self) -> int | None:
        """When a rule next has something to do without an event; None for never."""
        times = list(self._refused.values())
        times += [sent.since_ns + _PUBACK_NS for sent in self._in_flight.values()]
        wait_ns = self._resend_ns if self.by_collector else round(self._config.settle_s * _S)
        times += [sent.since_ns + wait_ns for sent in _first(self._records)]
        settle_ns = round(self._config.settle_s * _S)
        times += [sent.since_ns + settle_ns for sent in _first(self._messages)]
        if self._backlog_is_open and self._window_room > 0:
            times.append(self._rate.due_ns())
        return min(times, default=None)

    @property
    def in_flight_n(self) -> int:
        """Messages that wait for the broker's acknowledgement."""
        return len(self._in_flight)

    # --- helpers ---

    def _expire_unanswered(self, now: int) -> None:
        """Return records that a collector did not confirm in time."""
        late = [
            token for token, sent in self._records.items() if now - sent.since_ns >= self._resend_ns
        ]
        if not late:
            return
        self._window_n, self._answered, self._stalled = _WINDOW_N, False, False
        if self._progress_ns < min(self._records[token].sent_ns for token in late):
            self._resend_ns = min(2 * self._resend_ns, _RESEND_NS_MAX)
            late = list(self._records)
        for token in late:
            self._return(self._records.pop(token))

    def _return(self, sent: Sent) -> None:
        """Count a message as never sent."""
        if sent.way is Way.MESSAGE:
            self.unsent_messages.update(sent.spans)
        else:
            self.unsent.update(sent.spans)

    def _record_waits(self) -> Iterator[tuple[int, Sent]]:
        for token, sent in [*self._records.items(), *self._in_flight.items()]:
            if sent.way is not Way.MESSAGE:
                yield token, sent

    def _backlog_waits(self) -> Iterator[Sent]:
        """Backlog that waits for somebody's answer and is not confirmed in full."""
        return (s for _, s in self._record_waits() if s.way is Way.BACKLOG and s.spans)

    @property
    def _backlog_is_open(self) -> bool:
        """Whether there is backlog, and a place for it besides that kept for live records."""
        places = max(1, self._config.in_flight_n_max - 1)
        refused = self._backlog in self._refused
        return self.up and bool(self.unsent) and len(self._in_flight) < places and not refused

    @property
    def _window_room(self) -> int:
        """Backlog records that may be sent before a collector confirms earlier ones."""
        if not self.by_collector:
            return self._config.unconfirmed_n_max
        waiting = sum(sent.spans.count for sent in self._backlog_waits())
        if waiting and (self._stalled or not self._answered):
            return 0
        return min(self._window_n, self._config.unconfirmed_n_max) - waiting


def _ripe(waiting: dict[int, Sent], before_ns: int) -> Spans:
    """Take out what the broker acknowledged before a time; the dict is in that order."""
    ripe = Spans()
    while waiting:
        token, sent = next(iter(waiting.items()))
        if sent.since_ns > before_ns:
            break
        ripe.update(sent.spans)
        del waiting[token]
    return ripe


def _first(waiting: dict[int, Sent]) -> list[Sent]:
    return [next(iter(waiting.values()))] if waiting else []
