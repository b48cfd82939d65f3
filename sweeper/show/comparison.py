"""What `sweeper compare` and `sweeper importance` print: tables for people, the same as data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orca_core.errors import ConfigError, Fault
from sweeper.analysis.associations import Trend, find_trends
from sweeper.analysis.beside_floors import add_floors, arms_beside_floors
from sweeper.analysis.comparison import ALPHA, Comparison, compare_levels
from sweeper.analysis.description import interquartile_means, rank_levels
from sweeper.analysis.effect import Effect, to_table
from sweeper.analysis.factors import KNOB_OF, spell_value
from sweeper.analysis.floors import Floors, describe_floors
from sweeper.analysis.margins import DEFAULT_MARGIN
from sweeper.analysis.numbers import effect_numbers, share_numbers
from sweeper.analysis.paired import HELPS, HURTS, MAX_SEEDS, MAX_TASKS, NO_DIFFERENCE
from sweeper.analysis.representatives import tuned_columns
from sweeper.analysis.sweep_rows import SweepRows, read_sweep_rows
from sweeper.analysis.variance_shares import MIN_CANDIDATES, Share, shares_of_variance, shares_to_table
from sweeper.results.workspace import Workspace
from sweeper.show.tables import check_format, fill, render, terminal_width, text_table

if TYPE_CHECKING:
    import pyarrow as pa

OPTIONS = ("factor", "baseline", "by", "within", "metric", "margin", "alpha")
"""The options of a comparison that a sweep's `question` may answer."""


def compare_sweep(
    workspace: Workspace, name: str, options: Mapping[str, Any], allow_unfair: bool = False, condition: str | None = None
) -> Comparison:
    """Compare the levels of a factor in a sweep.

    Args:
        workspace: Where the results are.
        name: Name of the sweep.
        options: Those of `OPTIONS` that are given; others come from the sweep's `question`, or have their defaults.
        allow_unfair: Whether comparisons that are not fair get a verdict.
        condition: A condition in SQL that the trials meet; None = all trials.

    Raises:
        ConfigError: With all faults.
        QueryError: If the condition is not valid.
    """
    sweep = read_sweep_rows(workspace.results, name, [options.get("metric") or "test_error"], condition)
    if condition is not None and not sweep.rows:
        raise ConfigError([Fault("--where", "must be met by a trial of the sweep", condition)])
    return compare_as_asked(sweep, options, allow_unfair, is_part=condition is not None)


def compare_as_asked(sweep: SweepRows, options: Mapping[str, Any], allow_unfair: bool = False, is_part: bool = False) -> Comparison:
    """Compare the levels of a factor in rows that have been read, of a part of the trials or of all; see `compare_sweep`."""
    given = {key: value for key, value in options.items() if value is not None}
    is_its_question = given.get("factor", sweep.question.get("factor")) == sweep.question.get("factor")
    asked = {key: value for key, value in sweep.question.items() if key in OPTIONS and is_its_question} | given
    if missing := [option for option in ("factor", "baseline") if option not in asked]:
        rule = "must be given: no question of the search space says it"
        raise ConfigError(Fault(f"--{option}", rule, Fault.ABSENT) for option in missing)
    asked = {key: value for key, value in asked.items() if value is not None or key in ("factor", "baseline")}
    return compare_levels(
        sweep,
        asked["factor"],
        asked["baseline"],
        by=asked.get("by", "task"),
        within=asked.get("within"),
        metric=asked.get("metric", "test_error"),
        margin=asked.get("margin", DEFAULT_MARGIN),
        alpha=asked.get("alpha", ALPHA),
        allow_unfair=allow_unfair,
        looks=sweep.looks if not is_part and _is_question(given, sweep.question) else (),
    )


def _is_question(given: Mapping[str, Any], question: Mapping[str, Any]) -> bool:
    """Whether the options that are given, by their spelling, are those of the sweep's question."""
    return all(spell_value(question.get(key)) == spell_value(value) for key, value in given.items())


