"""What devices say of themselves in their retained statuses."""

from __future__ import annotations

from collections.abc import Mapping

from edge_agent.contract.errors import LinkError
from edge_agent.contract.messages import MESSAGE_SCHEMA, Status, decode
from edge_agent.contract.names import name_fault
from edge_agent.contract.topics import Topics


def read_status(topics: Topics, topic: str, payload: bytes) -> Status | None:
    """Read one message as the status of the device that its topic names.

    Returns:
        None when the topic is none of a status, or the retained status was cleared.

    Raises:
        LinkError: malformed, of a newer schema, or of another device than its topic says.
    """
    device = topics.device_of(topic) or ""
    if topic != topics.status(device) or not payload:
        return None
    status = decode(payload, Status)
    if status.schema > MESSAGE_SCHEMA:
        raise LinkError(f"the status of {device} has schema {status.schema}: update edge-fleet")
    if status.device != device or name_fault("device", device):
        raise LinkError(f"a status of device {status.device!r} came on {topic}")
    return status


def read_statuses(topics: Topics, answers: Mapping[str, bytes]) -> tuple[list[Status], list[str]]:
    """The statuses in what a broker answered, by device, and what was wrong with the others."""
    found: list[Status] = []
    faults: list[str] = []
    for topic, payload in answers.items():
        try:
            status = read_status(topics, topic, payload)
        except LinkError as exc:
            faults.append(str(exc))
            continue
        if status is not None:
            found.append(status)
    return sorted(found, key=lambda status: status.device), faults
