"""The states of an update: which follows which, and how often each may be begun."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from edge_agent.contract.messages import UpdateState

TRANSITIONS: Final[Mapping[UpdateState, tuple[UpdateState, ...]]] = {
    # state       next states                              until then (job.py)
    "offered": ("fetching", "committed", "refused"),  # runs already? sizes sound? our time?
    "fetching": ("verified", "refused"),  # chunks to disk, each checked as it comes
    "verified": ("staged", "fetching", "refused"),  # unpacked; digest, manifest, channels checked
    "staged": ("probing", "refused"),  # it is in the store; the child process is started
    "probing": ("comparing", "trial", "refused"),  # golden vectors, latency, memory in the child
    "comparing": ("trial", "refused"),  # where ordered: beside the incumbent until a verdict
    "trial": ("committed", "rolled_back"),  # the pipelines run it, and are watched
    "committed": (),
    "rolled_back": (),  # the model before runs again; this bundle is not tried again
    "refused": (),  # remembered: only a higher revision has it tried again
}

TRIES: Final[Mapping[UpdateState, int]] = {
    # How often the agent may begin a state, restarts included, before the bundle is refused; the
    # limit of a trial is configured, and holds for a comparison too, which counts as begun anew
    # whenever its figures are saved. Fetching may take weeks of short power.
    "offered": 1000,
    "fetching": 1000,
    "verified": 5,
    "staged": 5,
    "probing": 5,
}
