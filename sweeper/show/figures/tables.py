"""What a figure may read: the tables of one sweep, read once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orca_core.errors import ConfigError, Fault, OrcaError, nearest
from sweeper.analysis.answers import Evidence, read_evidence
from sweeper.analysis.factors import Row
from sweeper.analysis.floors import Floor
from sweeper.analysis.sweep_rows import SweepRows
from sweeper.results.query import Results
from sweeper.results.store import ResultStore
from sweeper.results.workspace import Workspace

EPOCH_METRICS = ("test_error", "valid_error", "valid_loss", "train_loss")
"""The metrics that rows of epochs have, too."""


class NotInTablesError(OrcaError):
    """The tables of a sweep do not have what a figure shows; the message says what is missing, as a clause."""


@dataclass(frozen=True)
class FigureTables:
    """The tables of one sweep.

    Args:
        evidence: The trials of the sweep, its plan, floors, distances after alignment, and dimensions of tasks.
        metric: The column that is shown as the error; lower is better.
        epochs: Rows of `metrics`: `trial`, `stage`, `fold`, `epoch`, and the columns of `EPOCH_METRICS`.
        stages: Rows of `stages`: `trial`, `attempt`, `run`, `stage`, `phase`, `fold`, `epochs`, `reused_epochs`, `seconds`, `saved_s`.
        attempts: The last row of every attempt at a trial: when and where it ran, and how it ended.
        label_distances: Rows of `metrics` with `label_distances`: `trial`, `epoch` and the matrix, of the first and the last epoch of each
            trial that have one.
        probes: Rows of `probes` with a layer and a number: `trial`, `probe`, `moment`, `layer`, `value`.
    """

    evidence: Evidence
    metric: str = "test_error"
    epochs: Sequence[Row] = ()
    stages: Sequence[Row] = ()
    attempts: Sequence[Row] = ()
    label_distances: Sequence[Row] = ()
    probes: Sequence[Row] = ()
    read: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What figures have read, by their names: listing them and drawing them takes one reading."""

    @property
    def sweep(self) -> SweepRows:
        """The planned trials and what the plan says."""
        return self.evidence.sweep

    @property
    def name(self) -> str:
        """Name of the sweep."""
        return self.sweep.name

    @property
    def tasks(self) -> list[str]:
        """The tasks of the sweep, by name."""
        return sorted({str(row.get("task")) for row in self.evidence.arms})

    def unit(self, task: str) -> str:
        """Label of the metric on a task, with its unit: `test error (1-accuracy)`, `seconds (s)`."""
        name = self.metric.replace("_", " ")
        if self.metric.startswith("seconds"):
            return f"{name} (s)"
        scores = {str(row["score"]) for row in self.sweep.rows if row.get("task") == task and row.get("score")}
        return f"{name} ({', '.join(sorted(scores))})" if scores and self.metric.endswith("error") else name

    def group(self, task: str) -> str:
        """`1D` or `2D`; empty if the task is not known here."""
        dims = self.evidence.dims.get(task)
        return f"{dims}D" if dims else ""

    def floor(self, rows: Sequence[Row]) -> tuple[str, float] | None:
        """Name and error of the best model without a transformer on the task and splits of some trials; None if it is not known.

        It has a test and a validation error; of other metrics there is none.
        """
        found: Floor | None = self.evidence.floors.of_trials(rows) if rows else None
        if found is None or not self.metric.endswith("_error"):
            return None
        return found.model, found.valid_error if "valid" in self.metric else found.test_error

    def curves(self) -> dict[str, dict[int, float]]:
        """Trial -> epoch of fine-tuning -> the metric after it; of a trial with folds the mean over these, if its final training has none.

        Raises:
            NotInTablesError: If epochs do not have the metric.
        """
        if self.metric not in EPOCH_METRICS:
            raise NotInTablesError(f"epochs have no {self.metric}, but {', '.join(EPOCH_METRICS)}")
        known: dict[tuple[str, int], dict[bool, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in self.epochs:
            if row["stage"] == "finetune" and row.get(self.metric) is not None:
                known[row["trial"], row["epoch"]][row.get("fold") is None].append(float(row[self.metric]))
        found: dict[str, dict[int, float]] = defaultdict(dict)
        for (trial, epoch), values in sorted(known.items()):
            used = values.get(True) or values[False]
            found[trial][epoch] = sum(used) / len(used)
        return found


def read_tables(results: ResultStore | Workspace, name: str, *, metric: str = "test_error", task: str | None = None) -> FigureTables:
    """Read what figures of a sweep may show.

    Args:
        results: The result tables.
        name: Name of the sweep.
        metric: The column that is shown as the error.
        task: Only this task; None = all.

    Raises:
        ConfigError: With all faults: if the sweep, the metric or the task is unknown.
        StoreError: If a file is damaged.
    """
    store = results.results if isinstance(results, Workspace) else results
    faults: list[Fault] = []
    try:
        evidence = read_evidence(store, name, ["seconds", metric])
    except ConfigError as error:
        evidence = read_evidence(store, name)  # raises if it is the sweep that is unknown
        faults += error.faults
    if task is not None:
        rows = [row for row in evidence.sweep.rows if row.get("task") == task]
        if not rows:
            known = sorted({str(row.get("task")) for row in evidence.sweep.rows})
            faults.append(Fault("--task", f"must be a task of {name}", task, nearest(task, known)))
        evidence = replace(evidence, sweep=replace(evidence.sweep, rows=rows))
    if faults:
        raise ConfigError(faults)
    read = {table: Results(store).sql(query).rows() for table, query in _queries(name, task).items()}
    return FigureTables(evidence, metric, read["epochs"], read["stages"], read["attempts"], read["label_distances"], read["probes"])


def _queries(name: str, task: str | None) -> dict[str, str]:
    """Table -> the query that reads it."""
    where = f"sweep = {_quote(name)}"
    if task is not None:
        where += f" and trial in (select trial from all_trials where {where} and task = {_quote(task)})"
    labels = f"from metrics where {where} and stage = 'align' and fold is null and label_distances is not null"
    return {
        "epochs": f"select trial, stage, fold, epoch, {', '.join(EPOCH_METRICS)} from metrics where {where} and stage = 'finetune'",
        "stages": f"select trial, attempt, run, stage, phase, fold, epochs, reused_epochs, seconds, saved_s from stages where {where}",
        "attempts": f"""
            select trial, task, attempt, run, status, cause, started_at, ended_at, host, pid, device, reused_from, seconds,
            params_trained from all_trials where {where}
            qualify row_number() over (partition by trial, attempt, run order by sequence desc) = 1
            order by started_at, trial, attempt""",
        "probes": f"""
            select trial, probe, moment, layer, value from probes where {where} and layer is not null and value is not null
            and coalesce(setting, 'relative') = 'relative' order by trial, probe, moment, layer""",
        "label_distances": f"""
            select trial, epoch, label_distances from (select trial, epoch, label_distances, min(epoch) over (partition by trial) as first,
            max(epoch) over (partition by trial) as last {labels}) where epoch in (first, last) order by trial, epoch""",
    }


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
