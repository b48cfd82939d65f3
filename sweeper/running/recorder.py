"""Turns what trials report into rows of the result tables. Only the driver writes rows, in batches, each a complete new file."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Protocol

from orca_core.errors import StoreError
from orca_core.rows import EpochRow, ProbeRow, Row, StageRow
from sweeper.planning.trials import PlannedTrial
from sweeper.results.views import shown_status
from sweeper.running.tally import Tally
from sweeper.running.writer import AtOnce, Writer

FLUSH_EVERY_S = 5.0
"""Seconds between batches of rows. Rows that a killed driver had not written are in the stages' artifacts, and are reported again."""

COMPACT_EVERY = 200
"""Number of batches after which small files are merged, so that a long sweep stays fast to read."""

NOT_RETRIED = frozenset({"user-error", "not-finite", "config"})
"""Causes of failure that running the trial again would only repeat. Not `data`: it may have been missing on one machine."""

_TRIAL_COLUMNS = (
    *("proxy_distance", "proxy_distance_unlabelled"),
    *("proxy_logme", "proxy_h_score", "target_logme", "target_h_score"),
)
"""Columns of an epoch's row that also belong to the row of the trial."""

_STAGE_KINDS = ("pretrain", "source", "align", "adapt", "finetune")


class RowStore(Protocol):
    """What a recorder writes to: `ResultStore`, or tables in memory."""

    def append(self, table: str, sweep: str, rows: list[dict[str, Any]]) -> None:
        """Add all rows, or raise `StoreError` and add none."""

    def attempts(self, sweep: str) -> Mapping[str, int]:
        """Trial -> its last attempt."""

    def compact(self, sweep: str) -> None:
        """Merge small files."""


@dataclass
class _Live:
    """A trial that runs or is paused, and its row so far.

    Args:
        row: Its row so far.
        started: When it started or went on, by the recorder's clock; None while it is paused.
        seconds: How long it had run before.
        reported: Which stages and epochs it has reported. A trial that goes on after a pause reports them once more.
        stage_started: When its current stage started or went on.
        stage_before: Seconds that its current stage had taken before its last pause.
        share: The share of the time that falls to it: a group of n trials takes one slot, and each counts with an n-th.
        probed: Probe and moment -> when their first row was recorded.
    """

    row: dict[str, Any]
    started: float | None
    seconds: float = 0.0
    reported: set[tuple[str, str, int | None, int, int]] = field(default_factory=set)
    stage_started: float = 0.0
    stage_before: float = 0.0
    share: float = 1.0
    stage_seconds: Counter[str] = field(default_factory=Counter)
    saved_s: float = 0.0
    mixed: set[bool | None] = field(default_factory=set)
    probed: dict[tuple[str, str], datetime] = field(default_factory=dict)

    def complete_stage(self, row: StageRow) -> StageRow:
        """The row of a stage with what it took before pauses: epochs computed then are not reused ones, though the store had them."""
        if self.stage_before == 0.0:
            return row
        before, self.stage_before = self.stage_before, 0.0
        saved_s = max(0.0, row.saved_s - before)
        return replace(row, seconds=row.seconds + before, saved_s=saved_s, reused_epochs=row.reused_epochs if saved_s else 0)

    @property
    def mixed_numerics(self) -> bool | None:
        """True if any stage is mixed; else None if it is unknown for any; else False."""
        return True if True in self.mixed else None if None in self.mixed else False


@dataclass(frozen=True, slots=True)
class Ended:
    """A trial that ended in this run.

    Args:
        status: COMPLETE, PRUNED, FAIL or INTERRUPTED.
        task: Its task.
        score: What it is ranked by; infinite if it failed.
        scores: The values from which further trials are planned, by column; infinite if it failed.
        saved_s: Compute time saved by reuse.
        reused_from: Sweep whose results were taken over; None if the trial was run.
    """

    status: str
    task: str
    score: float
    scores: Mapping[str, float]
    saved_s: float
    reused_from: str | None


