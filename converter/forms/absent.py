"""The one way to say that a form of the model does not exist."""

from __future__ import annotations

from edge_agent.contract.errors import EdgeError


class AbsentForm(EdgeError):  # noqa: N818 - the absence is an outcome, not a fault
    """A form cannot be built or is of no use; the message is a sentence for the report."""
