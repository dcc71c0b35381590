"""What libraries warn of while they read a model or answer: notes of the report, not noise."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

REMARKS_MAX: Final = 20
_TEXT_MAX: Final = 400
# Meant for those who write the libraries; Python hides them from users, and so do we.
_HIDDEN: Final = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


@contextmanager
def remarks() -> Iterator[list[str]]:
    """Collect warnings as sentences, each once, at most :data:`REMARKS_MAX`.

    The list is filled when the context ends; nothing goes to stderr. For one thread at a time, as
    Python's warnings are.
    """
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for kind in _HIDDEN:
            warnings.simplefilter("ignore", kind)
        try:
            yield found
        finally:
            texts = dict.fromkeys(
                f"{warning.category.__name__}: {' '.join(str(warning.message).split())[:_TEXT_MAX]}"
                for warning in caught
            )
            found += list(texts)[:REMARKS_MAX]
