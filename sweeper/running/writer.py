"""Does the storage work of a driver beside the loop that runs trials, which must not wait for a store."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Protocol

Job = Callable[[], None]
"""Something to do with a store. It handles its own `StoreError`: nobody waits for its result."""


class Writer(Protocol):
    """Does one job after another, in the order in which they come."""

    def submit(self, job: Job) -> bool:
        """Do a job, now or later. False, and it will not be done, if too many are waiting: offer it again."""

    def finish(self) -> None:
        """Wait until all jobs are done."""


class AtOnce:
    """Does each job while it is submitted: where nothing runs meanwhile, and in simulated time."""

    def submit(self, job: Job) -> bool:
        """Do a job now."""
        job()
        return True

    def finish(self) -> None:
        """Do nothing: all jobs are done."""


class InThread:
    """Does the jobs in a thread of its own, which ends with the context; call `finish` before that.

    Args:
        most: Maximum number of jobs that wait. More are refused, so what they would write stays where it can be joined into one job.
    """

    def __init__(self, most: int = 1000) -> None:
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._most = most
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="storage", daemon=True)
        self._thread.start()

    def __enter__(self) -> InThread:
        return self

    def __exit__(self, *_: object) -> None:
        self._jobs.put(None)

    def submit(self, job: Job) -> bool:
        """Hand a job to the thread; an error in an earlier one that is no error of a store is raised here."""
        self._raise_failure()
        if self._jobs.qsize() >= self._most:
            return False
        self._jobs.put(job)
        return True

    def finish(self) -> None:
        """Wait until all jobs are done. Later jobs are possible."""
        self._jobs.join()
        self._raise_failure()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except BaseException as error:  # a defect, not a store's error: it must not pass in silence
                self._failed = self._failed or error
            finally:
                self._jobs.task_done()

    def _raise_failure(self) -> None:
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed
