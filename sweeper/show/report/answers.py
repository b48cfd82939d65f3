"""The first screen of a report: the state of the sweep, its question and verdict, and whether any arm beats the floors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sweeper.analysis.answers import describe_effect, levels_overall, overall, state_effects
from sweeper.analysis.comparison import Comparison
from sweeper.analysis.effect import Effect
from sweeper.analysis.factors import spell_value
from sweeper.analysis.floors import Compared, describe_floors
from sweeper.results.views import INTERRUPTED
from sweeper.show.findings import describe_levels, headline
from sweeper.show.report.content import Answer
from sweeper.show.report.material import Material

METRICS = {
    "test_error": "test error",
    "valid_error": "validation error",
    "last_test_error": "test error of the last epoch",
    "last_valid_error": "validation error of the last epoch",
    "valid_loss": "validation loss",
    "train_loss": "training loss",
    "seconds": "time of a trial",
}
"""Metrics in words."""

_WORDS = {"PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "begun, but not ended", INTERRUPTED: "interrupted"}


def in_words(metric: str) -> str:
    """A metric in words."""
    return METRICS.get(metric, metric)


def is_finished(material: Material) -> bool:
    """Whether every planned trial is complete or was stopped early."""
    ended = material.counts.get("COMPLETE", 0) + material.counts.get("PRUNED", 0)
    planned = material.num_planned if material.num_planned is not None else len(material.rows)
    return 0 < planned <= ended


def describe_state(material: Material) -> str:
    """How far the sweep is, in a sentence or two; times are those of the tables."""
    complete, planned = material.counts.get("COMPLETE", 0), material.num_planned
    text = f"{complete} trials are complete" if planned is None else f"{complete} of {planned} planned trials are complete"
    others = [f"{count} {_WORDS[status]}" for status, count in material.counts.items() if status in _WORDS]
    if planned is not None and (waiting := planned - len(material.rows)) > 0:
        others.append(f"{waiting} not started")
    text = f"{', '.join([text, *others])}."
    if planned is None:
        text += " There is no plan of this sweep in the results, so nobody can tell whether trials are missing."
    elif not is_finished(material):
        has_ended = len(material.rows) >= planned and not material.counts.keys() & {"RUNNING", INTERRUPTED}
        text = f"Ended with failures: {text}" if has_ended else f"Not finished: {text} What follows is what the finished trials say so far."
    ends = [row["ended_at"] for row in material.rows if row["ended_at"] is not None]
    return f"{text} The last trial ended on {max(ends):%Y-%m-%d at %H:%M} UTC." if ends else text


def answers(material: Material) -> Iterator[Answer]:
    """The sweep's question, if it asks one, what the floors say about the best arm of each task, and the findings in a line each."""
    if question := material.plan.get("question"):
        yield _of_question(material.comparison, question)
    if (beside := _beside_floors(material)) is not None:
        yield beside
    if material.findings:
        details = [headline(finding) for finding in material.findings if finding.name != "floors"]
        yield Answer("What else does this sweep answer?", "", details)


def _of_question(comparison: Comparison | None, question: Mapping[str, object]) -> Answer:
    asked = f"What does {question['factor']} do to the {in_words(str(question['metric']))}, against {spell_value(question['baseline'])}?"
    if comparison is None:
        return Answer(asked, "Open: no two complete trials can be compared yet.")
    statements = state_effects(comparison)
    details = [f"{_where(effect)}: {effect.factor} {describe_effect(effect)}" for effect in comparison.effects if effect.n > 0]
    if waiting := len(comparison.effects) - len(details):
        details.append(f"{waiting} more {'contrast has' if waiting == 1 else 'contrasts have'} no pair of complete trials yet.")
    return Answer(asked, describe_levels(levels_overall(comparison.effects), overall(statements), statements), details)


def _where(effect: Effect) -> str:
    within = ", ".join(f"{knob} {spell_value(value)}" for knob, value in (effect.within or {}).items())
    return f"{effect.task or 'over tasks'}{f', with {within}' if within else ''}"


def _beside_floors(material: Material) -> Answer | None:
    """What the best arm of each task reaches, beside the best model without a transformer."""
    question = "Does the best arm beat the models that need no transformer?"
    if material.ranking is None:
        return None if material.plan.get("question") else Answer("Which arm is best?", "Open: no arm has all of its trials complete.")
    details, verdicts = [], []
    for task, arms in material.ranking.arms.items():
        compared = [Compared(arm.rows, arm.line["test_error"], arm.line["test_error_ci95"], arm.floor) for arm in arms]
        sentences = describe_floors(task, compared, material.workspace.uri)
        if compared[0].floor is None:
            best = f"{compared[0].test_error:.3g}" + ("" if compared[0].half is None else f" ± {compared[0].half:.2g}")
            sentences.insert(0, f"The best arm of {task} by {in_words(material.ranking.metric)} has a test error of {best}.")
        details.append(" ".join(sentences).replace(" +- ", " ± "))
        verdicts.append(_verdict(compared[0]))
    kinds = dict.fromkeys(verdicts)
    if len(kinds) == 1:
        return Answer(question, f"{verdicts[0].capitalize()}.", details)
    return Answer(question, "; ".join(f"{kind} on {_join(material, verdicts, kind)}" for kind in kinds).capitalize() + ".", details)


def _join(material: Material, verdicts: list[str], kind: str) -> str:
    assert material.ranking is not None
    return ", ".join(task for task, verdict in zip(material.ranking.arms, verdicts, strict=True) if verdict == kind)


def _verdict(best: Compared) -> str:
    if best.floor is None:
        return "unknown, as the floors were not computed"
    if best.test_error >= best.floor.to_beat - 1e-9:
        return "no"
    is_clear = best.half is not None and best.test_error + best.half < best.floor.to_beat
    return "yes" if is_clear else "undecided"
