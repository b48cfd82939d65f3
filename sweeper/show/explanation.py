"""What `sweeper explain` prints: the gaps of a sweep by what contributes to them, and the causes that are named."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import yaml

from orca_core.errors import ConfigError, Fault
from sweeper.analysis.causes import Cause
from sweeper.analysis.comparison import ALPHA
from sweeper.analysis.explanation import Explanation, explain_sweep, explanation_to_table
from sweeper.analysis.gap_arms import Missing
from sweeper.analysis.margins import DEFAULT_MARGIN
from sweeper.analysis.missing_arms import complete_space
from sweeper.analysis.numbers import METRIC, term_numbers
from sweeper.analysis.paired import HELPS, HURTS, MAX_SEEDS, MAX_TASKS, NO_DIFFERENCE
from sweeper.analysis.sweep_rows import SweepRows, read_sweep_rows
from sweeper.analysis.terms import ALIGNMENT_QUESTION, PARTS_QUESTION, STATISTICS_QUESTION, Term
from sweeper.results.store import results_option
from sweeper.results.workspace import Workspace
from sweeper.show.tables import check_format, fill, render, terminal_width, text_table

if TYPE_CHECKING:
    import pyarrow as pa

OPTIONS = ("metric", "margin", "alpha")
"""The options of an explanation that have defaults."""

TITLES: Mapping[str, str] = {
    PARTS_QUESTION: "Pretrained against random, by parts of the body",
    STATISTICS_QUESTION: "Pretrained against random, by statistics and structure of the weights",
    ALIGNMENT_QUESTION: "Aligned against naive, link by link",
}
"""Questions as headings."""


def explain_one(
    workspace: Workspace, name: str, options: Mapping[str, Any], allow_unfair: bool = False, condition: str | None = None
) -> tuple[SweepRows, Explanation]:
    """The rows of a sweep and what explains its gaps.

    Args:
        workspace: Where the results are.
        name: Name of the sweep.
        options: Those of `OPTIONS` that are given; null ones have their defaults.
        allow_unfair: Whether arms that were not treated alike get verdicts.
        condition: A condition in SQL that the trials meet; None = all trials.

    Raises:
        ConfigError: With all faults; or if the sweep has no gap that can be explained.
        QueryError: If the condition is not valid.
    """
    metric = options.get("metric") or METRIC
    sweep = read_sweep_rows(workspace.results, name, [metric], condition)
    if condition is not None and not sweep.rows:
        raise ConfigError([Fault("--where", "must be met by a trial of the sweep", condition)])
    margin, alpha = options.get("margin"), options.get("alpha")
    return sweep, explain_sweep(
        sweep,
        metric=metric,
        margin=DEFAULT_MARGIN if margin is None else margin,
        alpha=ALPHA if alpha is None else alpha,
        allow_unfair=allow_unfair,
    )


def show_explanation(
    workspace: Workspace,
    name: str,
    options: Mapping[str, Any],
    format: str,
    allow_unfair: bool = False,
    condition: str | None = None,
) -> str:
    """An explanation as text for people (`table`), JSON, CSV, markdown or LaTeX.

    Raises:
        ConfigError: As `explain_one`; or if the format is unknown.
    """
    check_format(format)
    sweep, explanation = explain_one(workspace, name, options, allow_unfair, condition)
    if format == "table":
        return describe_explanation(explanation, name, workspace)
    has_ids = condition is None and explanation.metric in (METRIC, sweep.objective)
    ids = [number.id if has_ids and number is not None else None for number in term_numbers(sweep, explanation)]
    if format == "json":
        return json.dumps(_to_data(explanation, ids), indent=1) + "\n"
    table = explanation_to_table(explanation) if format == "csv" else _short_table(explanation)
    return render(table.append_column("number", [ids]), format)


def missing_space(workspace: Workspace, name: str, options: Mapping[str, Any], condition: str | None = None) -> str:
    """The sweep's search space with the arms that its explanation lacks, as YAML.

    Raises:
        ConfigError: As `explain_one`; if nothing is missing; or if the space cannot be extended.
    """
    _, explanation = explain_one(workspace, name, options, condition=condition)
    if not explanation.missing:
        raise ConfigError([Fault("--missing", "must be used with a sweep that lacks arms, but all of them are there", name)])
    plan = workspace.results.latest_plan(name) or {}
    space = complete_space(plan["space"], explanation.missing) if plan.get("space") else None
    if space is None:
        arms = "; ".join(", ".join(one.arms) for one in explanation.missing)
        rule = "must be used with a sweep whose space is a grid over the knobs, without variants"
        raise ConfigError([Fault("--missing", rule, name, f"Add these arms by hand: {arms}.")])
    return yaml.safe_dump({**space, "name": name}, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


def _to_data(explanation: Explanation, ids: Sequence[str | None]) -> dict[str, Any]:
    return {
        "terms": [term.to_data() | {"number": id} for term, id in zip(explanation.terms, ids, strict=True)],
        "causes": [asdict(cause) for cause in explanation.causes],
        "missing": [asdict(missing) for missing in explanation.missing],
    }


_SHORT = ("question", "task", "subject", "term", "value", "relative", "low", "high", "p_adjusted", "n", "verdict", "is_cause")
"""The columns of a table for print."""


def _short_table(explanation: Explanation) -> pa.Table:
    return explanation_to_table(explanation).select(list(_SHORT))


# ------------------------------------------------------------------------------------------------------------------------- for people


def describe_explanation(explanation: Explanation, name: str, workspace: Workspace) -> str:
    """An explanation as text that fits the terminal."""
    parts = [fill(f"{name}: what explains the gaps in {explanation.metric}. Negative is better.")]
    said = {(cause.question, cause.task, cause.subject): cause for cause in explanation.causes}
    groups: dict[tuple[str, str | None, str], list[Term]] = {}
    for term in explanation.terms:
        groups.setdefault((term.question, term.task, term.subject), []).append(term)
    told = ""
    for (question, task, subject), terms in groups.items():
        text = fill(f"{TITLES[question]}.") if question != told else ""
        told = question
        parts.append(text + _describe_gap(terms, said.get((question, task, subject))))
    parts += [_describe_missing(explanation.missing, name, workspace.uri)] if explanation.missing else []
    level = 100 * explanation.alpha
    parts.append(
        fill(
            f"An interval is Student's t over seeds, at 95 %. A cause is named if the gap is shown, and its term, in the same direction: "
            f"p at {level:g} %, corrected by Holm over all terms of a question. See docs/explain.md."
        )
    )
    return "\n".join(parts)


def _describe_gap(terms: Sequence[Term], cause: Cause | None) -> str:
    gap = next((term for term in terms if term.is_gap), terms[-1])
    is_over = gap.task is None
    head = f"{gap.task or 'over tasks'}: {gap.subject}"
    if gap.baseline_mean is not None:
        head += f"; the second has {gap.baseline_mean:.4g}, {gap.n} seed{'' if gap.n == 1 else 's'}"
    if gap.contexts > 1:
        head += f", averaged over {gap.contexts} contexts"
    columns: dict[str, Sequence[Any]] = {
        "part" if gap.question == PARTS_QUESTION else "link": [_name(term) for term in terms],
        "change": [_number(term.relative if is_over else term.value, is_over) for term in terms],
        "95 % interval": [_interval(term, is_over) for term in terms],
    }
    if any(term.first_in is not None or term.last_in is not None for term in terms):
        columns |= {"alone": [_number(term.first_in) for term in terms], "last": [_number(term.last_in) for term in terms]}
    columns |= {
        "p": ["-" if term.p_adjusted is None else "<0.0001" if term.p_adjusted < 1e-4 else f"{term.p_adjusted:.2g}" for term in terms],
        "verdict": list(map(_verdict, terms)),
    }
    width = terminal_width()
    if _widest(columns) > width:
        columns.pop("p")
    names = next(iter(columns.values()))
    room = width - _widest(columns) + max(map(len, names))
    # The names wrap between their words, unless a word would be broken: then the verdicts do.
    wrapped = 0 if room >= max(len(word) for name in names for word in name.split()) else -1
    text = fill(head) + text_table(list(columns), list(zip(*columns.values(), strict=True)), width, wrapped=wrapped)
    lines = [] if cause is None else [cause.sentence]
    lines += [*_about_interaction(terms), *dict.fromkeys(note for term in terms for note in term.notes)]
    return text + "".join(fill(f"  {line}", "    ") for line in lines)


def _widest(columns: Mapping[str, Sequence[Any]]) -> int:
    """Length of a line of a table, two spaces between its columns."""
    return sum(max(map(len, (name, *cells))) + 2 for name, cells in columns.items()) - 2


def _about_interaction(terms: Sequence[Term]) -> Iterator[str]:
    apart = [_name(term) for term in terms if term.p_interaction is not None and term.p_interaction <= ALPHA]
    if apart:
        yield f"What a part changes depends on the others: {', '.join(apart)} alone and last differ."


def _name(term: Term) -> str:
    if term.is_gap:
        return "the gap"
    return term.term.replace("+", " + ")


def _number(value: float | None, is_share: bool = False) -> str:
    return "-" if value is None else f"{100 * value:+.1f} %" if is_share else f"{value:+.3g}"


def _interval(term: Term, is_share: bool) -> str:
    if term.low is None or term.high is None:
        return "-"
    return f"{100 * term.low:+.0f} to {100 * term.high:+.0f} %" if is_share else f"{term.low:+.2g} to {term.high:+.2g}"


def _verdict(term: Term) -> str:
    if (term.relative if term.task is None else term.value) is None:
        return "arms are missing"
    if term.verdict is None:
        return "not given: unfair"
    if term.verdict in (HELPS, HURTS):
        return f"{term.verdict}{' *' if term.is_cause else ''}"
    if term.verdict == NO_DIFFERENCE:
        return "no difference"
    over_tasks = term.task is None
    needed, unit, most = (term.tasks_needed, "tasks", MAX_TASKS) if over_tasks else (term.seeds_needed, "seeds", MAX_SEEDS)
    if needed is None and not term.sd:
        return "undecided"
    return f"undecided: {needed if needed is not None else f'>{most}'} {unit}"


def _describe_missing(missing: Sequence[Missing], name: str, uri: str) -> str:
    tasks: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for one in missing:
        tasks.setdefault((one.why, one.arms), []).append(one.task)
    lines = [fill(f"{', '.join(of)}: {why} Missing: {'; '.join(arms)}.", "  ") for (why, arms), of in tasks.items()]
    file, here = shlex.quote(f"{name}-more.yaml"), results_option(uri)
    lines.append("A space with these arms, whose other trials are not run again:\n")
    lines.append(f"  sweeper explain {shlex.quote(name)}{here} --missing > {file}\n")
    lines.append(f"  sweeper run {file}{here}\n")
    return "".join(lines)
