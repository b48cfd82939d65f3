"""How a run of a sweep ends."""

from __future__ import annotations

from enum import Enum

from orca_core.errors import OrcaError


class Outcome(Enum):
    """The state of a run, or how it ended."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    DISK_FULL = "disk full"
    LOST = "no machines left"
    STORE_LOST = "results or stages out of reach"
    UNFIT = "no machine can run the trials"
    NO_WORKER = "no worker came"


class SweepCutError(OrcaError):
    """A sweep ended early: Ray was lost, the disk is full, storage stayed out of reach, no machine came, or none can run the trials.

    Finished work is kept.
    """

    exit_code = 1
