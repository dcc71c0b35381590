"""Hands to the link what the rules of delivery allow, read from the outbox."""

from __future__ import annotations

from typing import Final

from edge_agent.config import UplinkConfig
from edge_agent.contract.messages import Batch, encode
from edge_agent.contract.topics import Topics
from edge_agent.link import Port
from edge_agent.outbox.items import Slice
from edge_agent.outbox.outbox import Outbox
from edge_agent.spans import Spans
from edge_agent.uplink.delivery import Delivery, Way

_ENVELOPE_BYTES: Final = 96  # of a batch around its records, beside the device's name
_MESSAGES_N: Final = 64  # messages to users' topics that are looked at once


class Sender:
    """Sends from one outbox over one port; every call comes from the uplink's thread.

    Args:
        outbox: what is kept.
        delivery: what may go.
        port: where it goes.
        topics: names of the topics.
        device: this device's id.
        config: bounds.
    """

    def __init__(
        self,
        outbox: Outbox,
        delivery: Delivery,
        *,
        port: Port,
        topics: Topics,
        device: str,
        config: UplinkConfig,
    ) -> None:
        self._outbox, self._delivery, self._port = outbox, delivery, port
        self._device = device
        self._live = topics.records(device, "live")
        self._backlog = topics.records(device, "backlog")
        self._bytes_max = config.batch_bytes - _ENVELOPE_BYTES - len(device)
        self._token = 0

    def send(self, now: int) -> None:
        """Send what may go at this moment.

        Args:
            now: monotonic nanoseconds.

        Raises:
            StorageError: the outbox cannot be read.
        """
        if self._delivery.live_is_refused:
            self._delivery.give_up_live(self._outbox.position)
        self._send_live(now)
        self._send_messages(now)
        self._send_backlog(now)

    @property
    def has_fresh(self) -> bool:
        """Whether something was never sent, or waits for the broker's acknowledgement."""
        delivery = self._delivery
        unsent = delivery.live_from <= self._outbox.position or delivery.unsent_messages
        return delivery.up and bool(unsent or delivery.in_flight_n)

    def _send_live(self, now: int) -> None:
        delivery, last = self._delivery, self._outbox.position
        while delivery.has_place and delivery.live_from <= last:
            found = self._read(delivery.live_from, last, n_max=last)
            if found is not None:
                self._publish_batch(Way.LIVE, self._live, found, now)
            delivery.live_from = (found.through if found else last) + 1

    def _send_messages(self, now: int) -> None:
        delivery = self._delivery
        while delivery.has_place and delivery.unsent_messages:
            first, last = next(iter(delivery.unsent_messages))
            found = self._outbox.messages(first, last, n_max=_MESSAGES_N)
            done = found[-1].position if len(found) == _MESSAGES_N else last
            for message in found:
                if delivery.is_refused(message.topic):
                    delivery.hold(message.topic, message.position)
                    continue
                if not delivery.has_place:
                    done = message.position - 1
                    break
                one = Spans([(message.position, message.position)])
                self._publish(Way.MESSAGE, message.topic, message.payload, one, now)
            delivery.unsent_messages.remove(first, done)

    def _send_backlog(self, now: int) -> None:
        delivery = self._delivery
        while n_max := delivery.backlog_n(now):
            first, last = next(iter(delivery.unsent))
            found = self._read(first, last, n_max=n_max)
            delivery.unsent.remove(first, found.through if found else last)
            if found is not None:
                self._publish_batch(Way.BACKLOG, self._backlog, found, now)

    def _read(self, first: int, last: int, *, n_max: int) -> Slice | None:
        return self._outbox.read(first, last, n_max=n_max, bytes_max=self._bytes_max)

    def _publish_batch(self, way: Way, topic: str, found: Slice, now: int) -> None:
        batch = Batch(device=self._device, boot=found.boot, records=found.records)
        self._publish(way, topic, encode(batch), found.spans, now)

    def _publish(self, way: Way, topic: str, payload: bytes, spans: Spans, now: int) -> None:
        self._token += 1
        self._delivery.sent(self._token, way, topic, spans, now)  # the answer may come at once
        self._port.publish(self._token, topic, payload)
