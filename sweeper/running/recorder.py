"""From what trials report to rows in the results. Only the driver writes rows, in batches, as whole new files."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from orca_core.errors import StoreError
from sweeper.planning.trials import PlannedTrial
from sweeper.results.store import ResultStore
from sweeper.running.provenance import provenance

FLUSH_EVERY_S = 5.0
"""Seconds between batches of rows. A row that a killed driver had not written is in the stage's artifact, and reported again."""

COMPACT_EVERY = 200
"""Batches after which small files are merged, so that a long sweep stays quick to read."""

NOT_RETRIED = frozenset({"user-error", "not-finite", "config", "data"})
"""Causes of failure that running again would only repeat."""

_OF_THE_TRIAL = ("proxy_distance", "proxy_distance_unlabelled")
"""Columns of an epoch's row that are the whole trial's."""


@dataclass
class _Live:
    """A trial that runs: its row so far."""

    row: dict[str, Any]
    started: float = field(default_factory=time.monotonic)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    saved_s: float = 0.0
    epochs: int = 0


class Recorder:
    """Writes the rows of one sweep and keeps count.

    Args:
        store: Where rows go.
        sweep: Name of the sweep.
        metric: What trials are ranked by.
    """

    def __init__(self, store: ResultStore, sweep: str, metric: str) -> None:
        self.store, self.sweep, self.metric = store, sweep, metric
        self._live: dict[str, _Live] = {}
        self._buffers: dict[str, list[dict[str, Any]]] = {"trials": [], "metrics": [], "stages": []}
        self._last_flush = time.monotonic()
        self._flushes = 0
        self.trouble = ""
        self.ended: dict[str, dict[str, Any]] = {}
        self.on_change: Callable[[], None] = lambda: None

    @cached_property
    def _attempts(self) -> dict[str, int]:
        """Trial -> its last attempt, read when the first trial starts: a finished sweep starts none."""
        return self.store.attempts(self.sweep)

    @property
    def batches(self) -> int:
        """Batches of rows that were written whole."""
        return self._flushes

    @property
    def running(self) -> int:
        """Trials that run now."""
        return len(self._live)

    def start(self, trial: PlannedTrial, *, device: str, host: str | None = None, pid: int | None = None) -> None:
        """A trial begins, or begins again after its machine was lost."""
        attempt = self._attempts.get(trial.id, 0) + 1
        self._attempts[trial.id] = attempt
        row = {
            "sweep": self.sweep,
            "trial": trial.id,
            "attempt": attempt,
            "sequence": 0,
            "status": "RUNNING",
            "in_plan": True,
            "arm": trial.arm,
            "candidate": trial.candidate,
            "variant": trial.variant or None,
            "result_key": trial.result_key,
            "score": trial.config.task_spec.score,
            "started_at": datetime.now(UTC),
            "host": host or socket.gethostname(),
            "pid": pid or os.getpid(),
            "device": device,
            "config_hash": trial.id,
        }
        row |= config_cells(trial) | provenance()
        self._live[trial.id] = _Live(row)
        self._buffers["trials"].append(dict(row))
        self._changed()

    def seconds(self, trial_id: str) -> float:
        """Seconds that a trial has been running; 0 if it is not."""
        live = self._live.get(trial_id)
        return time.monotonic() - live.started if live else 0.0

    def locate(self, trial_id: str, host: str | None, pid: int | None) -> None:
        """Say where a running trial runs, once that is known."""
        if live := self._live.get(trial_id):
            live.row |= {"host": host or live.row["host"], "pid": pid or live.row["pid"]}

    def add_rows(self, trial_id: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rows that a running trial reported."""
        live = self._live[trial_id]
        for row in rows:
            cells = {key: value for key, value in row.items() if key != "table"}
            cells |= {"sweep": self.sweep, "trial": trial_id, "attempt": live.row["attempt"]}
            self._buffers[row["table"]].append(cells)
            # Told at once, so that trials that are stopped early or fail have them too.
            live.row |= {name: row[name] for name in _OF_THE_TRIAL if row.get(name) is not None}
            if row["table"] == "stages":
                live.stage_seconds[row["stage"]] = live.stage_seconds.get(row["stage"], 0.0) + row["seconds"]
                live.saved_s += row["saved_s"]
        self._changed()

    def end(self, trial_id: str, outcome: Mapping[str, Any]) -> None:
        """A trial ended: COMPLETE with its scores, PRUNED or FAIL with its cause. One that never began leaves no row."""
        live = self._live.pop(trial_id, None)
        if live is None:
            return
        row = live.row | dict(outcome) | {"sequence": 1, "ended_at": datetime.now(UTC)}
        row |= {"seconds": time.monotonic() - live.started, "saved_s": live.saved_s}
        row |= {f"seconds_{kind}": live.stage_seconds.get(kind, 0.0) for kind in ("pretrain", "source", "align", "finetune")}
        self.ended[trial_id] = row
        self._buffers["trials"].append(row)
        self._changed()

    def set_in_plan(self, rows: Iterable[Mapping[str, Any]], in_plan: bool) -> None:
        """Rewrite trials of earlier runs that an edited space drops, or takes up again."""
        for row in rows:
            self._buffers["trials"].append(dict(row) | {"in_plan": in_plan, "sequence": row["sequence"] + 1})
        self._changed()

    def flush(self) -> None:
        """Write what is buffered: attempts that began first, so that none of their rows stands without one, and the ended last.

        Raises:
            StoreError: If it cannot be written; what is left stays buffered.
        """
        buffers, self._buffers = self._buffers, {table: [] for table in self._buffers}
        began = [row for row in buffers["trials"] if row["status"] == "RUNNING"]
        ended = [row for row in buffers["trials"] if row["status"] != "RUNNING"]
        batches = [("trials", began), ("stages", buffers["stages"]), ("metrics", buffers["metrics"]), ("trials", ended)]
        self._last_flush = time.monotonic()
        while batches:
            table, rows = batches[0]
            try:
                self.store.append(table, self.sweep, rows)
            except StoreError:
                for left, kept in reversed(batches):
                    self._buffers[left] = kept + self._buffers[left]
                raise
            del batches[0]
        self._flushes += 1
        if self._flushes % COMPACT_EVERY == 0:
            self.store.compact(self.sweep)

    def _changed(self) -> None:
        if time.monotonic() - self._last_flush >= FLUSH_EVERY_S:
            try:
                self.flush()
                self.trouble = ""
            except StoreError as error:  # a full disk, say: the rows are held, and written with the next batch
                self.trouble = str(error)
        self.on_change()


def config_cells(trial: PlannedTrial) -> dict[str, Any]:
    """The canonical config as cells of a row: dots become underscores, tuples lists."""
    return {path.replace(".", "_"): list(value) if isinstance(value, tuple) else value for path, value in trial.knobs().items()}


def score_of(row: Mapping[str, Any], metric: str) -> float:
    """What an ended trial is ranked by: infinite where it failed."""
    value = row.get(metric) if row["status"] in ("COMPLETE", "PRUNED") else None
    return math.inf if value is None else float(value)
