"""Storage work beside the loop that runs trials."""

from __future__ import annotations

import threading

import pytest

from orca_core.errors import StoreError
from sweeper.results.store import ResultStore
from sweeper.running.recorder import FLUSH_EVERY_S, Recorder
from sweeper.running.writer import InThread


def test_jobs_are_done_in_their_order_and_more_than_fit_are_refused():
    done: list[int] = []
    gate = threading.Event()
    with InThread(most=3) as writer:
        assert writer.submit(lambda: (gate.wait(10), done.append(0))[1])
        while writer._jobs.qsize():
            pass  # the thread takes it
        assert [writer.submit(lambda number=number: done.append(number)) for number in range(1, 6)] == [True, True, True, False, False]
        gate.set()
        writer.finish()
    assert done == [0, 1, 2, 3]


def test_a_defect_in_a_job_is_raised_and_later_jobs_are_done():
    done = []
    with InThread() as writer:
        writer.submit(lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            writer.finish()
        writer.submit(lambda: done.append(1))
        writer.finish()
    assert done == [1]


class Gated(ResultStore):
    """Tables that write when they are let, and fail as often as they are told."""

    def __init__(self, uri, failures: int) -> None:
        super().__init__(uri)
        self.gate, self.failures = threading.Event(), failures
        self.written: list[str] = []

    def append(self, table, sweep, rows) -> None:
        self.gate.wait(10)
        if rows and self.failures:
            self.failures -= 1
            raise StoreError("a full disk")
        super().append(table, sweep, rows)
        self.written += [f"{table}-{row['status']}-{row['trial']}" for row in rows if table == "trials"]


def test_rows_recorded_while_a_batch_is_written_come_after_it_and_count_with_their_own_batch(tmp_path):
    now = [0.0]
    tables = Gated(tmp_path, failures=1)
    with InThread() as writer:
        recorder = Recorder(tables, "s", "valid_error", clock=lambda: now[0], writer=writer)

        def record(trial: str) -> int:
            """A row, and the number of the batch that will have it."""
            now[0] += FLUSH_EVERY_S
            batch = recorder.batch
            recorder.set_in_plan([{"trial": trial, "status": "FAIL", "attempt": 1, "sequence": 0}], True)
            return batch

        first, second = record("first"), record("second")
        assert (first, second, recorder.batches) == (1, 2, 0)
        tables.gate.set()
        writer.finish()
        assert recorder.trouble == "a full disk"
        assert recorder.batches == 0
        recorder.flush()
        assert recorder.batches >= second
    assert tables.written == ["trials-FAIL-first", "trials-FAIL-second"]
