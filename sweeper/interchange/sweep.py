"""A sweep as the exports read it: its ended trials, each with its epochs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sweeper.analysis.factors import KNOB_OF
from sweeper.results.workspace import Workspace
from sweeper.running.event_files import CURVES, numbers_of

Row = Mapping[str, Any]

ENDED = ("COMPLETE", "PRUNED", "FAIL")

SCORES = (
    *("best_epoch", "valid_error", "valid_loss", "train_loss", "test_error", "last_valid_error", "last_test_error"),
    *("majority_error", "proxy_distance", "proxy_distance_unlabelled", "proxy_logme", "proxy_h_score"),
    *("params_total", "seconds", "saved_s"),
)
"""Columns of a trial that other tools list as its results."""

FACTS = (
    *("sweep", "trial", "result_key", "arm", "candidate", "variant", "role", "status", "cause", "error", "score"),
    *("host", "device", "device_name", "code_version", "code_commit", "torch_version"),
)
"""Columns of a trial that say what it is and where it ran."""


@dataclass(frozen=True)
class EndedTrial:
    """A trial that has ended.

    Args:
        row: Its row.
        epochs: Its rows of `metrics`, in the order in which they were computed.
    """

    row: Row
    epochs: Sequence[Row]

    @property
    def knobs(self) -> dict[str, Any]:
        """The knobs that something in it reads, by path."""
        return {knob: self.row[column] for column, knob in KNOB_OF.items() if self.row[column] is not None}

    @property
    def facts(self) -> dict[str, Any]:
        """What it is and where it ran, by column, without what is null; `role` is never."""
        known = {name: self.row[name] for name in FACTS} | {"role": self.row["role"] or "trial"}
        return {name: value for name, value in known.items() if value is not None}

    @property
    def scores(self) -> dict[str, float]:
        """Its results, by column, without those that are null."""
        return {name: self.row[name] for name in SCORES if self.row[name] is not None}

    def curve(self, metric: str) -> dict[int, float]:
        """A metric of fine-tuning by epoch. With folds, of the final training, or else the mean over the folds."""
        tuned = [row for row in self.epochs if row["stage"] == "finetune" and row[metric] is not None]
        final = {row["epoch"]: row[metric] for row in tuned if row["fold"] is None}
        if final:
            return final
        folds: dict[int, list[float]] = defaultdict(list)
        for row in tuned:
            folds[row["epoch"]].append(row[metric])
        return {epoch: math.fsum(values) / len(values) for epoch, values in folds.items()}

    def points(self) -> list[tuple[str, int, float, float]]:
        """Every number of every epoch: its name, as `finetune/valid_error`, the epoch, the value, and when the epoch ended.

        Epochs have no time of their own: theirs is the trial's start and what the epochs before took, in seconds since 1970.
        """
        at, found = self.row["started_at"].timestamp(), []
        for row in self.epochs:
            at += row["seconds"] or 0.0
            found += [(name, row["epoch"], value, at) for name, value in numbers_of(row)]
        return found


@dataclass(frozen=True)
class ExportedSweep:
    """A sweep.

    Args:
        name: Its name.
        workspace: Where its results are.
        plan: The note about its latest plan; empty if there is none.
        trials: Its planned trials that have ended, by start.
        open: Number of planned trials with a row that have not ended.
    """

    name: str
    workspace: Workspace
    plan: Mapping[str, Any]
    trials: Sequence[EndedTrial]
    open: int

    @property
    def metrics(self) -> list[str]:
        """What its search minimises."""
        return self.plan.get("metrics") or [self.plan.get("metric") or "valid_error"]

    @cached_property
    def tasks(self) -> dict[str, list[EndedTrial]]:
        """Task -> its trials."""
        found: dict[str, list[EndedTrial]] = {}
        for trial in self.trials:
            found.setdefault(trial.row["task"], []).append(trial)
        return dict(sorted(found.items()))

    @cached_property
    def varied(self) -> list[str]:
        """Columns of the knobs that tell its arms and candidates apart; neither the task nor what seeds set."""
        given = self.plan.get("varied")
        if given is None:
            given = [column for column in KNOB_OF if len({str(trial.row[column]) for trial in self.trials}) > 1]
        return [column for column in given if column in KNOB_OF and column != "task" and column not in self.repeated]

    @property
    def repeated(self) -> list[str]:
        """Columns of the knobs that seeds set."""
        return self.plan.get("vary") or ["seed"]


def read_sweep(workspace: Workspace, name: str) -> ExportedSweep:
    """Read a sweep whose name is known.

    Raises:
        StoreError: If a file is damaged.
    """
    quoted = name.replace("'", "''")
    rows = workspace.sql(f"select * from trial_status where sweep = '{quoted}' and in_plan order by started_at, trial").rows()
    epochs: dict[str, list[Row]] = defaultdict(list)
    order = "trial, list_position(['pretrain', 'align', 'adapt', 'finetune'], stage), fold nulls last, epoch"
    columns = ", ".join(("trial", "stage", "fold", "epoch", "seconds", *CURVES))
    for row in workspace.sql(f"select {columns} from metrics where sweep = '{quoted}' order by {order}").rows():
        epochs[row["trial"]].append(row)
    ended = [EndedTrial(row, epochs[row["trial"]]) for row in rows if row["status"] in ENDED]
    return ExportedSweep(name, workspace, workspace.results.latest_plan(name) or {}, ended, len(rows) - len(ended))
