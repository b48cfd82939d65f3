"""Distances between labelled feature clouds, and the loop that aligns an embedder by them."""

from orca_core.distances.l2 import l2
from orca_core.distances.mmd import mmd
from orca_core.distances.otdd import OtddSource, otdd

__all__ = ["OtddSource", "l2", "mmd", "otdd"]