def show_comparison(
    workspace: Workspace,
    name: str,
    options: Mapping[str, Any],
    format: str,
    allow_unfair: bool = False,
    condition: str | None = None,
) -> str:
    """A comparison as text for people (`table`), JSON, CSV, markdown or LaTeX.

    Raises:
        ConfigError: As `compare_sweep`; or if the format is unknown.
    """
    check_format(format)
    comparison = compare_sweep(workspace, name, options, allow_unfair, condition)
    floors = Floors.read(workspace.results)
    comparison = replace(comparison, effects=add_floors(comparison, floors))
    if format == "table":
        return describe_comparison(comparison, name, floors, workspace.uri)
    ids = [None if number is None else number.id for number in effect_numbers(name, comparison)]
    if format == "json":
        return json.dumps([effect.to_data() | {"number": id} for effect, id in zip(comparison.effects, ids, strict=True)], indent=1) + "\n"
    table = to_table(comparison.effects) if format == "csv" else _short_table(comparison)
    return render(table.append_column("number", [ids]), format)


_SHORT = ("task", "level", "level_mean", "baseline_mean", "difference", "relative", "low", "high", "p_adjusted", "n", "verdict", "flags")
"""The columns of a table for print; the last only if there are any."""


def _short_table(comparison: Comparison) -> pa.Table:
    within = ["within"] if any(effect.within for effect in comparison.effects) else []
    shown = _SHORT if any(effect.flags for effect in comparison.effects) else _SHORT[:-1]
    return to_table(comparison.effects).select([*shown[:2], *within, *shown[2:]])


def describe_comparison(comparison: Comparison, name: str, floors: Floors, uri: str) -> str:
    """A comparison as text that fits the terminal.

    Args:
        comparison: The comparison.
        name: Name of the sweep.
        floors: What models without a transformer reach.
        uri: Folder or URI of the results, for the advice how to get floors.
    """
    baseline = comparison.factor.spell(comparison.baseline)
    head = f"{name}: {comparison.metric} by {comparison.factor.name}, each level against {baseline}. Lower is better."
    parts = [fill(head)]
    trends = {(trend.task, trend.within): trend for trend in find_trends(comparison.contrasts)}
    groups: dict[Any, list[Effect]] = {}
    for effect in comparison.effects:
        groups.setdefault((effect.task, json.dumps(effect.within)), []).append(effect)
    told = set[Any]()
    for (task, _), effects in groups.items():
        within = next(iter((effects[0].within or {}).items()), None)
        if task is None:
            parts.append(_describe_tasks(effects, baseline))
            continue
        arms = arms_beside_floors(comparison, task, floors) if task not in told else []  # once for all values of --within
        told.add(task)
        beside = describe_floors(task, arms, uri) if arms else []
        parts.append(_describe_task(effects, baseline, trends.get((task, within)), beside, comparison.alpha))
    parts.append("".join(fill(line) for line in (*_describe_levels(comparison), *_footer(comparison))))
    return "\n".join(parts)


def describe_briefly(comparison: Comparison, limit: int) -> str:
    """A comparison as one table that fits the terminal, of at most `limit` lines: what each level does on each task."""
    effects = comparison.effects
    columns: dict[str, Sequence[Any]] = {
        f"task: {comparison.factor.name}": [f"{_title(effect)}: {_level(effect)}" for effect in effects],
        "difference": [_percent(one.relative) if one.task is None else _signed(one.difference) for one in effects],
        "95 % interval": [_interval(effect.low, effect.high, percent=effect.task is None) for effect in effects],
        "verdict": list(map(_verdict, effects)),
    }
    baseline = comparison.factor.spell(comparison.baseline)
    head = f"{comparison.metric} by {comparison.factor.name}, each level against {baseline}. Lower is better."
    text = fill(head) + _fit({name: cells[:limit] for name, cells in columns.items()}, ["95 % interval"])
    return text + (f"and {len(effects) - limit} more\n" if len(effects) > limit else "")


