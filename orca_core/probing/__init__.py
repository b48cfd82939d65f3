"""Probes: what happened inside a trial's model, measured beside the scores and never used for them.

A probe reads states of a trial that are there anyway, at the moments `start`, `aligned` and `fine-tuned`, and gives rows of the table
`probes`. It is a stage of its own kind, keyed by the states it reads, its name, its version and what is asked of it; it is no part of a
trial's id or result. It trains nothing, and draws from generators of its own.
"""

from orca_core.probing.catalogue import MOMENTS, PROBES, Moment, Probe
from orca_core.probing.request import ProbeRequest
from orca_core.rows import ProbeRow

__all__ = ["MOMENTS", "PROBES", "Moment", "Probe", "ProbeRequest", "ProbeRow"]
