"""Effects: what a level of a factor does to the error, with interval, test and verdict, from the rows of a sweep.

The unit is the seed. For each task and level the paired differences to the baseline (`contrasts`) go through Student's t; over tasks, one
relative difference per task does. All verdicts of a comparison are one family: p of differences are corrected by Holm over all of them, and
p of equivalence likewise, so that with a probability of 95 % no difference is claimed that is not there, and with the same probability none
is denied that is larger than the margin.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from orca_core.errors import ConfigError, Fault
from sweeper.analysis.adaptive import judge_at_looks
from sweeper.analysis.contrasts import Contrast, paired_differences
from sweeper.analysis.effect import Effect
from sweeper.analysis.factors import Factor, Row, spell_value
from sweeper.analysis.fairness import Remark, arm_facts, find_remarks
from sweeper.analysis.interaction import Interaction, find_interaction
from sweeper.analysis.margins import DEFAULT_MARGIN, NEAR_ZERO, Margin, find_step, parse_margin
from sweeper.analysis.over_tasks import MIN_TASKS, summarise_tasks
from sweeper.analysis.paired import as_number, equivalence, holm, judge_mean, paired_t, pitman_morgan
from sweeper.analysis.skewness import MAX_KEYS, SKEWED, SKEWED_NOTE, find_skewed
from sweeper.analysis.sweep_rows import OBJECTIVE, PAIR_BY, SweepRows

ALPHA = 0.05
"""Default error rate of a family."""


@dataclass(frozen=True)
class Comparison:
    """The effects of a factor.

    Args:
        factor: The factor.
        baseline: The baseline's level.
        metric: The column that is compared.
        margin: The margin as it was asked for.
        alpha: Error rate of the family.
        effects: By task, then level; the rows over tasks last.
        contrasts: The pairs behind the effects of single tasks, in their order.
    """

    factor: Factor
    baseline: Any
    metric: str
    margin: Margin
    alpha: float
    effects: Sequence[Effect]
    contrasts: Sequence[Contrast]


def compare(
    rows: Sequence[Row],
    factor: str,
    baseline: Any,
    *,
    by: str = "task",
    within: str | None = None,
    metric: str = "test_error",
    margin: Margin | str | float = DEFAULT_MARGIN,
    alpha: float = ALPHA,
    allow_unfair: bool = False,
    pair_by: Sequence[str] = PAIR_BY,
    varied: Collection[str] | None = None,
    lists_plan: bool = False,
    objective: str = OBJECTIVE,
    scheduler: Mapping[str, Any] = {},
    looks: Sequence[int] = (),
) -> Comparison:
    """Compare the levels of a factor with a baseline.

    Args:
        rows: Rows of `trials` of one sweep, whatever their status.
        factor, baseline, within, metric, pair_by, varied, lists_plan, objective: As for `paired_differences`.
        by: `task` for a verdict on each task and one over tasks; `all` for the one over tasks alone.
        margin: Margin of equivalence: `5%` of the baseline's mean error, at least one sample's worth, or a number in the metric's unit.
        alpha: Error rate of the family.
        allow_unfair: Whether comparisons that are not fair get a verdict.
        scheduler: The sweep's `scheduler`: `name` and `among`.
        looks: If this is the question of a sweep that added seeds until it was decided: the numbers of seeds after which it looked.

    Raises:
        ConfigError: With all faults of the arguments; or if no task has the baseline and another level.
    """
    faults: list[Fault] = []
    if by not in ("task", "all"):
        faults.append(Fault("--by", "must be task or all", by))
    if not 0 < alpha < 0.5:
        faults.append(Fault("--alpha", "must be between 0 and 0.5", alpha))
    try:
        asked = parse_margin(margin)
    except ConfigError as error:
        faults += error.faults
    try:
        contrasts = paired_differences(
            rows, factor, baseline, pair_by, metric=metric, varied=varied, within=within, lists_plan=lists_plan, objective=objective
        )
    except ConfigError as error:
        faults += error.faults
    if faults:
        raise ConfigError(faults)
    if not contrasts:
        raise ConfigError([Fault("--baseline", "must be a level on a task that has another level, too", baseline)])
    facts, skewed = arm_facts(rows), find_skewed(contrasts)
    remarks = [find_remarks(contrast, facts, scheduler, objective) for contrast in contrasts]
    singles = [_measure(contrast, asked, of, contrast.level in skewed) for contrast, of in zip(contrasts, remarks, strict=True)]
    overall = _over_tasks(contrasts, singles)
    if by == "all" and not overall:
        raise ConfigError([Fault("--by", "must be task: no two tasks have the same levels, and a baseline that is not near 0", by)])
    if by == "all":
        effects = _judge(overall, alpha, allow_unfair)
    else:
        with_context = _add_interactions(_add_variances(singles, contrasts, alpha), contrasts, alpha)
        effects = _judge([*with_context, *overall], alpha, allow_unfair)
        if looks:  # the family of the running sweep are its contrasts; those over tasks are a family of their own
            at_looks = judge_at_looks(with_context, contrasts, looks, asked, alpha)
            effects = [*(_withhold(effect, allow_unfair) for effect in at_looks), *_judge(overall, alpha, allow_unfair)]
    return Comparison(contrasts[0].factor, contrasts[0].baseline, metric, asked, alpha, effects, contrasts)


def compare_levels(sweep: SweepRows, factor: str, baseline: Any, **options: Any) -> Comparison:
    """`compare` on the trials of a sweep, with what its plan says about them.

    Args:
        sweep: The trials.
        factor, baseline: As for `compare`.
        options: Those arguments of `compare` that are no part of a sweep: by, within, metric, margin, alpha, allow_unfair, looks.

    Raises:
        ConfigError: As `compare`.
    """
    return compare(
        sweep.rows,
        factor,
        baseline,
        pair_by=sweep.pair_by,
        varied=sweep.varied,
        lists_plan=sweep.lists_plan,
        objective=sweep.objective,
        scheduler=sweep.scheduler,
        **options,
    )


def _measure(contrast: Contrast, asked: Margin, remarks: Sequence[Remark], is_skewed: bool) -> Effect:
    """The numbers of one contrast, before the correction for the family."""
    factor, n = contrast.factor, len(contrast.keys)
    notes = [str(remark) for remark in remarks]
    flags = [remark.name for remark in remarks if remark.name]
    if is_skewed and n <= MAX_KEYS:
        flags.append(SKEWED)
        notes.append(f"{SKEWED}: {SKEWED_NOTE}")
    if contrast.uneven_keys:
        notes.append(_describe_uneven(contrast))
    effect = Effect(
        task=contrast.task,
        factor=factor.name,
        level=factor.to_data(contrast.level),
        baseline=factor.to_data(contrast.baseline),
        metric=contrast.metric,
        within=None if contrast.within is None else dict([contrast.within]),
        n=n,
        contexts=len({context for of_key in contrast.pairs.values() for context in of_key}),
        contexts_left_out=len(contrast.left_out),
        pairs_missing=tuple(
            contrast.name_key(missing.key) | {"context": contrast.name_context(missing.context), "side": missing.side, "why": missing.why}
            for missing in contrast.missing
        ),
        flags=tuple(flags),
        notes=tuple(notes),
        covers=describe_coverage(contrast),
    )
    if n == 0:
        return effect
    step = step_of(contrast)
    t = paired_t(contrast.differences, resolution=step / effect.contexts)
    mean, baseline = float(t.mean), _mean(contrast.baseline_values)
    margin = asked.of(baseline, step)
    p_equivalence = float(equivalence(contrast.differences, margin, step / effect.contexts)) if margin > 0 else math.nan
    return replace(
        effect,
        level_mean=_mean(contrast.level_values),
        baseline_mean=baseline,
        difference=mean,
        relative=mean / baseline if is_relative(contrast) else None,
        low=as_number(t.low),
        high=as_number(t.high),
        sd=as_number(t.sd),
        effect_size=mean / float(t.sd) if t.sd > 0 else None,
        p=as_number(t.p),
        margin=margin or None,
        p_equivalence=None if t.is_zero else as_number(p_equivalence),
    )


def _describe_uneven(contrast: Contrast) -> str:
    keys = contrast.uneven_keys
    named = ", ".join(" ".join(f"{name} {value}" for name, value in contrast.name_key(key).items()) for key in keys[:MAX_NAMED])
    more = f" and {len(keys) - MAX_NAMED} more" if len(keys) > MAX_NAMED else ""
    rest = "averaged over fewer contexts, as pairs are missing. Where the effect depends on the context, this widens the interval."
    return f"{named}{more}: {rest}"


MAX_NAMED = 5
"""Maximum number of seeds that a note names."""


def step_of(contrast: Contrast) -> float:
    """One sample's worth of the metric in the trials of a contrast; 0 for metrics that do not count samples."""
    return find_step((row for pair in contrast.all_pairs() for row in (pair.level, pair.baseline)), contrast.metric)


