"""The loop that aligns an embedder by a distance. The distances are those of `orca_core.distances`, by the names they had here first."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orca_core.alignment.loop import Alignment
    from orca_core.distances import OtddSource, l2, mmd, otdd

__all__ = ["Alignment", "OtddSource", "l2", "mmd", "otdd"]


def __getattr__(name: str) -> Any:
    """Public names are imported when they are asked for: all of them need torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("orca_core.alignment.loop" if name == "Alignment" else "orca_core.distances"), name)
