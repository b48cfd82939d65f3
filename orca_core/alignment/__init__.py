"""The loop that aligns an embedder by a distance. The distances are those of `orca_core.distances`, by the names they had here first."""

from orca_core.distances import OtddSource, l2, mmd, otdd

__all__ = ["OtddSource", "l2", "mmd", "otdd"]