def _title(effect: Effect) -> str:
    within = ", ".join(f"{knob} {spell_value(value)}" for knob, value in (effect.within or {}).items())
    return f"{effect.task or 'over tasks'}{f', with {within}' if within else ''}"


def _describe_task(effects: Sequence[Effect], baseline: str, trend: Trend | None, beside: Sequence[str], alpha: float) -> str:
    columns: dict[str, Sequence[Any]] = {
        "level": list(map(_level, effects)),
        "error": [_number(effect.level_mean) for effect in effects],
        "difference": [_signed(effect.difference) for effect in effects],
        "95 % interval": [_interval(effect.low, effect.high) for effect in effects],
        "p": list(map(_p, effects)),
        "seeds": [effect.n for effect in effects],
        "verdict": list(map(_verdict, effects)),
    }
    measured = [effect for effect in effects if effect.baseline_mean is not None]
    errors = list(dict.fromkeys(_number(effect.baseline_mean) for effect in measured))
    text = f"{_title(effects[0])}: {baseline} has {' or '.join(errors)}" if errors else _title(effects[0])
    if len(errors) > 1:
        text += f", as levels share different {'contexts' if max(effect.contexts for effect in measured) > 1 else 'seeds'} with it"
    seeds = {effect.n for effect in effects}
    if len(seeds) == 1:
        columns.pop("seeds")
        text += f"; {min(seeds)} seed{'' if seeds == {1} else 's'}"
    contexts = {effect.contexts for effect in effects}
    if max(contexts) > 1:
        text += f", averaged over {min(contexts)}{f' to {max(contexts)}' if len(contexts) > 1 else ''} contexts"
    lines = (*_margins(measured, alpha), *_notes(effects), *_trend(trend), *beside)
    return fill(text) + _fit(columns, ["error", "seeds"]) + "".join(fill(line, "  ") for line in lines)


def _describe_tasks(effects: Sequence[Effect], baseline: str) -> str:
    columns = {
        "level": list(map(_level, effects)),
        "mean": [_percent(effect.relative) for effect in effects],
        "95 % interval": [_interval(effect.low, effect.high, percent=True) for effect in effects],
        "a new task": [_interval(effect.prediction_low, effect.prediction_high, percent=True) for effect in effects],
        "lower on": [f"{effect.tasks_lower} of {effect.n}" for effect in effects],
        "p": list(map(_p, effects)),
        "verdict": list(map(_verdict, effects)),
    }
    text = fill(f"{_title(effects[0])}: difference relative to the error of {baseline}")
    return text + _fit(columns, ["a new task", "lower on"]) + "".join(fill(line, "  ") for line in _notes(effects))


def _fit(columns: Mapping[str, Sequence[Any]], dispensable: Sequence[str]) -> str:
    """A table of columns, without the dispensable ones for which the terminal is too narrow; then its first column is wrapped."""
    kept = dict(columns)
    for name in dispensable:
        widths = [max(len(str(cell)) for cell in (title, *cells)) + 2 for title, cells in kept.items()]
        if sum(widths) - 2 > terminal_width():
            kept.pop(name, None)
    return text_table(list(kept), list(zip(*kept.values(), strict=True)), terminal_width(), wrapped=0)


def _level(effect: Effect) -> str:
    if isinstance(effect.level, Mapping):
        return ", ".join(spell_value(value) for value in effect.level.values())
    return spell_value(tuple(effect.level) if isinstance(effect.level, list) else effect.level)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f} %"


def _interval(low: float | None, high: float | None, percent: bool = False) -> str:
    if low is None or high is None:
        return "-"
    return f"{100 * low:+.0f} to {100 * high:+.0f} %" if percent else f"{low:+.2g} to {high:+.2g}"