def is_relative(contrast: Contrast) -> bool:
    """Whether a difference can be put in relation to the baseline's error: not where that is near 0."""
    return bool(contrast.keys) and _mean(contrast.baseline_values) >= max(step_of(contrast), NEAR_ZERO)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def describe_coverage(contrast: Contrast) -> str:
    """What an interval over seeds covers, and what it does not."""
    if len(contrast.keys) < 2:
        return "nothing: there are fewer than two seeds"
    if "split_seed" in contrast.pair_by:
        return "the draws of training and the split of the data, both redrawn by seed; not other pretrained bodies"
    splits = {pair.level.get("split_seed") for pair in contrast.all_pairs()}
    split = "one split of the data" if len(splits) == 1 else f"{len(splits)} splits of the data, the same in every seed"
    return f"the draws of training by seed, on {split}; not other splits or pretrained bodies"


def _over_tasks(contrasts: Sequence[Contrast], singles: Sequence[Effect]) -> list[Effect]:
    """A row for each level, and value of `within`, that several tasks have."""
    groups: dict[Any, list[Effect]] = {}
    for contrast, single in zip(contrasts, singles, strict=True):
        if single.n > 0:
            groups.setdefault((contrast.level, contrast.within), []).append(single)
    found = []
    for of_group in groups.values():
        relative = {str(single.task): single.relative for single in of_group if single.relative is not None}
        if len(relative) < MIN_TASKS:
            continue
        over, first = summarise_tasks(relative), of_group[0]
        used = [single for single in of_group if single.relative is not None]
        near_zero = [str(single.task) for single in of_group if single.relative is None]
        flags = dict.fromkeys(flag for single in used for flag in single.flags if flag != SKEWED)
        notes = [f"On {', '.join(near_zero)} the baseline's error is near 0; left out over tasks."] if near_zero else []
        notes += [f"{flag} on {', '.join(str(single.task) for single in used if flag in single.flags)}." for flag in flags]
        margin = _mean([single.margin / single.baseline_mean for single in used if single.margin and single.baseline_mean])
        mean, sd = float(over.t.mean), as_number(over.t.sd)
        found.append(
            Effect(
                task=None,
                factor=first.factor,
                level=first.level,
                baseline=first.baseline,
                metric=first.metric,
                within=first.within,
                relative=mean,
                low=as_number(over.t.low),
                high=as_number(over.t.high),
                sd=sd,
                effect_size=mean / sd if sd else None,
                p=as_number(over.t.p),
                margin=margin,
                p_equivalence=None if over.t.is_zero else as_number(float(equivalence(list(relative.values()), margin))),
                n=len(relative),
                flags=tuple(flags),
                notes=tuple(notes),
                covers="tasks: the mean over tasks of which these are a sample",
                prediction_low=over.prediction_low,
                prediction_high=over.prediction_high,
                tasks_lower=over.lower,
                tasks_higher=over.higher,
            )
        )
    return found


