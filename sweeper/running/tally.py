"""Counts what becomes of the trials and stages of a run, as it happens: what progress shows costs nothing, however large a sweep is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orca_core.rows import Row, StageRow
from sweeper.results.views import INTERRUPTED
from sweeper.running.time_left import WorkLeft


@dataclass(frozen=True, slots=True)
class Failure:
    """How a trial failed.

    Args:
        trial: Its id.
        cause: The class of the failure, a word or two.
        error: What happened, in one line.
    """

    trial: str
    cause: str
    error: str


@dataclass(frozen=True, slots=True)
class BestTrial:
    """The trial of a task with the lowest score.

    Args:
        score: Its score, by the metric of the sweep.
        row: Its row.
    """

    score: float
    row: Mapping[str, Any]


class Tally:
    """What has become of the trials of a run so far.

    Args:
        work: The work that is left.

    Attributes:
        running, paused: Numbers of trials.
        ended: Status -> number of trials that ended so, in this run or in an earlier one.
        earlier: Trial -> status, of the trials that earlier runs ended for good and that have not started again in this one.
        num_earlier: How many of these are COMPLETE or PRUNED.
        computed, reused: Numbers of stages that trials computed, at least in part, and that they found in the store, in the attempts that
            count.
        saved_s: Compute time saved by reuse, of the trials that have ended.
        best: Task -> its best trial of this run.
        failure: The last failure; None if there was none.
    """

    def __init__(self, work: WorkLeft | None = None) -> None:
        self.work = work or WorkLeft()
        self.running = self.paused = self.num_earlier = 0
        self.ended: Counter[str] = Counter()
        self.earlier: dict[str, str] = {}
        self.computed = self.reused = 0
        self._stages: dict[str, tuple[int, int]] = {}  # of the attempts that have not ended
        self.saved_s = 0.0
        self.best: dict[str, BestTrial] = {}
        self.failure: Failure | None = None

    @property
    def done(self) -> int:
        """Number of trials with an end that counts, COMPLETE or PRUNED, in this run or an earlier one."""
        return self.ended["COMPLETE"] + self.ended["PRUNED"]

    def start(self, trial_id: str, members: int = 1) -> None:
        """Count a trial that starts, in a group of `members`."""
        self.running += 1
        if (status := self.earlier.pop(trial_id, None)) is not None:
            self.ended[status] -= 1
            self.num_earlier -= status != "FAIL"
        self.work.start(trial_id, members)

    def pause(self, trial_id: str) -> None:
        """Count a running trial that stops for now."""
        self.running, self.paused = self.running - 1, self.paused + 1
        self.work.pause(trial_id)

    def resume(self, trial_id: str, members: int = 1) -> None:
        """Count a paused trial that goes on, in a group of `members`."""
        self.running, self.paused = self.running + 1, self.paused - 1
        self.work.start(trial_id, members)

    def add(self, trial_id: str, row: Row) -> None:
        """Count what a trial reports for the first time."""
        self.work.advance(trial_id, row)
        if isinstance(row, StageRow):
            is_reused = row.reused_epochs >= row.epochs if row.epochs else row.seconds == 0.0
            self._count_stages(trial_id, not is_reused, is_reused)

    def end(
        self, row: Mapping[str, Any], status: str, score: float, *, was_paused: bool, before: str | None = None, starts_again: bool = False
    ) -> None:
        """Count a trial, or only an attempt at it, that has ended.

        Args:
            row: Its last row.
            status: COMPLETE, PRUNED, FAIL or INTERRUPTED.
            score: What it is ranked by.
            was_paused: Whether it was paused.
            before: How it had ended earlier in this run; None if it had not.
            starts_again: Whether only the attempt has ended.
        """
        trial = row["trial"]
        self.running, self.paused = self.running - (not was_paused), self.paused - was_paused
        if before is not None:
            self.ended[before] -= 1
        computed, reused = self._stages.pop(trial, (0, 0))
        if starts_again:  # its next attempt reports its stages once more
            self.computed, self.reused = self.computed - computed, self.reused - reused
            self.work.lose(trial)
            return
        self.ended[status] += 1
        self.saved_s += row["saved_s"]
        self._see_end(row, status, score)
        computing_s = sum(value for name, value in row.items() if name.startswith("seconds_") and value)
        is_whole = status in ("COMPLETE", "PRUNED") and not row.get("reused_from")
        self.work.end(trial, seconds=row["seconds"], computing_s=computing_s, is_whole=is_whole)

    def recall(self, rows: Iterable[Mapping[str, Any]], metric: str) -> None:
        """Count trials that earlier runs ended for good.

        Args:
            rows: Their current rows.
            metric: What trials are ranked by.
        """
        for row in rows:
            self.earlier[row["trial"]] = row["status"]
            self.num_earlier += row["status"] != "FAIL"
            self.ended[row["status"]] += 1
            self._see_end(row, row["status"], row.get(metric))

    def _count_stages(self, trial_id: str, computed: int, reused: int) -> None:
        before = self._stages.get(trial_id, (0, 0))
        self._stages[trial_id] = before[0] + computed, before[1] + reused
        self.computed, self.reused = self.computed + computed, self.reused + reused

    def _see_end(self, row: Mapping[str, Any], status: str, score: float | None) -> None:
        if status == "FAIL":
            self.failure = Failure(row["trial"], row.get("cause") or "", row.get("error") or "")
        elif status == "COMPLETE" and score is not None:
            best = self.best.get(row["task"])
            if best is None or score < best.score:
                self.best[row["task"]] = BestTrial(score, row)

    @property
    def interrupted(self) -> int:
        """Number of trials that a stop cut short."""
        return self.ended[INTERRUPTED]