def _p(effect: Effect) -> str:
    if effect.p_adjusted is None:
        return "-"
    return f"{effect.p_adjusted:.2g}" if effect.p_adjusted >= LEAST_P else f"<{LEAST_P:g}"


LEAST_P = 0.0001
"""p below this are not told apart in tables for people."""


def _verdict(effect: Effect) -> str:
    """A verdict in words. What is in doubt about it stands in the notes."""
    if effect.verdict is None:
        return "not given: unfair"
    doubt = "?" if effect.flags else ""
    if effect.verdict in (HELPS, HURTS):
        return effect.verdict + doubt
    if effect.verdict == NO_DIFFERENCE:
        return f"no difference{doubt}"
    if effect.n == 0:
        return "undecided: no pairs"
    over_tasks = effect.task is None
    needed, unit, most = (effect.tasks_needed, "tasks", MAX_TASKS) if over_tasks else (effect.seeds_needed, "seeds", MAX_SEEDS)
    if needed is None and not effect.sd:
        return "undecided"
    return f"undecided: {needed if needed is not None else f'>{most}'} {unit}"


def _margins(effects: Sequence[Effect], alpha: float) -> Iterator[str]:
    level = 100 * alpha
    margins = list(dict.fromkeys(_number(effect.margin) for effect in effects if effect.margin is not None))
    if margins:
        yield f"A difference counts as none if two one-sided tests, at {level:g} % each, put it within +-{' or '.join(margins)}."


def _notes(effects: Sequence[Effect]) -> Iterator[str]:
    """The notes of some effects, each once, with the levels it is about unless it is about all."""
    about: dict[str, list[str]] = {}
    for effect in effects:
        for note in effect.notes:
            about.setdefault(note, []).append(_level(effect))
    for note, levels in about.items():
        yield note if len(levels) == len(effects) else f"{', '.join(levels)}: {note}"


def _trend(trend: Trend | None) -> Iterator[str]:
    if trend is None:
        return
    word, p = ("falls", trend.p_falling) if trend.p_falling < trend.p_rising else ("rises", trend.p_rising)
    is_shown = 2 * p <= ALPHA
    yield (
        f"Trend over {', '.join(map(spell_value, trend.levels))}: "
        + (f"the error {word} (Page's test, p {2 * p:.2g})." if is_shown else f"none is shown (Page's test, p {min(1.0, 2 * p):.2g}).")
    )
    if is_shown:
        clear = [step for step in trend.steps if step.p_adjusted is not None and step.p_adjusted <= ALPHA]
        shown = clear if len(trend.steps) > MAX_STEPS else trend.steps
        texts = [
            f"{spell_value(step.lower)} to {spell_value(step.higher)} {step.difference:+.3g}{_step_p(step.p_adjusted)}" for step in shown
        ]
        yield f"Step by step: {'; '.join(texts)}." if texts else "No single step is shown by itself."


MAX_STEPS = 5
"""Maximum number of steps of a trend that are all told; of more only those that are shown by themselves."""


def _step_p(p: float | None) -> str:
    return "" if p is None else f" (p {p:.2g})"


def _describe_levels(comparison: Comparison) -> Iterator[str]:
    """Mean ranks and interquartile means, of levels that all tasks have, where there are several tasks."""
    if any(contrast.within is not None for contrast in comparison.contrasts):
        return
    errors: dict[Any, dict[Any, Sequence[float]]] = {}
    for contrast in comparison.contrasts:
        if contrast.keys:
            errors.setdefault(contrast.task, {}).setdefault(contrast.baseline, contrast.baseline_values)
            errors[contrast.task][contrast.level] = contrast.level_values
    shared = set.intersection(*(set(of_task) for of_task in errors.values())) if errors else set()
    if len(errors) < 2 or len(shared) < 2:
        return
    whole = {task: {level: values for level, values in of_task.items() if level in shared} for task, of_task in errors.items()}
    ranks, means = rank_levels(whole), interquartile_means(whole, comparison.baseline)
    spelled = {level: comparison.factor.spell(level) for level in shared}
    in_order = sorted(ranks.mean_rank, key=lambda level: ranks.mean_rank[level])
    yield (
        f"As description, over {ranks.tasks} tasks: mean rank "
        + ", ".join(f"{spelled[level]}: {ranks.mean_rank[level]:.3g}" for level in in_order)
        + f" (critical difference {ranks.critical_difference:.2g})."
    )
    if means:
        baseline = spelled[comparison.baseline]
        listed = ", ".join(f"{spelled[level]}: {means[level]:.3g}" for level in in_order if level != comparison.baseline)
        own = f"{means[comparison.baseline]:.3g}"
        yield f"Interquartile mean of the error over the mean error of {baseline}, whose own is {own}: {listed}."