def _judge(effects: Sequence[Effect], alpha: float, allow_unfair: bool) -> list[Effect]:
    """The effects with p corrected over all of them, and their verdicts."""
    p, factors = holm([math.nan if effect.p is None else effect.p for effect in effects])
    p_equivalence, of_equivalence = holm([math.nan if effect.p_equivalence is None else effect.p_equivalence for effect in effects])
    judged = []
    for number, effect in enumerate(effects):
        adjusted, adjusted_equivalence = as_number(p[number]), as_number(p_equivalence[number])
        verdict, needed = judge_mean(
            effect.relative if effect.task is None else effect.difference,
            effect.sd,
            effect.n,
            effect.margin,
            adjusted,
            adjusted_equivalence,
            alpha,
            (alpha / factors[number], alpha / of_equivalence[number]),
            is_over_tasks=effect.task is None,
        )
        given = replace(
            effect,
            p_adjusted=adjusted,
            p_equivalence_adjusted=adjusted_equivalence,
            verdict=verdict,
            seeds_needed=needed if effect.task is not None else None,
            tasks_needed=needed if effect.task is None else None,
        )
        judged.append(_withhold(given, allow_unfair))
    return judged


def _withhold(effect: Effect, allow_unfair: bool) -> Effect:
    """An effect without its verdict if the comparison is not fair, unless that is allowed."""
    is_unfair = any(flag != SKEWED for flag in effect.flags)
    return replace(effect, verdict=None) if is_unfair and not allow_unfair else effect


