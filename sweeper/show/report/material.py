"""What a report is made from: all that the tables have on one sweep, each read once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from orca_core.errors import ConfigError
from orca_core.floors.rows import FloorCase
from sweeper.analysis.answers import Evidence, Finding, answer, spell_level
from sweeper.analysis.arms import Ranking, rank_arms
from sweeper.analysis.beside_floors import add_floors
from sweeper.analysis.candidates import Sweep, read_arms
from sweeper.analysis.comparison import Comparison
from sweeper.analysis.explanation import Explanation, explain_sweep
from sweeper.analysis.factors import KNOB_OF, Row, cell, spell_value
from sweeper.analysis.floors import Floors
from sweeper.analysis.machines import COLUMNS as MACHINE_COLUMNS
from sweeper.analysis.number import Number
from sweeper.analysis.numbers import (
    compare_rows,
    default_comparisons,
    effect_numbers,
    finding_numbers,
    floor_numbers,
    score_numbers,
    share_numbers,
    term_numbers,
)
from sweeper.analysis.variance_shares import Share
from sweeper.results.views import STATUSES, shown_status
from sweeper.results.workspace import Workspace
from sweeper.show.comparison import compare_sweep
from sweeper.show.figures.importance import read_shares
from sweeper.show.figures.tables import FigureTables, NotInTablesError, read_tables

_COLUMNS = (
    *("trial", "task", "arm", "candidate", "variant", "role", "seed", "in_plan", "status", "cause", "error", "reused_from"),
    *("test_error", "valid_error", "best_epoch", "test_samples", "valid_samples", "score", "params_total"),
    *("seconds", "saved_s", "started_at", "ended_at"),
    *("host", "instance_type", "device", "python_version", "code_version", "code_commit", "ray_version", *MACHINE_COLUMNS),
)
"""Columns of `trials` that are read beside the knobs: all columns of a large sweep take gigabytes."""

_STAGES = """
    select stage, coalesce(device, 'cpu') as device, reused_from is not null as is_taken, count(*) as uses,
        count(*) filter (stages.seconds > 0) as computed, sum(stages.seconds) as seconds, sum(stages.saved_s) as saved_s
    from stages join trial_status using (sweep, trial) where sweep = {name} and in_plan
    group by all order by all