def _footer(comparison: Comparison) -> Iterator[str]:
    effects = comparison.effects
    if len({effect.task for effect in effects if effect.n}) > 1 and all(effect.task is not None for effect in effects):
        yield "Nothing is said over tasks: fewer than two of them have the same levels, and a baseline whose error is not near 0."
    if len(effects) > 1:
        yield f"p-values are corrected for all {len(effects)} verdicts (Holm); the family's error rate is {100 * comparison.alpha:g} %."
    if comparison.margin.is_relative:
        yield f"Differences that count as none: {comparison.margin} of the baseline's error, at least one sample's worth."
    if any(effect.seeds_needed or effect.tasks_needed for effect in effects):
        yield "An undecided verdict names the number in total that would decide it with a probability of 80 %, were the effect as measured."
    covers = dict.fromkeys(effect.covers for effect in effects if effect.covers and effect.n > 1)
    for text in covers:
        yield f"Intervals (Student's t) cover {text}."


# -------------------------------------------------------------------------------------------------------------------- importance


def show_importance(workspace: Workspace, name: str, metric: str, format: str) -> str:
    """Shares of variance of a sweep as text for people (`table`), JSON, CSV, markdown or LaTeX.

    Raises:
        ConfigError: If the sweep, metric or format is unknown, or nothing varies.
    """
    check_format(format)
    sweep = read_sweep_rows(workspace.results, name, [metric])
    shares = shares_of_variance(sweep.rows, metric=metric, pair_by=sweep.pair_by, varied=sweep.varied, objective=sweep.objective)
    if format != "table":
        ids = [number.id for number in share_numbers(sweep, shares, metric)]
        return render(shares_to_table(shares).append_column("number", [ids]), format)
    parts = []
    known = {factor for share in shares for factor in share.factors}
    untold = [KNOB_OF[column] for column in tuned_columns(sweep.rows, sweep.pair_by) if KNOB_OF[column] not in known]
    for task in dict.fromkeys(share.task for share in shares):
        of_task = [share for share in shares if share.task == task]
        seeds = of_task[0].seeds
        text = fill(f"{task}: shares of the variance of {metric} over arms and {seeds} seed{'s' if seeds > 1 else ''}")
        rows = [
            [" x ".join(share.factors), _share(share.share), _range(share), _share(share.corrected), _method(share, sweep.objective)]
            for share in of_task
        ]
        text += text_table(["factor", "share", "95 % interval", "without chance", "method"], rows, terminal_width())
        if not all(share.balanced for share in of_task):
            text += fill("Not every combination of levels has every seed, so shares need not add up to 100 %.")
        parts.append(text)
    if untold:
        few = f"no arm has {MIN_CANDIDATES} complete candidates with different errors"
        parts.append(fill(f"Nothing is said about {', '.join(untold)}, tuned within arms: {few}."))
    return "\n".join(parts)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _range(share: Share) -> str:
    return "-" if share.low is None or share.high is None else f"{100 * share.low:.0f} to {100 * share.high:.0f} %"


def _method(share: Share, objective: str) -> str:
    return share.method if share.method == "anova" else f"{share.method} of {objective}, tuned"
