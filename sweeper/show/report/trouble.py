"""What failed, and what speaks against a comparison."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sweeper.analysis.answers import spell_level
from sweeper.analysis.effect import Effect
from sweeper.analysis.machines import describe_differences
from sweeper.results.store import results_option
from sweeper.results.views import INTERRUPTED, shown_status
from sweeper.show.report.answers import in_words
from sweeper.show.report.content import Block, Listing, Paragraph, Section, Table, count_cell, text_cell
from sweeper.show.report.effects import shortened
from sweeper.show.report.material import Material, settings_of

MAX_TRACEBACKS = 5
"""How many tracebacks are shown: one for each of the most frequent causes."""


def failures_section(material: Material) -> Section:
    """Failed and interrupted trials by cause and message, the most frequent first, with a traceback for each."""
    by_cause: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in material.rows:
        if (status := shown_status(row)) in ("FAIL", INTERRUPTED):
            by_cause[status, row["cause"] or "unknown", row["error"] or ""].append(row)
    if not by_cause:
        return Section("failures", "What failed", [Paragraph("No trial failed.")])
    ordered = sorted(by_cause.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    rows = [
        [
            text_cell({"FAIL": "failed"}.get(status, status.lower())),
            text_cell(cause),
            count_cell(len(of_cause)),
            text_cell(error),
            text_cell("; ".join(f"{count} on {task}" for task, count in Counter(row["task"] for row in of_cause).items())),
            text_cell(of_cause[0]["trial"]),
            text_cell(settings_of(material, of_cause[0])),
        ]
        for (status, cause, error), of_cause in ordered
    ]
    total = sum(map(len, by_cause.values()))
    text = f"{total} of {len(material.rows)} trials that began did not end well. Arms that lack a seed for it are not ranked."
    blocks: list[Block] = [Paragraph(text, "warning")]
    blocks.append(Table("failures-by-cause", "Trials that failed or were interrupted, by cause", _COLUMNS, rows, is_for_papers=False))
    return Section("failures", "What failed", [*blocks, *_tracebacks(material, [of_cause[0] for _, of_cause in ordered])])


_COLUMNS = ["what", "cause", "trials", "message", "where", "for example", "its settings"]


def _tracebacks(material: Material, examples: Sequence[Mapping[str, Any]]) -> Iterator[Listing]:
    known = [row["trial"] for row in examples if row["trial"] in material.tracebacks]
    for trial in known[:MAX_TRACEBACKS]:
        yield Listing(f"Traceback of trial {trial}", material.tracebacks[trial].rstrip(), is_folded=True)
    if known:
        where = results_option(material.workspace.uri)
        yield Listing("All that is known about a trial", f"sweeper show {shlex.quote(str(known[0]))}{where}")


def fairness_section(material: Material) -> Section:
    """Whether arms were treated alike: selection, tuning, and the flags of all comparisons."""
    facts = [*_about_selection(material), *_about_tuning(material)]
    blocks: list[Block] = [Paragraph(fact) for fact in facts]
    flagged = [(effect, note) for effect in all_effects(material) for note in effect["notes"] if note.partition(":")[0] in effect["flags"]]
    rows = [
        [
            text_cell(effect["task"] or "over tasks"),
            text_cell(effect["factor"]),
            text_cell(f"{spell_level(effect['level'])} against {spell_level(effect['baseline'])}"),
            text_cell(note.partition(": ")[0]),
            text_cell(shortened(note).partition(": ")[2]),
            text_cell("has none" if effect["verdict"] is None else "stands"),
        ]
        for effect, note in flagged
    ]
    compared = sum(effect["task"] is not None for effect in all_effects(material))
    if rows:
        columns = ["task", "factor", "levels", "flag", "what was found", "the verdict"]
        blocks.append(Table("flags", "What speaks against a comparison", columns, rows, is_for_papers=False))
    elif compared:
        blocks.append(
            Paragraph(
                f"{compared} comparisons on single tasks were checked for unequal tuning, early stopping of one side, selection on test "
                "data, trials missing on one side and machines that go with the arm. Nothing was found."
            )
        )
    if machines := describe_differences(material.rows):
        blocks.append(Paragraph(f"{machines[0].upper()}{machines[1:]}", "warning"))
    return Section("fairness", "Were arms treated alike?", blocks)


def all_effects(material: Material) -> list[Mapping[str, Any]]:
    """The effects of the question and of all findings, each once."""
    found: dict[str, Mapping[str, Any]] = {}
    asked: Sequence[Effect] = material.comparison.effects if material.comparison is not None else ()
    of_findings = [number for finding in material.findings for statement in finding.statements for number in statement.numbers]
    for effect in [*(effect.to_data() for effect in asked), *(number for number in of_findings if "baseline" in number)]:
        key = str([effect[name] for name in ("task", "factor", "level", "baseline", "within", "metric", "n", "notes")])
        found.setdefault(key, effect)
    return list(found.values())


def _about_selection(material: Material) -> Iterator[str]:
    by = Counter(row["selection"] for row in material.complete if row["selection"])
    if set(by) == {"valid"}:
        on_test = material.validated_on_test
        yield f"Every trial chose its best epoch by validation error{'.' if on_test else '; test data chose nothing.'}"
        if on_test:
            yield f"On {', '.join(on_test)} the validation part is the test part, so test errors are too low there."
    elif set(by) == {"test"}:
        yield "Every trial chose its best epoch by test error, as the reference code does, so all errors here are too low."
    elif by:
        yield "Epochs were chosen by " + " and ".join(f"{kind} error in {count} trials" for kind, count in by.items()) + "."


def _about_tuning(material: Material) -> Iterator[str]:
    numbers = Counter(len(arm.candidates) for arm in material.arms.arms)
    if not numbers:
        return
    if set(numbers) <= {0, 1}:
        yield "Nothing was tuned within the arms: each has one setting of every knob."
    elif len(numbers) == 1:
        algorithm = (material.space.get("search") or {}).get("algorithm", "a search")
        budget = f"{next(iter(numbers))} candidates each ({algorithm})"
        yield f"Every arm was tuned with the same budget: {budget}, by {in_words(material.metric)}."
    else:
        budgets = ", ".join(f"{arms} with {count} candidates" for count, arms in sorted(numbers.items()))
        yield f"Arms were tuned with unequal budgets: {budgets}."
    stopped = sum(arm.count("PRUNED") for arm in material.arms.arms)
    if stopped:
        yield f"Early stopping ended {stopped} candidates; an arm is judged by its complete candidates alone."