def _add_variances(effects: Sequence[Effect], contrasts: Sequence[Contrast], alpha: float) -> list[Effect]:
    """The effects with a test whether the level varies as much over seeds as the baseline, corrected over all of them."""
    tests = [compare_variances(contrast) for contrast in contrasts]
    adjusted, _ = holm([p for _, p in tests])
    found = []
    for effect, (ratio, p), corrected in zip(effects, tests, map(float, adjusted), strict=True):
        notes = effect.notes
        if corrected <= alpha and all(flag == SKEWED for flag in effect.flags):
            compared = f"{ratio:.2g} times the baseline's" if math.isfinite(ratio) else "above 0, that of the baseline"
            notes = (*notes, f"Its standard deviation over seeds is {compared} (Pitman-Morgan, p {corrected:.2g}).")
        found.append(
            replace(effect, sd_ratio=_finite(ratio), p_variance=as_number(p), p_variance_adjusted=as_number(corrected), notes=notes)
        )
    return found


def compare_variances(contrast: Contrast) -> tuple[float, float]:
    """Whether a level varies more over seeds than the baseline: the ratio of the standard deviations, and p that they are equal.

    Both sides are means over equally many trials, else one would vary less by that alone: where trials of one side serve several contexts,
    each group of contexts without such is tested by itself, and p corrected for the number of groups (Bonferroni). Seeds with different
    contexts are not compared.

    Returns:
        The ratio over all groups, and p; NaN where nothing can be said.

    Reference:
        Pitman 1939, Morgan 1939.
    """
    if contrast.uneven_keys or len(contrast.keys) < 3:
        return math.nan, math.nan
    level, baseline, p = 0.0, 0.0, []
    for contexts in contrast.slices():
        one, other = (
            np.array([[getattr(contrast.pairs[key][context], side)[contrast.metric] for context in contexts] for key in contrast.keys])
            for side in ("level", "baseline")
        )
        one, other = one.mean(axis=1), other.mean(axis=1)
        level, baseline = level + float(np.var(one)), baseline + float(np.var(other))
        p.append(float(pitman_morgan(one, other)[1]))
    tested = [value for value in p if not math.isnan(value)]
    ratio = math.sqrt(level / baseline) if baseline else math.inf if level else math.nan
    return ratio, min(1.0, len(tested) * min(tested)) if tested else math.nan


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _add_interactions(effects: Sequence[Effect], contrasts: Sequence[Contrast], alpha: float) -> list[Effect]:
    """The effects with the context in which they differ, if they do: one test for each contrast, corrected over all of them."""
    tests = [find_interaction(contrast) for contrast in contrasts]
    adjusted, _ = holm([math.nan if test is None else test.p for test in tests])
    found = []
    for effect, test, p in zip(effects, tests, map(float, adjusted), strict=True):
        if test is None or not p <= alpha:
            found.append(effect)
            continue
        interaction = {"where": dict(test.where), "difference": test.there, "elsewhere": test.elsewhere, "p_adjusted": p}
        found.append(replace(effect, interaction=interaction, notes=(*effect.notes, _describe_interaction(test, p))))
    return found


def _describe_interaction(test: Interaction, p: float) -> str:
    read = {knob: value for knob, value in test.where.items() if value is not None} or test.where
    where = ", ".join(f"{knob} {spell_value(value)}" for knob, value in read.items())
    return f"The effect depends on the context: with {where} it is {test.there:+.3g}, elsewhere {test.elsewhere:+.3g} (p {p:.2g})."
