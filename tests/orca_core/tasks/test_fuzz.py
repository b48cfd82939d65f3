"""Files that were damaged at random are read or refused. `benchmarks/fuzz.py` does it in thousands, in processes with limits."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

import fuzz

COSTLY = ("nb360/fsd50k",)
"""Subjects that take long to decode."""


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "SUBJECTS", [subject for subject in fuzz.SUBJECTS if subject[0] not in COSTLY])
    tallies = fuzz.run(260, 7, tmp_path, isolated=False)
    assert [case for tally in tallies.values() for case in tally.bad] == []
    outcomes = sum((tally.outcomes for tally in tallies.values()), fuzz.Counter())
    assert outcomes.total() == 260
    assert outcomes["read"] > 50
    assert outcomes["refused"] > 100


def test_a_case_that_takes_too_much_does_not_end_or_fails_is_found(tmp_path, monkeypatch):
    """In processes of their own, with limits of memory and time."""

    def case(load) -> str:
        subject = fuzz.Subject("x", lambda root: None, tmp_path)
        subject.load = load
        return fuzz.run_case(subject, tmp_path)[0]

    def forever() -> None:
        while True:
            pass

    assert case(lambda: None) == "read"
    assert case(lambda: bytearray(2 * fuzz.MEMORY_BYTES)) == "traceback"
    assert case(lambda: fuzz.os.kill(fuzz.os.getpid(), fuzz.signal.SIGKILL)) == "crash"
    monkeypatch.setattr(fuzz, "SECONDS", 0.5)
    assert case(forever) == "hang"
