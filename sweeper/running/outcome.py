"""How a run of a sweep ends."""

from __future__ import annotations

from enum import Enum

from orca_core.errors import OrcaError, StoreError


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


_ENDED_EARLY = {
    Outcome.DISK_FULL: "the disk is full; the sweep was ended. Free some space and run the same command to continue.",
    Outcome.STORE_LOST: "storage stayed out of reach for as long as budget.storage_minutes allows; the sweep was ended. "
    "Run the same command to continue once the storage answers.",
    Outcome.LOST: "Ray's processes were lost; the sweep was ended. Finished work is kept; run the same command to continue.",
    Outcome.NO_WORKER: "no node that may run trials came in time (--wait MINUTES); the sweep was ended. Run the same command to continue.",
    Outcome.UNFIT: "no machine can run the trials; the sweep was ended after the first few. "
    "Mend the cause and run the same command to continue.",
}


def describe_end(outcome: Outcome, reason: str, num_interrupted: int, unwritten: StoreError | None) -> str:
    """Why a run ended early, what became of its trials, and how it is continued; empty if it came to its end.

    Args:
        outcome: How it ended.
        reason: Why it ended early, as the session knows.
        num_interrupted: How many of its trials were cut short.
        unwritten: Why its last rows could not be written; None if they were.
    """
    sentences = []
    if (ended := _ENDED_EARLY.get(outcome)) is not None:
        sentences.append(f"{ended} ({reason.rstrip('.')}.)")
        if num_interrupted:
            were = "trial was" if num_interrupted == 1 else "trials were"
            sentences.append(f"{num_interrupted} {were} interrupted: the next run continues from the last stored state.")
    if unwritten is not None:
        why = "" if outcome is Outcome.STORE_LOST else f" ({str(unwritten).rstrip('.')}.)"
        the = "The" if ended else "the"
        sentences.append(f"{the} last rows could not be written{why}. The next run reports them from the stage store.")
        if ended is None:
            sentences.append("Run the same command to continue.")
    return " ".join(sentences)