class Recorder:
    """Writes the rows of one sweep and counts its trials.

    Args:
        store: Where rows are written.
        sweep: Name of the sweep.
        metric: What trials are ranked by.
        reads: Columns from which further trials are planned; empty = `metric` alone.
        run: Id of the run, which stands in every row; None = null.
        clock: Monotonic clock, in seconds.
        writer: Where batches of rows are written, except by `flush`; None = at once.

    Attributes:
        ended: Trial id -> how it ended in this run; not if it is to be started again.
        tally: Numbers of trials and stages, for those who watch.
        trouble: Why rows could not be written and are buffered; empty if they could.
        batch: Number of the batch that rows are recorded in now; the first is 1.
        batches: Number of the last batch that was written completely, with all before it.
    """

    def __init__(
        self,
        store: RowStore,
        sweep: str,
        metric: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        reads: Sequence[str] = (),
        run: str | None = None,
        writer: Writer | None = None,
    ) -> None:
        self.store, self.sweep, self.metric, self.run, self._clock = store, sweep, metric, run, clock
        self._reads = reads or (metric,)
        self.writer = writer or AtOnce()
        # Rows are recorded in `_buffers` by the thread that runs trials. One batch at a time is handed to the writer: `_batch` belongs to
        # the writer while `_is_writing`, and what it could not write is joined with the next batch. So neither needs a lock.
        self._batch: list[tuple[str, list[dict[str, Any]]]] = []
        self._is_writing = False
        self.batch, self._filled, self.batches = 1, 0, 0
        self._live: dict[str, _Live] = {}
        self._buffers: dict[str, list[dict[str, Any]]] = {"trials": [], "metrics": [], "stages": [], "probes": []}
        self._last_flush = clock()
        self._flushes = 0
        self.trouble = ""
        self.ended: dict[str, Ended] = {}
        self.tally = Tally()
        self._starts_again: set[str] = set()

    def prepare(self) -> None:
        """Read what earlier runs wrote about attempts, which the first start of a trial would otherwise wait for."""
        self._attempts  # noqa: B018

    @cached_property
    def _attempts(self) -> dict[str, int]:
        """Trial -> its last attempt. Read when the first trial starts, since a finished sweep starts none."""
        return dict(self.store.attempts(self.sweep))

    @property
    def running(self) -> int:
        """Number of running trials."""
        return self.tally.running

    @property
    def paused(self) -> int:
        """Number of paused trials."""
        return self.tally.paused

    def counts(self) -> dict[str, int]:
        """Numbers of trials that run and that are paused. May be called from another thread."""
        return {"running": self.tally.running, "paused": self.tally.paused}

    @property
    def started(self) -> Set[str]:
        """Ids of the trials that have started, or have been taken over, since this recorder was made."""
        return self._live.keys() | self.ended.keys() | self._starts_again

    def start(self, trial: PlannedTrial, *, device: str, members: int = 1) -> None:
        """Record that a trial starts, or restarts after its process or machine was lost.

        Args:
            trial: The trial.
            device: Device type on which it runs.
            members: Number of trials in its group, itself included.
        """
        attempt = self._attempts.get(trial.id, 0) + 1
        self._attempts[trial.id] = attempt
        row = {
            "sweep": self.sweep,
            "trial": trial.id,
            "attempt": attempt,
            "run": self.run,
            "sequence": 0,
            "status": "RUNNING",
            "in_plan": True,
            "role": trial.role,
            "arm": trial.arm,
            "candidate": trial.candidate,
            "variant": trial.variant or None,
            "result_key": trial.result_key,
            "score": trial.config.task_spec.score_name(trial.config.reference_data),
            "started_at": datetime.now(UTC),
            "device": device,
            "config_hash": trial.id,
        }
        row |= trial.cells()
        self._live[trial.id] = _Live(row, self._clock(), stage_started=self._clock(), share=1 / members)
        self._starts_again.discard(trial.id)
        self.tally.start(trial.id, members)
        self._buffers["trials"].append(dict(row))
        self._flush_if_due()

    def has_begun(self, trial_id: str) -> bool:
        """Whether an attempt at a trial runs or is paused."""
        return trial_id in self._live

    def seconds(self, trial_id: str) -> float:
        """Seconds that a trial has been running, without pauses, and in a group its share of them; 0 if it is unknown."""
        live = self._live.get(trial_id)
        if live is None:
            return 0.0
        return live.seconds + ((self._clock() - live.started) * live.share if live.started is not None else 0.0)

    def pause(self, trial_id: str) -> None:
        """Record that a running trial stops for now. Its attempt goes on with `resume`."""
        live = self._live[trial_id]
        live.stage_before += (self._clock() - live.stage_started) * live.share
        live.seconds, live.started = self.seconds(trial_id), None
        self.tally.pause(trial_id)

    def resume(self, trial_id: str, members: int = 1) -> bool:
        """Record that a paused trial goes on, in a group of `members`. False, and nothing is recorded, if it is not paused."""
        live = self._live.get(trial_id)
        if live is None or live.started is not None:
            return False
        live.started = live.stage_started = self._clock()
        live.share = 1 / members
        self.tally.resume(trial_id, members)
        return True

    def locate(self, trial_id: str, host: str | None, pid: int | None, worker: Mapping[str, Any] = {}) -> None:
        """Record which worker runs a trial, once that is known.

        Args:
            trial_id: The trial.
            host, pid: Host and process id of the worker; None = unchanged.
            worker: What the worker tells about itself, by column, in the first report of an attempt.
        """
        if live := self._live.get(trial_id):
            known = {name: value for name, value in (("host", host), ("pid", pid)) if value is not None}
            live.row |= known | dict(worker)

    def add_rows(self, trial_id: str, rows: Iterable[Row]) -> None:
        """Record rows that a running trial reported."""
        live = self._live[trial_id]
        for row in rows:
            if isinstance(row, ProbeRow):
                self._add_probe(live, row)
                continue
            if isinstance(row, StageRow):
                live.stage_started = self._clock()
            key = (row.TABLE, row.stage, row.fold, row.phase, row.epoch if isinstance(row, EpochRow) else 0)
            if key in live.reported:
                continue
            live.reported.add(key)
            if isinstance(row, StageRow):
                row = live.complete_stage(row)
            cells = row.cells()
            # Copied right away, so that trials that fail or are stopped early have them, too.
            live.row |= {name: cells[name] for name in _TRIAL_COLUMNS if isinstance(row, EpochRow) and name in cells}
            if isinstance(row, StageRow):
                live.stage_seconds[row.stage] += row.seconds  # type: ignore[assignment]
                live.saved_s += row.saved_s
                live.mixed.add(row.mixed_numerics)
            self.tally.add(trial_id, row)
            self._buffers[row.TABLE].append(cells | {name: live.row[name] for name in ("sweep", "trial", "attempt", "run")})
        self._flush_if_due()

    def _add_probe(self, live: _Live, row: ProbeRow) -> None:
        """Record a row of a probe; all rows of a probe at a moment are recorded at one time, however many reports they come in."""
        recorded_at = live.probed.setdefault((row.probe, row.moment), datetime.now(UTC))
        known = {name: live.row[name] for name in ("sweep", "trial", "attempt", "run")}
        self._buffers["probes"].append(row.cells() | known | {"recorded_at": recorded_at})

    def end(self, trial_id: str, result: Mapping[str, Any], *, starts_again: bool = False) -> Ended | None:
        """Record how a trial ended: COMPLETE with its scores, PRUNED or FAIL with its cause. None, and no row, if it never started.

        With `starts_again` only this attempt of it has ended, so that it does not count as ended.
        """
        seconds, live = self.seconds(trial_id), self._live.pop(trial_id, None)
        if live is None:
            return None
        row = live.row | dict(result) | {"sequence": 1, "ended_at": datetime.now(UTC)}
        live.stage_seconds["finetune"] += live.stage_before  # type: ignore[assignment]  # a trial pauses only there
        row |= {"seconds": seconds, "saved_s": live.saved_s, "mixed_numerics": live.mixed_numerics}
        row |= {f"seconds_{kind}": float(live.stage_seconds[kind]) for kind in _STAGE_KINDS}
        score, scores = score_of(row, self.metric), scores_of(row, self._reads)
        ended = Ended(shown_status(row), row["task"], score, scores, live.saved_s, row.get("reused_from"))
        before = self.ended.get(trial_id)
        self.tally.end(
            row,
            ended.status,
            score,
            was_paused=live.started is None,
            before=before.status if before is not None else None,
            starts_again=starts_again,
        )
        if starts_again:
            self._starts_again.add(trial_id)
        else:
            self.ended[trial_id] = ended
        self._buffers["trials"].append(row)
        self._flush_if_due()
        return ended

    def set_in_plan(self, rows: Iterable[Mapping[str, Any]], in_plan: bool) -> None:
        """Record that an edited space contains trials of earlier runs again, or no longer."""
        for row in rows:
            self._amend(row, {"in_plan": in_plan})
        self._flush_if_due()

    def plan_again(self, trial: PlannedTrial, row: Mapping[str, Any], arms: Collection[str]) -> None:
        """Record that the plan contains a trial that an earlier run finished, if its row does not say so, or says it otherwise.

        Args:
            trial: The trial as it is planned now.
            row: Its row.
            arms: Keys of all arms that contain it.
        """
        planned: dict[str, Any] = {"in_plan": True, "role": trial.role}
        if row.get("arm") not in (None, *arms):  # what is tuned, or what seeds set, has changed since
            planned |= {"arm": trial.arm, "candidate": trial.candidate, "variant": trial.variant or None}
        if {name: row.get(name) for name in planned} | {"role": row.get("role") or "trial"} != planned:
            self._amend(row, planned)
            self._flush_if_due()

    def _amend(self, row: Mapping[str, Any], cells: Mapping[str, Any]) -> None:
        self._buffers["trials"].append(dict(row) | dict(cells) | {"sequence": row["sequence"] + 1})

    def flush(self) -> None:
        """Write the buffered rows, and wait until that is done.

        First the rows of attempts that started, last of those that ended: so no row of a stage or epoch exists without its attempt, and a
        trial that is COMPLETE in the tables has all of its rows, wherever a crash falls.

        Raises:
            StoreError: If they cannot be written. The remaining rows stay buffered.
        """
        self.writer.finish()
        self._fill_batch()
        self._write_batch()

    def look(self) -> None:
        """Write buffered rows if it is time to, also while nothing else happens."""
        if any(self._buffers.values()) or self._batch:
            self._flush_if_due()

    def _flush_if_due(self) -> None:
        if self._is_writing or self._clock() - self._last_flush < FLUSH_EVERY_S:
            return
        self._fill_batch()
        self._is_writing = True
        if not self.writer.submit(self._try_to_write):
            self._is_writing = False

    def _fill_batch(self) -> None:
        """Move the buffered rows to the batch that is written next, after those that could not be written."""
        for table, rows in reversed(self._batch):
            self._buffers[table] = rows + self._buffers[table]
        buffers, self._buffers = self._buffers, {table: [] for table in self._buffers}
        started = [row for row in buffers["trials"] if row["status"] == "RUNNING"]
        ended = [row for row in buffers["trials"] if row["status"] != "RUNNING"]
        between = [(table, buffers[table]) for table in ("stages", "metrics", "probes")]
        self._batch = [("trials", started), *between, ("trials", ended)]
        self._last_flush = self._clock()
        self._filled, self.batch = self.batch, self.batch + 1

    def _try_to_write(self) -> None:
        try:
            self._write_batch()
            self.trouble = ""
        except StoreError as error:  # for example a full disk: the rows are kept and written with the next batch
            self.trouble = str(error)
        finally:
            self._is_writing = False

    def _write_batch(self) -> None:
        while self._batch:
            table, rows = self._batch[0]
            self.store.append(table, self.sweep, rows)
            del self._batch[0]
        self.batches = self._filled
        self._flushes += 1
        if self._flushes % COMPACT_EVERY == 0:
            self.store.compact(self.sweep)


def score_of(row: Mapping[str, Any], metric: str) -> float:
    """The value by which an ended trial is ranked; infinite if it failed."""
    value = row.get(metric) if row["status"] in ("COMPLETE", "PRUNED") else None
    return math.inf if value is None else float(value)


def scores_of(row: Mapping[str, Any], columns: Iterable[str]) -> dict[str, float]:
    """The values of an ended trial from which further trials are planned; infinite if it failed."""
    return {column: score_of(row, column) for column in columns}
