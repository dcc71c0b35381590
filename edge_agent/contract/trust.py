"""The seam through which every byte that comes from outside must pass before it is used.

So far it checks digests and passes the desired state through: nothing is signed yet. Signature
checks take the place of the pass-through, behind the same function.
"""

from __future__ import annotations

import hashlib

from edge_agent.contract.errors import BundleError


def admit(what: str, data: bytes, sha256: str | None) -> bytes:
    """Let bytes from outside in, or refuse them.

    Args:
        what: for the message, e.g. ``"chunk 12"`` or ``"desired state of motion"``.
        data: as received.
        sha256: the digest that an admitted message stated; None only for the desired state
            itself, which nothing vouches for yet.

    Raises:
        BundleError: the bytes are not those that were announced.
    """
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise BundleError(f"{what} does not have the announced digest {sha256[:12]}…")
    return data
