"""Findings: the questions of the papers in words, each with a verdict per task and overall, its numbers, and what would change it.

A sweep answers only what it varied. Every verdict is one of `compare` (`comparison.py`), or of a test named in the statement, so nothing
here decides anything by itself.

Reference:
    Shen et al. 2023, section 4; García-de-Herreros et al. 2024, figures 2 to 5.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from orca_core.errors import ConfigError, OrcaError
from sweeper.analysis.associations import final_distances
from sweeper.analysis.comparison import ALPHA, Comparison, compare_levels
from sweeper.analysis.effect import Effect
from sweeper.analysis.factors import Row, cell, spell_value, varying_columns
from sweeper.analysis.floors import Floors
from sweeper.analysis.paired import HELPS, HURTS, NO_DIFFERENCE, UNDECIDED
from sweeper.analysis.representatives import is_usable, represent_arms
from sweeper.analysis.sweep_rows import SweepRows, read_sweep_rows
from sweeper.results.query import Results
from sweeper.results.store import ResultStore

YES, NO, DEPENDS, UNFAIR = "yes", "no", "depends", "unfair"
"""Verdicts of findings beside those of `compare`: of questions about an association or a floor; where levels or tasks differ; and where no
fair comparison was possible."""


@dataclass(frozen=True)
class Statement:
    """What one task says about a question.

    Args:
        task: The task; None for all tasks together.
        verdict: The verdict.
        text: The numbers, as a sentence or two.
        numbers: The same as data.
    """

    task: str | None
    verdict: str
    text: str
    numbers: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Finding:
    """The answer to one question.

    Args:
        name: Its name.
        question: The question in words.
        verdict: The verdict over all tasks; `depends` or `undecided` if levels or tasks differ.
        by_level: Level -> its verdict over all tasks, for questions about the levels of a factor.
        statements: What each task says; the one over tasks last, if there is one.
        query: The command that shows the numbers behind it.
        would_change: What evidence would change the verdict.
        subject: What helps or hurts, for verdicts in words.
    """

    name: str
    question: str
    verdict: str
    statements: Sequence[Statement]
    query: str
    would_change: str
    by_level: Mapping[str, str] = field(default_factory=dict)
    subject: str = "it"

    def to_data(self) -> dict[str, Any]:
        """The finding as JSON data."""
        return {
            "name": self.name,
            "question": self.question,
            "verdict": self.verdict,
            "by_level": dict(self.by_level),
            "statements": [vars(statement) | {"numbers": list(statement.numbers)} for statement in self.statements],
            "query": self.query,
            "would_change": self.would_change,
        }


@dataclass(frozen=True)
class Evidence:
    """What findings are made from.

    Args:
        sweep: The planned trials of the sweep.
        distances: Trial -> distance of its embedder's features to the proxy's after alignment, where it is known.
        epoch_seconds: Trial -> mean seconds of an epoch of its fine-tuning, where they are known.
        floors: The floors that are known.
        dims: Task -> 1 or 2, where it is known.
        results: Folder or URI of the results, for the commands that findings name.
    """

    sweep: SweepRows
    distances: Mapping[str, float] = field(default_factory=dict)
    epoch_seconds: Mapping[str, float] = field(default_factory=dict)
    floors: Floors = field(default_factory=lambda: Floors(()))
    dims: Mapping[str, int] = field(default_factory=dict)
    results: str = "results"

    @cached_property
    def arms(self) -> list[Row]:
        """The rows by which arms are compared."""
        return represent_arms(self.sweep.rows, self.sweep.pair_by, self.sweep.objective)

    @cached_property
    def varied(self) -> list[str]:
        """Columns of the knobs in which trials of a task differ."""
        names = self.sweep.varied if self.sweep.varied is not None else {name for row in self.arms for name in row}
        return varying_columns(self.arms, [name for name in names if name not in self.sweep.pair_by])

    def levels(self, column: str, rows: Iterable[Row] | None = None) -> set[Any]:
        """The values of a knob in the complete trials."""
        return {cell(row, column) for row in (self.arms if rows is None else rows) if is_usable(row, "test_error")}

    def compare(
        self,
        factor: str,
        baseline: Any,
        *,
        where: str | None = None,
        alpha: float = ALPHA,
    ) -> Comparison | None:
        """`sweeper compare --where` on some of the trials; None if these do not vary the factor, or do not have the baseline."""
        try:
            return compare_levels(self.sweep.where(where), factor, baseline, alpha=alpha)
        except ConfigError:
            return None

    def kinds(self) -> dict[str, frozenset[Any]]:
        """The tasks by dimension: "on 1D tasks" -> tasks. Tasks of unknown dimension are "on other tasks"."""
        tasks = {row.get("task") for row in self.arms}
        groups: dict[str, set[Any]] = {}
        for task in sorted(tasks, key=str):
            dims = self.dims.get(str(task))
            groups.setdefault(f"on {dims}D tasks" if dims else "on other tasks", set()).add(task)
        return {kind: frozenset(of_kind) for kind, of_kind in groups.items()}


def read_evidence(results: ResultStore, name: str) -> Evidence:
    """What the tables have on a sweep.

    Raises:
        ConfigError: If the sweep is unknown.
    """
    sweep = read_sweep_rows(results, name, ["test_error"])
    return Evidence(
        sweep,
        final_distances(results, name),
        _epoch_seconds(results, name),
        Floors.read(results),
        find_dims({row.get("task") for row in sweep.rows}),
        results.uri,
    )


def answer(evidence: Evidence) -> list[Finding]:
    """The findings, one for each question that the trials vary something for."""
    from sweeper.analysis.questions import QUESTIONS

    return [finding for ask in QUESTIONS for finding in ask(evidence)]


def _epoch_seconds(results: ResultStore, name: str) -> dict[str, float]:
    rows = Results(results).sql(
        "select trial, avg(seconds) as seconds from metrics "
        f"where sweep = '{name.replace(chr(39), 2 * chr(39))}' and stage = 'finetune' and fold is null and seconds > 0 group by trial"
    )
    return {row["trial"]: row["seconds"] for row in rows.rows()}


def find_dims(tasks: Collection[Any]) -> dict[str, int]:
    """Task -> its dimension, where the task is known here: results may come from a machine with other data or plug-ins."""
    from orca_core.tasks import find_task

    found: dict[str, int] = {}
    for task in tasks:
        try:
            found[str(task)] = find_task(str(task)).dims
        except OrcaError:
            continue
    return found


def summarise(verdicts: Collection[str]) -> str:
    """One verdict for several: what they have in common, `depends` where some help and some hurt, `undecided` while any is open.

    Levels or tasks without a difference beside ones that help make the answer `depends`.
    """
    kinds = set(verdicts)
    if len(kinds) == 1:
        return kinds.pop()
    if not kinds or UNDECIDED in kinds or UNFAIR in kinds:
        decided = kinds - {UNDECIDED, UNFAIR, NO_DIFFERENCE}
        return DEPENDS if len(decided) > 1 else UNDECIDED
    return DEPENDS


def describe_effect(effect: Effect) -> str:
    """An effect as a phrase: level, verdict, difference with interval, seeds."""
    level = spell_level(effect.level)
    verdict = {None: "not a fair comparison", UNDECIDED: "undecided", NO_DIFFERENCE: "no difference"}.get(effect.verdict, effect.verdict)
    if effect.task is None:
        if effect.relative is None:
            return f"{level}: {verdict}"
        interval = "" if effect.low is None or effect.high is None else f" [{100 * effect.low:+.3g}, {100 * effect.high:+.3g}]"
        return f"{level}: {verdict} ({100 * effect.relative:+.3g} %{interval}, {effect.n} tasks)"
    if effect.difference is None:
        return f"{level}: {verdict}, no pairs"
    interval = "" if effect.low is None or effect.high is None else f" [{effect.low:+.3g}, {effect.high:+.3g}]"
    if effect.verdict == NO_DIFFERENCE and effect.margin:
        interval += f", within {effect.margin:.2g} by two one-sided tests"
    return f"{level}: {verdict} ({effect.difference:+.3g}{interval}, {effect.n} seed{'' if effect.n == 1 else 's'})"


def describe_interaction(effect: Effect) -> str:
    """Where an effect is another one than elsewhere, as a phrase; empty if it is the same in all contexts."""
    if (first := effect.interaction) is None:
        return ""
    where = ", ".join(f"{knob} {spell_value(value)}" for knob, value in first["where"].items())
    here, elsewhere = first["difference"], first["elsewhere"]
    return f"{spell_level(effect.level)} depends on the context: with {where} {here:+.3g}, elsewhere {elsewhere:+.3g}"


def levels_overall(effects: Sequence[Effect]) -> dict[str, str]:
    """Level -> one verdict for all tasks."""
    found: dict[str, list[str]] = {}
    for effect in effects:
        if effect.task is not None:
            found.setdefault(spell_level(effect.level), []).append(effect.verdict or UNFAIR)
    return {level: summarise(verdicts) for level, verdicts in found.items()}


def spell_level(level: Any) -> str:
    """A level as text; of a section its values."""
    if isinstance(level, Mapping):
        return ", ".join(f"{name} {spell_value(value)}" for name, value in level.items())
    return spell_value(tuple(level) if isinstance(level, list) else level)


def state_effects(comparison: Comparison) -> list[Statement]:
    """A statement for each task of a comparison, and one over tasks if it has one."""
    groups: dict[str | None, list[Effect]] = {}
    for effect in comparison.effects:
        groups.setdefault(effect.task, []).append(effect)
    return [
        Statement(
            task,
            summarise([effect.verdict or UNFAIR for effect in effects]),
            ". ".join(["; ".join(map(describe_effect, effects)), *dict.fromkeys(filter(None, map(describe_interaction, effects)))]),
            [effect.to_data() for effect in effects],
        )
        for task, effects in groups.items()
    ]


def overall(statements: Sequence[Statement]) -> str:
    """The verdict over all tasks: that of the statement over tasks unless it is undecided while the tasks agree."""
    tasks = summarise([statement.verdict for statement in statements if statement.task is not None])
    over = next((statement.verdict for statement in statements if statement.task is None), None)
    if over is None or over in (UNDECIDED, UNFAIR):
        return tasks
    return over if tasks in (over, UNDECIDED, NO_DIFFERENCE) else DEPENDS


def what_would_change(effects: Sequence[Effect]) -> str:
    """What evidence would change the verdicts of effects, from the seeds that they need and the margins that they have."""
    single = [effect for effect in effects if effect.task is not None]
    if not any(effect.n for effect in single):
        return "pairs of complete trials: there are none; `sweeper status` counts trials that failed or have not run."
    parts = []
    unfair = sorted({flag for effect in single if effect.verdict is None for flag in effect.flags})
    if unfair:
        parts.append(f"a fair comparison (now: {', '.join(unfair)})")
    undecided = [effect for effect in single if effect.verdict == UNDECIDED]
    needed = [effect.seeds_needed for effect in undecided if effect.seeds_needed is not None]
    if needed:
        few, many = min(needed), max(needed)
        parts.append(f"about {few if few == many else f'{few} to {many}'} seeds, if the open differences are as large as they seem")
    elif undecided:
        parts.append("more seeds; how many cannot be said from so few")
    if any(effect.verdict == NO_DIFFERENCE for effect in single):
        margins = [effect.margin for effect in single if effect.verdict == NO_DIFFERENCE and effect.margin]
        of = f" of more than {max(margins):.2g}" if margins else ""
        parts.append(f"a difference{of} where there is none now")
    if any(effect.verdict in (HELPS, HURTS) for effect in single):
        parts.append("further seeds, or other splits of the data, in which the difference goes away or turns round")
    return ("; ".join(parts) or "trials of both sides") + "."
