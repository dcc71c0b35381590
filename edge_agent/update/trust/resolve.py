"""Which bundle verified metadata ask one device to run. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from edge_agent.contract.errors import BundleError
from edge_agent.contract.messages import Desired
from edge_agent.contract.release import (
    SCOPE_ALL,
    Approval,
    Choice,
    Order,
    bundle_path,
    device_path,
    group_path,
)

T = TypeVar("T")


class Target(msgspec.Struct, frozen=True):
    """A signed target: its size, its SHA-256 in hexadecimal, and what is said of it."""

    bytes: int
    sha256: str
    custom: Mapping[str, Any]


Find = Callable[[str], Target | None]
"""Looks a target up by its path in verified metadata; None when nobody may or does sign it."""


def resolve(find: Find, *, device: str, groups: Sequence[str], model: str) -> Desired | None:
    """What a device is to run of a model; None for what it has.

    Args:
        find: into verified metadata.
        device: id of the device.
        groups: that it belongs to.
        model: name of the model.

    Raises:
        BundleError: what is ordered is not approved for this device, or contradicts itself.
    """
    paths = [device_path(device, model)]
    paths += [group_path(group, model) for group in (*groups, SCOPE_ALL)]
    orders = [_order(path, target, model) for path in paths if (target := find(path))]
    if not orders:
        return None
    order = max(orders, key=lambda order: order.revision)
    choice = order.chosen(device)
    if choice is None:
        return None
    return _desired(order, choice, _approved(find, choice, model, groups))


def _order(path: str, target: Target, model: str) -> Order:
    order = _read(path, target, Order)
    if fault := order.fault:
        raise BundleError(f"{path}: {fault}")
    if order.model != model:
        raise BundleError(f"{path} speaks of the model {order.model}")
    return order


def _approved(
    find: Find, choice: Choice, model: str, groups: Sequence[str]
) -> tuple[Approval, Target]:
    """The approval of a choice, if the device is in its scope."""
    if choice.scope != SCOPE_ALL and choice.scope not in groups:
        raise BundleError(
            f"{model} {choice.version} is approved for the group {choice.scope}, to which this "
            "device does not belong"
        )
    path = bundle_path(choice.scope, choice.sha256)
    target = find(path)
    if target is None:
        raise BundleError(
            f"{model} {choice.version} is ordered and not approved: run edge-fleet approve"
        )
    approval = _read(path, target, Approval)
    said = (target.sha256, approval.model, approval.version)
    if said != (choice.sha256, model, choice.version):
        raise BundleError(
            f"{path} approves {approval.model} {approval.version}, not what is ordered"
        )
    faults = [payload.fault for payload in approval.payloads if payload.fault]
    if faults or not approval.payloads or approval.payloads[0].base:
        raise BundleError(f"{path}: {faults[0] if faults else 'no payload without a base'}")
    return approval, target


def _desired(order: Order, choice: Choice, approved: tuple[Approval, Target]) -> Desired:
    approval, target = approved
    return Desired(
        revision=order.revision,
        model=order.model,
        version=choice.version,
        sha256=choice.sha256,
        bytes=target.bytes,
        payloads=approval.payloads,
        start_within_s=order.start_within_s,
        schema=order.schema,
        experiment=order.experiment if choice is order.choice else None,
    )


def _read(path: str, target: Target, kind: type[T]) -> T:
    try:
        return msgspec.convert(target.custom, kind)
    except msgspec.ValidationError as exc:
        raise BundleError(f"{path}: {exc}") from exc
