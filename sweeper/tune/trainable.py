"""The Tune trainable: runs the ORCA core step by step in a Ray worker."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import ray
from ray import tune

from orca_core.patience import Patience
from orca_core.rows import EpochRow, Row, StageRow, row_to_json
from sweeper.running.execution import execute_group, execute_message, release_device
from sweeper.running.job import GROUP
from sweeper.running.worker import report_text, worker_facts

REPORT_EVERY_S = 1.0
"""Least seconds for which rows are collected into one report."""


CLEANUP_S = 3.0
"""Seconds for which a trial that is ended waits for storage that is out of reach, to store its state."""


class TrialRunner(tune.Trainable):
    """Runs one trial after another in one process, so that bodies and data stay loaded; or one group of trials after another.

    Its config is `{"trial": JSON}`, one opaque string: Tune interprets dicts in configs, and even evaluates one with the single key
    `eval`. A step runs until there is something the driver should know, and reports the rows since the last one.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._begin(config["trial"])

    def _setup_logdir(self) -> None:
        """Make no folder, as Tune would for each trial: nothing is written to it."""

    def _begin(self, text: str) -> None:
        message = json.loads(text)  # not as a `TrialJob`: that is for `execute_message`, once it has compared the code
        self._members = set(message.get(GROUP, ()))
        if self._members:
            message = next(iter(message[GROUP].values()))
        if Path(message["folder"] or "/").is_dir():
            os.chdir(message["folder"] or ".")
        self._device, self._has_reported = message["device"], False
        self._has_trained, self._memory = False, dict[str, int]()
        self._rungs = frozenset(message["rungs"])
        self._kept = {(folder.partition("/")[0], epoch) for folder, epochs in message["keep_at"].items() for epoch in epochs}
        self._patience = Patience()
        self._steps = execute_group(text, self._patience) if self._members else None
        self._rows = self._execute(text)

    def _execute(self, message: str) -> Generator[Row, None, dict[str, Any]]:
        """The rows of the trial of a message and, at the end, how it ended."""
        return execute_message(message, self._patience, self._gpu_share() if self._device == "cuda" else None)

    def _gpu_share(self) -> float | None:
        """Which share of a GPU this process holds."""
        share: float | None = ray.get_runtime_context().get_assigned_resources().get("GPU")
        return share

    def train(self, report_every_s: float = REPORT_EVERY_S, message: str | None = None) -> dict[str, Any]:
        """Report rows of about so many seconds; fewer, if there is something that the driver should know at once.

        Args:
            report_every_s: How many seconds.
            message: What begins another trial in this process; None = the trial goes on.

        Returns:
            What `step` does, and where this process is. Not what Tune adds beside that: config, dates, sums of times.
        """
        if message is not None:
            self.cleanup()
            self._begin(message)
        self._report_every_s = report_every_s
        return self.step() | {"hostname": platform.node(), "pid": os.getpid()}

    def step(self) -> dict[str, Any]:
        """Report rows as JSON. `worker` is what is known of the process, by column: in the first report what computes the trial, in all of
        those of a trial on a GPU how much memory it has taken. The last report has `outcome`. Of a group rows are by trial, and each report
        has the `outcomes` of the trials that have come to their end."""
        report = self._next_rows() if self._steps is None else self._next_of_group(self._steps)
        worker = dict(self._memory)
        if not self._has_reported:  # after the trial's first rows, as it loads torch
            self._has_reported = True
            context = ray.get_runtime_context()
            labels = {name: str(value) for name, value in context.get_node_labels().items()}  # texts, though Ray declares lists
            facts = worker_facts(context.get_node_id(), labels)
            worker |= json.loads(report_text(facts, None if _has_other_code(report) else self._device))
        return report | ({"worker": json.dumps(worker)} if worker else {})

    def _next_rows(self) -> dict[str, Any]:
        started = time.monotonic()
        rows: list[Row] = []
        while True:
            try:
                row = next(self._rows)
            except StopIteration as stop:
                return {"rows": _rows_to_json(rows), "outcome": json.dumps(stop.value), "done": True}
            rows.append(row)
            if self._device == "cuda":
                self._measure(row)
            if isinstance(row, StageRow) and (row.stage != "finetune" or self._rungs):
                break  # other trials may wait for this stage; after a phase of fine-tuning the trial itself may have to pause
            if isinstance(row, EpochRow) and row.stage == "finetune" and row.epoch in self._rungs:
                break  # it may have to pause
            if self._is_waited_for(row):
                break
            if time.monotonic() - started >= self._report_every_s:
                break
        return {"rows": _rows_to_json(rows)}

    def _is_waited_for(self, row: Row) -> bool:
        """Whether a row tells of a state, stored just now, from which other trials go on."""
        return isinstance(row, EpochRow) and not row.is_reused and (row.stage, row.epoch) in self._kept

    def _next_of_group(self, steps: Generator[tuple[str, Row | dict[str, Any]], None, None]) -> dict[str, Any]:
        started = time.monotonic()
        rows: dict[str, list[Row]] = {}
        outcomes: dict[str, dict[str, Any]] = {}
        for trial, step in steps:
            if isinstance(step, dict):
                outcomes[trial] = step
                self._members.discard(trial)
                if not self._members:
                    break
            else:
                rows.setdefault(trial, []).append(step)
                if (isinstance(step, StageRow) and step.stage != "finetune" and not step.saved_s) or self._is_waited_for(step):
                    break  # other groups may wait for this stage
            if time.monotonic() - started >= self._report_every_s:
                break
        report: dict[str, Any] = {"rows": json.dumps({trial: [row_to_json(row) for row in of_trial] for trial, of_trial in rows.items()})}
        if outcomes:
            report["outcomes"] = json.dumps(outcomes)
        return report if self._members else report | {"done": True}

    def _measure(self, row: Row) -> None:
        """Note how much of its GPU the trial has taken, once it has computed an epoch of fine-tuning: what is reused takes no memory."""
        from orca_core.memory import reserved_bytes

        self._has_trained |= isinstance(row, EpochRow) and row.stage == "finetune" and not row.is_reused
        if self._has_trained:
            import torch

            peak, total = reserved_bytes(torch.device(self._device))
            self._memory = {"gpu_bytes": max(peak, self._memory.get("gpu_bytes", 0)), "gpu_total_bytes": total}

    def cleanup(self) -> None:
        self._patience.stop(after_s=CLEANUP_S)
        self._rows.close()
        if self._steps is not None:
            self._steps.close()
        release_device(self._device)


def _has_other_code(report: dict[str, Any]) -> bool:
    outcomes = [json.loads(report.get("outcome", "{}")), *json.loads(report.get("outcomes", "{}")).values()]
    return any(outcome.get("cause") == "other-code" for outcome in outcomes)


def _rows_to_json(rows: list[Row]) -> str:
    return json.dumps([row_to_json(row) for row in rows])
