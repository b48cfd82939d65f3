"""The trials of a sweep as an analysis reads them: rows with the columns that matter, and what its plan says."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from orca_core.errors import ConfigError, Fault, nearest
from sweeper.analysis.factors import KNOB_OF, Row
from sweeper.analysis.machines import COLUMNS as MACHINE_COLUMNS
from sweeper.results.query import select_rows
from sweeper.results.records import schema
from sweeper.results.store import ResultStore
from sweeper.results.views import current_rows

PAIR_BY = ("seed",)
"""What seeds vary unless a plan says otherwise."""

OBJECTIVE = "valid_error"
"""The metric by which candidates are chosen unless a plan says otherwise."""

_ALWAYS = (
    *("trial", "result_key", "task", "arm", "candidate", "variant", "role", "in_plan", "status", "cause", "selection", "score"),
    *("test_error", "valid_error", "test_samples", "valid_samples", "proxy_distance", "device", "instance_type"),
    *("proxy_distance_unlabelled", "proxy_logme", "proxy_h_score"),
    *("split_seed", "train_samples", "reference_data", "valid_share", "validation_folds", "validation_fold"),
    *MACHINE_COLUMNS,
)
"""Columns that are read whatever is asked, those among them that say on which samples a floor must stand. All columns of a large sweep take
gigabytes."""


SCORES = ("test_error", "last_test_error", "valid_error", "last_valid_error", "valid_loss", "train_loss", "seconds")
"""The columns that are usually compared."""


@dataclass(frozen=True)
class SweepRows:
    """The planned trials of a sweep.

    Args:
        name: Name of the sweep; empty if it is unknown.
        rows: Their current rows; of trials that have not started, their config with the status null.
        varied: Columns of the knobs that the sweep varies; None if there is no plan.
        pair_by: Columns that its seeds vary.
        objective: Metric that its search minimises.
        lists_plan: Whether `rows` has every planned trial.
        scheduler: Its `scheduler`, as written.
        question: Its `question`; empty if it has none.
        looks: Numbers of seeds after which it looks whether the question is decided; empty if all arms have the same seeds.
    """

    name: str
    rows: Sequence[Row]
    varied: Sequence[str] | None = None
    pair_by: tuple[str, ...] = PAIR_BY
    objective: str = OBJECTIVE
    lists_plan: bool = False
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    question: Mapping[str, Any] = field(default_factory=dict)
    looks: Sequence[int] = ()

    def where(self, condition: str | None) -> SweepRows:
        """The trials that meet a condition in SQL; all of them if it is None.

        Raises:
            QueryError: If the condition is not valid.
        """
        return self if condition is None else replace(self, rows=select_rows(self.rows, condition))


def read_sweep_rows(results: ResultStore, name: str, metrics: Collection[str] = (), condition: str | None = None) -> SweepRows:
    """Read the planned trials of a sweep.

    Args:
        results: The result tables.
        name: Name of the sweep.
        metrics: Columns that are compared.
        condition: A condition in SQL that the trials meet; None = all trials.

    Raises:
        ConfigError: If the sweep is unknown, or one of the metrics is no column of numbers.
        QueryError: If the condition is not valid.
    """
    results.check_sweep(name)
    columns = schema("trials")
    numbers = [field.name for field in columns if pa.types.is_floating(field.type)]
    unknown = [metric for metric in metrics if metric not in numbers]
    if unknown:
        raise ConfigError(Fault("--metric", "must be a column of `trials` with numbers", name, nearest(name, SCORES)) for name in unknown)
    plan = results.latest_plan(name) or {}
    objective = plan.get("metric") or OBJECTIVE
    wanted = {*_ALWAYS, *KNOB_OF, *metrics, objective, "sweep", "attempt", "run", "sequence"}
    read = [field.name for field in columns if field.name in wanted]
    table = results.read(["trials"], lambda data: data["trials"].to_table(columns=read), name)
    if table["trial"].null_count < len(table):
        table = current_rows(table)
    pair_by = tuple(plan.get("vary") or PAIR_BY)
    varied = plan.get("varied") or None
    # Early in a sweep, the rows may have one level of a knob, and the plan the others; and a condition may name any knob.
    keep = {*pair_by, *(varied or ()), *(KNOB_OF if condition else ())}
    rows = [row for row in to_rows(table, keep) if row.get("in_plan") is not False]
    pending = _pending_rows(plan, rows)
    found = SweepRows(
        name=name,
        rows=[*rows, *pending] if pending is not None else rows,
        varied=varied,
        pair_by=pair_by,
        objective=objective,
        lists_plan=pending is not None,
        scheduler=_scheduler_of(plan),
        question=plan.get("question") or {},
        looks=plan.get("looks") or (),
    )
    return found.where(condition)


def infer_pair_by(trials: pa.Table) -> tuple[str, ...]:
    """What the seeds of some trials vary, where no plan says it: `seed`, and `split_seed` if there are several and each seed has one."""
    if not {"seed", "split_seed"} <= set(trials.column_names):
        return PAIR_BY
    splits: dict[Any, set[Any]] = {}
    for seed, split in zip(trials["seed"].to_pylist(), trials["split_seed"].to_pylist(), strict=True):
        splits.setdefault(seed, set()).add(split)
    redraws = all(len(of_seed) == 1 for of_seed in splits.values()) and len(set.union(*splits.values(), set())) > 1
    return (*PAIR_BY, "split_seed") if redraws else PAIR_BY


def to_rows(table: pa.Table, keep: Collection[str] = PAIR_BY) -> list[dict[str, Any]]:
    """A table of trials as rows, without the columns of knobs that are the same in all of them, but for those to keep."""
    constant = []
    for name in table.column_names:
        column = table[name]
        if name in KNOB_OF and name not in _ALWAYS and name not in keep:
            is_list = pa.types.is_list(column.type)
            values = len(set(map(str, column.to_pylist()))) if is_list else pc.count_distinct(column, mode="all").as_py()
            if values <= 1:
                constant.append(name)
    if "status" in table.column_names and table["status"].null_count == len(table):  # a table without the column, read by its schema
        constant.append("status")
    found: list[dict[str, Any]] = table.drop_columns(constant).to_pylist()
    return found


def _pending_rows(plan: Mapping[str, Any], rows: Sequence[Row]) -> list[dict[str, Any]] | None:
    """The planned trials that have no row, as rows with the status null; None if the plan does not list the trials that have one."""
    planned: Mapping[str, Mapping[str, Any]] = plan.get("trials") or {}
    started = {row["trial"] for row in rows}
    if not planned or (rows and not started & planned.keys()):
        return None
    common, roles = plan.get("common") or {}, plan.get("roles", {})  # plans of version 0.1 do not have them
    variants = {row.get("arm"): row.get("variant") for row in rows}
    pending = []
    for trial, cells in planned.items():
        if trial not in started:
            arm, candidate = plan.get("candidates", {}).get(trial, (None, 0))
            known = {"trial": trial, "arm": arm, "candidate": candidate, "variant": variants.get(arm), "role": roles.get(trial)}
            pending.append({**common, **cells, **known, "status": None})
    return pending


def _scheduler_of(plan: Mapping[str, Any]) -> Mapping[str, Any]:
    given = (plan.get("space") or {}).get("scheduler") or {}
    return {"name": given} if isinstance(given, str) else given
