"""What each setting does: the sweep's question, the findings, and shares of variance, as sections of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sweeper.analysis.answers import Finding, Statement, spell_level
from sweeper.analysis.factors import spell_value
from sweeper.analysis.paired import HELPS, HURTS, MAX_SEEDS, MAX_TASKS, NO_DIFFERENCE, UNDECIDED
from sweeper.analysis.skewness import SKEWED
from sweeper.show.findings import WORDS, describe_verdict
from sweeper.show.report.answers import in_words
from sweeper.show.report.content import Block, Cell, Listing, Paragraph, Section, Table, count_cell, number_cell, text_cell
from sweeper.show.report.ids import Ids
from sweeper.show.report.material import Material

EffectData = Mapping[str, Any]
"""The fields of an `Effect` as JSON data."""


TITLE = "What each setting does"


def effects_section(material: Material, ids: Ids) -> Section:
    """All effects that the sweep can tell."""
    parts = [
        *_of_question(material, ids),
        *(_of_finding(number, finding, ids) for number, finding in enumerate(material.findings, 1)),
        *_of_shares(material, ids),
    ]
    if parts:
        lead = (
            "Lower is better. A difference is that of a level to the baseline at equal other settings, paired by seed, with its 95 % "
            "interval; within the margin it counts as none. p-values are corrected for all verdicts of a question, so a contrast in two "
            "questions may have two."
        )
        return Section("effects", TITLE, [Paragraph(lead, "note")], parts)
    return Section("effects", TITLE, [Paragraph("Nothing can be said yet: no two complete trials differ in one setting.")])


def _of_question(material: Material, ids: Ids) -> Iterator[Section]:
    comparison = material.comparison
    if comparison is None:
        return
    baseline = comparison.factor.spell(comparison.baseline)
    title = f"The question: {comparison.factor.name} against {baseline}"
    caption = f"{in_words(comparison.metric).capitalize()} by {comparison.factor.name}, each level against {baseline}"
    effects = [effect.to_data() for effect in comparison.effects]
    yield Section("question", title, [*_effect_blocks("question-effects", caption, effects, ids)])


def _of_finding(number: int, finding: Finding, ids: Ids) -> Section:
    name = f"finding-{number}-{finding.name}"
    blocks: list[Block] = [Paragraph(describe_verdict(finding), "verdict")]
    effects = [effect for statement in finding.statements for effect in statement.numbers if "baseline" in effect]
    if effects:
        metric, factor, baseline = in_words(effects[0]["metric"]), effects[0]["factor"], spell_level(effects[0]["baseline"])
        blocks += _effect_blocks(f"{name}-effects", f"{metric.capitalize()} by {factor}, each level against {baseline}", effects, ids)
    else:
        rows = [_statement_row(finding, statement, ids) for statement in finding.statements]
        blocks.append(Table(f"{name}-statements", finding.question, ["task", "verdict", "numbers"], rows))
    blocks.append(Paragraph(f"It would change with {finding.would_change}", "note"))
    return Section(name, finding.question, [*blocks, Listing("The same in a terminal", finding.query)])


def _statement_row(finding: Finding, statement: Statement, ids: Ids) -> list[Cell]:
    verdict = Cell(WORDS.get(statement.verdict, statement.verdict), None, ids.finding(finding, statement))
    return [text_cell(statement.task or "over tasks"), verdict, text_cell(statement.text)]


def _effect_blocks(name: str, caption: str, effects: Sequence[EffectData], ids: Ids) -> Iterator[Block]:
    """A table of effects on single tasks, one of those over tasks, and what is to know about them."""
    single = [effect for effect in effects if effect["task"] is not None]
    overall = [effect for effect in effects if effect["task"] is None]
    if single:
        yield _table(name, caption, single, ids)
    if overall:
        yield _table_over_tasks(f"{name}-over-tasks", f"{caption}: relative differences over tasks", overall, ids)
    notes: dict[str, list[str]] = {}
    for effect in effects:
        for note in effect["notes"]:
            notes.setdefault(note, []).append(f"{effect['task'] or 'over tasks'}, {spell_level(effect['level'])}")
    for note, about in notes.items():
        yield from note_blocks(note, "" if len(about) == len(effects) else f"{'; '.join(about)}: ")


MAX_NOTE = 400
"""Length from which on a note that lists missing pairs is shown without the list, which is folded below it."""


def note_blocks(note: str, about: str = "") -> Iterator[Block]:
    """A note, with a long list in it folded."""
    head, paren, rest = note.partition(" (")
    if len(note) <= MAX_NOTE or not paren:
        yield Paragraph(f"{about}{note}", "note")
        return
    pairs = rest.removesuffix(".").removesuffix(")").split("; ")
    yield Paragraph(f"{about}{head}.", "note")
    yield Listing(f"The {len(pairs)} pairs", "\n".join(pairs), is_folded=True)


def shortened(note: str) -> str:
    """A note without the list in it, if it is long."""
    return note if len(note) <= MAX_NOTE else f"{note.partition(' (')[0]}."


def _within(effects: Sequence[EffectData]) -> list[str]:
    return sorted({knob for effect in effects for knob in effect["within"] or {}})


def _table(name: str, caption: str, effects: Sequence[EffectData], ids: Ids) -> Table:
    within = _within(effects)
    columns = [
        "task",
        *within,
        "level",
        "verdict",
        "error",
        "baseline's",
        "difference",
        "95 % interval",
        "relative",
        "margin",
        "p",
        "seeds",
    ]
    rows = [
        [
            text_cell(effect["task"]),
            *(text_cell(spell_value((effect["within"] or {}).get(knob))) for knob in within),
            _level_cell(effect["level"]),
            Cell(verdict_of(effect)),
            number_cell(effect["level_mean"]),
            number_cell(effect["baseline_mean"]),
            signed_cell(effect["difference"], ids.effect(effect)),
            interval_cell(effect["low"], effect["high"]),
            percent_cell(effect["relative"]),
            number_cell(effect["margin"], digits=2),
            p_cell(effect["p_adjusted"]),
            count_cell(effect["n"]),
        ]
        for effect in effects
    ]
    return Table(name, caption, columns, rows)


def _table_over_tasks(name: str, caption: str, effects: Sequence[EffectData], ids: Ids) -> Table:
    within = _within(effects)
    columns = [*within, "level", "verdict", "relative", "95 % interval", "of a new task", "lower on", "p", "tasks"]
    rows = [
        [
            *(text_cell(spell_value((effect["within"] or {}).get(knob))) for knob in within),
            _level_cell(effect["level"]),
            Cell(verdict_of(effect)),
            percent_cell(effect["relative"], ids.effect(effect)),
            percent_interval_cell(effect["low"], effect["high"]),
            percent_interval_cell(effect["prediction_low"], effect["prediction_high"]),
            count_cell(effect["tasks_lower"]),
            p_cell(effect["p_adjusted"]),
            count_cell(effect["n"]),
        ]
        for effect in effects
    ]
    return Table(name, caption, columns, rows)


def verdict_of(effect: EffectData) -> str:
    """The verdict of an effect in words."""
    verdict: str | None = effect["verdict"]
    doubt = "?" if SKEWED in effect["flags"] else ""
    if verdict is None:
        return "not given: unfair"
    if verdict != UNDECIDED:
        return {HELPS: "helps", HURTS: "hurts", NO_DIFFERENCE: "no difference"}.get(verdict, verdict) + doubt
    if effect["n"] == 0:
        return "undecided: no pairs"
    over_tasks = effect["task"] is None
    needed, unit, most = (effect["tasks_needed"], "tasks", MAX_TASKS) if over_tasks else (effect["seeds_needed"], "seeds", MAX_SEEDS)
    if needed is None and not effect["sd"]:
        return "undecided"
    return f"undecided: {needed if needed is not None else f'more than {most}'} {unit} would decide"


def _level_cell(level: Any) -> Cell:
    is_number = isinstance(level, int | float) and not isinstance(level, bool)
    return Cell(spell_level(level), level if is_number else None)


def signed_cell(value: float | None, number: str = "") -> Cell:
    """A difference with its sign; empty for None."""
    return Cell("") if value is None else Cell(_minus(f"{value:+.3g}"), value, number)


def percent_cell(value: float | None, number: str = "") -> Cell:
    """A relative difference; empty for None."""
    return Cell("") if value is None else Cell(_minus(f"{100 * value:+.1f} %"), value, number)


def interval_cell(low: float | None, high: float | None) -> Cell:
    """An interval of a difference; empty for None."""
    return Cell("") if low is None or high is None else Cell(_minus(f"{low:+.2g} to {high:+.2g}"), low)


def percent_interval_cell(low: float | None, high: float | None) -> Cell:
    """An interval of a relative difference; empty for None."""
    return Cell("") if low is None or high is None else Cell(_minus(f"{100 * low:+.0f} to {100 * high:+.0f} %"), low)


def p_cell(value: float | None) -> Cell:
    """A p-value; empty for None."""
    return Cell("") if value is None else Cell(f"{value:.2g}" if value >= LEAST_P else f"< {LEAST_P:g}", value)


LEAST_P = 0.0001
"""p below this are not told apart."""


def _minus(text: str) -> str:
    """A number with a minus sign that is as wide as a plus sign."""
    return text.replace("-", "−") if "e" not in text else text


def _of_shares(material: Material, ids: Ids) -> Iterator[Section]:
    shares = material.shares
    if not shares:
        return
    columns = ["task", "factor", "share", "95 % interval", "without chance", "method"]
    rows = [
        [
            text_cell(share.task),
            text_cell(" × ".join(share.factors)),
            Cell(f"{100 * share.share:.1f} %", share.share, ids.share(share)),
            Cell("") if share.low is None or share.high is None else Cell(f"{100 * share.low:.0f} to {100 * share.high:.0f} %", share.low),
            Cell("") if share.corrected is None else Cell(f"{100 * share.corrected:.1f} %", share.corrected),
            text_cell({"anova": "analysis of variance", "fanova": "functional ANOVA of tuned knobs"}.get(share.method, share.method)),
        ]
        for share in shares
    ]
    caption = "Shares of the variance of the test error over arms and seeds, by factor and pair of factors"
    text = "A share says how much a setting moved the error in this sweep, at the levels that it had there. It is no test."
    blocks: list[Block] = [Table("shares", caption, columns, rows), Paragraph(text, "note")]
    if not all(share.balanced for share in shares):
        blocks.append(Paragraph("Not every combination of levels has every seed, so shares need not add up to 100 %.", "note"))
    yield Section("importance", "Which settings moved the error", blocks)
