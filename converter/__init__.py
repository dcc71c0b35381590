"""Turns a trained model into a verified bundle. Runs on a workstation, never on a device.

From Python::

    from converter import build

    built = build("recipe.yaml")
    print(built.bundle)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converter.convert import Built, build

__all__ = ["Built", "build"]


def __getattr__(name: str) -> Any:
    # On demand: the processes that measure a model must not load scikit-learn and onnx.
    if name in __all__:
        from converter import convert  # noqa: PLC0415 (see above)

        return getattr(convert, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
