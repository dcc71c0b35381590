"""What is signed for a ring of a rollout, and for the way back. Pure.

All orders of a rollout have one revision: a device that has obeyed sees nothing new when another
ring opens, and one that has failed is not made to try again. A device outside the open rings is
not spoken to. Orders for groups are looked at before the one for all, so the equal revision of the
two does no harm.
"""

from __future__ import annotations

from collections.abc import Mapping

from edge_agent.contract.release import Order, Ring, group_path
from edge_agent.fleet.rollout.plan import EVERYBODY_PPM, Plan


def orders_out(plan: Plan, ring: int) -> dict[str, Order]:
    """The orders by path when every ring up to ``ring`` is open."""
    orders: dict[str, Order] = {}
    for part in plan.rings[:ring]:
        share = None
        if not part.group and part.share_ppm < EVERYBODY_PPM:
            share = Ring(salt=plan.salt, share_ppm=part.share_ppm)
        orders[group_path(part.group or plan.to, plan.model)] = Order(
            revision=plan.revision,
            model=plan.model,
            choice=plan.choice,
            ring=share,
            start_within_s=plan.start_within_s,
        )
    return orders


def orders_back(plan: Plan, ring: int, revision: int) -> dict[str, Order]:
    """The orders by path that take ``orders_out(plan, ring)`` back.

    Where an order for everybody stood before, it stands again, also for devices that have missed
    it. Where there was none, only the devices of the open rings are sent back.
    """
    orders: dict[str, Order] = {}
    for path, out in orders_out(plan, ring).items():
        before = plan.before.get(path)
        whole = before is not None and before.ring is None
        orders[path] = Order(
            revision=revision,
            model=plan.model,
            choice=before.choice if before else plan.base,
            ring=None if whole else out.ring,
            start_within_s=before.start_within_s if before else 0,
        )
    return orders


def newer(standing: Mapping[str, Order], plan: Plan) -> str:
    """The first path of any ring on which somebody has ordered something since; empty for none."""
    paths = orders_out(plan, len(plan.rings))
    found = (p for p in paths if p in standing and standing[p].revision > plan.revision)
    return next(found, "")