"""


class Material:
    """What the tables have on a sweep. Everything is read at its first use, and kept.

    Args:
        workspace: Where the results are.
        name: Name of the sweep.

    Raises:
        ConfigError: If the sweep is unknown.
    """

    def __init__(self, workspace: Workspace, name: str) -> None:
        workspace.results.check_sweep(name)
        self.workspace, self.name = workspace, name

    @cached_property
    def plan(self) -> Mapping[str, Any]:
        """The note of the latest plan; empty if there is none."""
        return self.workspace.results.latest_plan(self.name) or {}

    @cached_property
    def space(self) -> Mapping[str, Any]:
        """The search space as it was given; empty without a plan."""
        return self.plan.get("space") or {}

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The current rows of the planned trials that have begun, by task, arm, candidate and seed."""
        read = dict.fromkeys([*_COLUMNS, *KNOB_OF, self.metric])
        rows = [row for row in self.workspace.results.live_trials(self.name, read) if row["in_plan"] is not False]
        return sorted(rows, key=lambda row: (str(row["task"] or ""), str(row["arm"] or ""), row["candidate"] or 0, row["seed"] or 0))

    @property
    def metric(self) -> str:
        """The metric by which arms are ranked."""
        return str(self.plan.get("metric") or "valid_error")

    @cached_property
    def complete(self) -> list[dict[str, Any]]:
        """The rows of the trials that are complete."""
        return [row for row in self.rows if row["status"] == "COMPLETE"]

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """Status -> number of trials, as they are shown."""
        shown = Counter(shown_status(row) for row in self.rows)
        return {status: shown[status] for status in STATUSES if shown[status]}

    @cached_property
    def num_planned(self) -> int | None:
        """Number of planned trials, with those that are still to be proposed; None without a plan."""
        return len(self.plan["trials"]) + self.plan.get("proposed_later", 0) if self.plan else None

    @cached_property
    def tasks(self) -> list[str]:
        """The tasks, by name."""
        planned = {cells["task"] for cells in self.plan.get("trials", {}).values() if "task" in cells}
        common = self.plan.get("common", {}).get("task")
        return sorted({str(row["task"]) for row in self.rows if row["task"]} | planned | ({common} if common else set()))

    @cached_property
    def varied(self) -> list[str]:
        """Columns of the knobs that the sweep varies, without task and seeds. Without a plan: those in which trials of a task differ."""
        pair_by = self.evidence.sweep.pair_by
        if self.plan:
            return [column for column in self.plan["varied"] if column != "task" and column not in pair_by]
        return [column for column in self.evidence.varied if column != "task"]

    def constant(self, column: str) -> Any:
        """The value that a knob has in all trials that read it; None if it varies, or nothing reads it."""
        values = {cell(row, column) for row in self.rows} - {None}
        return values.pop() if len(values) == 1 else None

    @cached_property
    def figure_tables(self) -> FigureTables:
        """What figures are read from, with the evidence of the findings."""
        return read_tables(self.workspace, self.name)

    @property
    def evidence(self) -> Evidence:
        """What findings are made from."""
        return self.figure_tables.evidence

    @cached_property
    def findings(self) -> list[Finding]:
        """The questions of the papers that the sweep can answer."""
        return answer(self.evidence)

    @cached_property
    def arms(self) -> Sweep:
        """All arms."""
        return read_arms(self.workspace.results, self.name)

    @cached_property
    def ranking(self) -> Ranking | None:
        """The arms of each task, the best first; None if none is complete."""
        if not any(row[self.metric] is not None for row in self.complete):
            return None
        try:
            return rank_arms(self.workspace.results, self.name)
        except ConfigError:
            return None

    @cached_property
    def comparison(self) -> Comparison | None:
        """The sweep's question, answered; None if it asks none, or has no pair of arms yet."""
        if not self.plan.get("question"):
            return None
        try:
            found = compare_sweep(self.workspace, self.name, {})
        except ConfigError:
            return None
        return Comparison(**vars(found) | {"effects": add_floors(found, Floors(self.floors))})

    @cached_property
    def shares(self) -> list[Share]:
        """Shares of variance by factor; none where nothing can be said yet."""
        try:
            return list(read_shares(self.figure_tables))
        except NotInTablesError:
            return []

    @cached_property
    def explanation(self) -> Explanation | None:
        """What explains the gaps; None if the sweep has none yet."""
        try:
            return explain_sweep(self.evidence.sweep)
        except ConfigError:
            return None

    @cached_property
    def floors(self) -> list[dict[str, Any]]:
        """The rows of floors on the tasks and splits of the trials."""
        cases = {FloorCase.of_row(row) for row in self.rows if row["task"]}
        return [row for row in self.workspace.results.floors() if FloorCase.of_row(row) in cases]

    def _effects_of_findings(self) -> Iterator[Mapping[str, Any]]:
        numbers = (number for finding in self.findings for statement in finding.statements for number in statement.numbers)
        return (number for number in numbers if "baseline" in number)

    def numbers(self) -> Iterator[Number]:
        """The numbers of the sweep that `sweeper why` explains, as `numbers_of` has them, from what was read here already."""
        floors, sweep = Floors(self.floors), self.evidence.sweep
        yield from floor_numbers(floors, {FloorCase.of_row(row) for row in self.floors})
        if self.ranking is None:
            return
        yield from score_numbers(self.ranking)
        told = ((effect["factor"], effect["baseline"]) for effect in self._effects_of_findings())
        asked = {(factor, spell_level(baseline)): baseline for factor, baseline in (*default_comparisons(sweep), *told)}
        for (factor, _), baseline in asked.items():
            yield from filter(None, effect_numbers(self.name, compare_rows(sweep, factor, baseline)))
        yield from share_numbers(sweep, self.shares, "test_error")
        if self.explanation is not None:
            yield from filter(None, term_numbers(sweep, self.explanation))
        yield from finding_numbers(self.evidence, self.findings)

    @cached_property
    def validated_on_test(self) -> list[str]:
        """The tasks whose validation part is their test part, as floors say; by name."""
        return sorted({row["task"] for row in self.floors if row["selection"] == "test"})

    @cached_property
    def stages(self) -> list[dict[str, Any]]:
        """The stages of the planned trials by kind and device: how often they were used and computed, and what that took and saved."""
        return self.workspace.sql(_STAGES.format(name=quote_sql(self.name))).rows()

    @cached_property
    def tracebacks(self) -> Mapping[str, str]:
        """Trial -> traceback, of trials that failed."""
        sql = f"select trial, traceback from trial_status where sweep = {quote_sql(self.name)} and in_plan and traceback is not null"
        return {row["trial"]: row["traceback"] for row in self.workspace.sql(sql).rows()}


def quote_sql(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"


def settings_of(material: Material, cells: Row, *, without: Sequence[str] = ()) -> str:
    """The values of the knobs that a sweep varies, as text; those that nothing reads are left out."""
    given = {knob: cell(cells, knob) for knob in material.varied if knob not in without}
    return ", ".join(f"{KNOB_OF.get(knob, knob)} {spell_value(value)}" for knob, value in given.items() if value is not None)
