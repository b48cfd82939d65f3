"""The arms that an explanation puts side by side: the same settings and seeds of each, so that the terms of a gap add up in every seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sweeper.analysis.comparison import step_of
from sweeper.analysis.contrasts import Contrast, paired_differences
from sweeper.analysis.factors import Factor, Row, list_levels
from sweeper.analysis.fairness import ArmFacts, find_remarks
from sweeper.analysis.margins import Margin
from sweeper.analysis.matching import Key, Setting
from sweeper.analysis.representatives import REPLICATE, TRIAL, TUNING, is_usable, role_of
from sweeper.analysis.sweep_rows import SweepRows


@dataclass(frozen=True)
class Options:
    """What holds for all terms of an explanation.

    Args:
        metric: The column that is explained; lower is better.
        margin: Margin of equivalence.
        alpha: Error rate of each question.
        allow_unfair: Whether arms that were not treated alike get verdicts.
        facts: How the arms were tuned (`arm_facts`).
    """

    metric: str
    margin: Margin
    alpha: float
    allow_unfair: bool
    facts: Mapping[tuple[Any, Any], ArmFacts]


@dataclass(frozen=True)
class Missing:
    """Arms that an explanation lacks.

    Args:
        question: What they are needed for: `parts` or `alignment`.
        task: The task.
        arms: The settings of the arms, in words.
        knob: The knob to which values are to be added.
        values: These values, as in YAML.
        present: The values of the knob that the sweep has, as in YAML.
        why: What cannot be told without them, as a sentence.
    """

    question: str
    task: str
    arms: tuple[str, ...]
    knob: str
    values: tuple[Any, ...]
    present: tuple[Any, ...]
    why: str


def is_arm(row: Row, metric: str) -> bool:
    """Whether a trial shows that its arm is there: complete, in the plan, and no derived row."""
    return row.get("in_plan") is not False and role_of(row) in (TRIAL, TUNING, REPLICATE) and is_usable(row, metric)


@dataclass(frozen=True)
class GapArms:
    """Some levels of a factor on one task, each in the same settings and seeds.

    Args:
        contrasts: Level -> its pairs with the baseline.
        baseline: The level that the others are paired with.
        complete: Key -> the settings in which every level has its trial.
    """

    contrasts: Mapping[Any, Contrast]
    baseline: Any
    complete: Mapping[Key, tuple[Setting, ...]]

    @property
    def keys(self) -> list[Key]:
        """The keys (seeds) with at least one complete setting, ascending."""
        return sorted(self.complete)

    @cached_property
    def values(self) -> list[dict[Any, float]]:
        """For each key: level -> metric, as the mean over settings."""
        found = []
        for key in self.keys:
            of_key = {level: self._mean(key, contrast, "level") for level, contrast in self.contrasts.items()}
            of_key[self.baseline] = self._mean(key, next(iter(self.contrasts.values())), "baseline")
            found.append(of_key)
        return found

    def _mean(self, key: Key, contrast: Contrast, side: str) -> float:
        pairs = [contrast.pairs[key][context] for context in self.complete[key]]
        return math.fsum(float(getattr(pair, side)[contrast.metric]) for pair in pairs) / len(pairs)

    @property
    def contexts(self) -> int:
        """Number of settings of the other knobs."""
        return len({context for contexts in self.complete.values() for context in contexts})

    @property
    def step(self) -> float:
        """One sample's worth of the metric; 0 if it does not count samples."""
        return max((step_of(contrast) for contrast in self.contrasts.values()), default=0.0)

    def trials(self) -> tuple[str, ...]:
        """The ids of all trials that count."""
        rows: dict[str, None] = {}
        for key, contexts in self.complete.items():
            for contrast in self.contrasts.values():
                for context in contexts:
                    pair = contrast.pairs[key][context]
                    rows |= dict.fromkeys(str(row["trial"]) for row in (pair.baseline, pair.level) if row.get("trial") is not None)
        return tuple(rows)

    def remarks(self, spell: Mapping[Any, str], sweep: SweepRows, options: Options) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What makes the arms unfair to compare, as flags; and these and what else is to know as sentences."""
        flags: dict[str, None] = {}
        about: dict[str, list[str]] = {}
        for level, contrast in self.contrasts.items():
            for remark in find_remarks(contrast, options.facts, sweep.scheduler, sweep.objective):
                if remark.name:
                    flags[remark.name] = None
                about.setdefault(str(remark), []).append(spell[level])
        notes = [text if len(levels) == len(self.contrasts) else f"{', '.join(levels)}: {text}" for text, levels in about.items()]
        if uneven := [key for key, contexts in self.complete.items() if len(contexts) < self.contexts]:
            notes.append(f"Averaged over fewer settings of the other knobs, as trials are missing: {self._name(uneven)}.")
        seen = {key for contrast in self.contrasts.values() for key in contrast.keys}
        seen |= {missing.key for contrast in self.contrasts.values() for missing in contrast.missing}
        if lost := sorted(seen - set(self.complete), key=str):
            notes.append(f"Left out, as a trial of some arm is missing: {self._name(lost)}.")
        return tuple(flags), tuple(notes)

    def _name(self, keys: Sequence[Key]) -> str:
        """Some keys in words."""
        contrast = next(iter(self.contrasts.values()))
        named = [" ".join(f"{name} {value}" for name, value in contrast.name_key(key).items()) for key in keys[:MAX_NAMED]]
        return ", ".join([*named, "..."] if len(keys) > MAX_NAMED else named)


MAX_NAMED = 5
"""Maximum number of seeds that a note names."""


def gap_arms(
    rows: Sequence[Row],
    factor: Factor,
    baseline: Any,
    sweep: SweepRows,
    metric: str,
    levels: Sequence[Any] | None = None,
) -> GapArms | None:
    """Put the levels of a factor side by side.

    Args:
        rows: The trials of one task, of these levels alone.
        factor: The factor.
        baseline: The level that the others are paired with: that which reads the most knobs, as its settings are those of all.
        sweep: The sweep that the rows are of, for its plan.
        metric: The column that is explained.
        levels: The levels that must all be there, without the baseline; None = all that the rows have.

    Returns:
        None if there is no other level, or one has no setting in common with the baseline.

    Raises:
        ConfigError: If rows cannot be told apart, or the metric is unknown.
    """
    known = list_levels(factor, rows)
    if baseline not in known or len(known) < 2:
        return None
    contrasts = {
        contrast.level: contrast
        for contrast in paired_differences(
            rows,
            factor,
            baseline,
            sweep.pair_by,
            metric=metric,
            varied=sweep.varied,
            lists_plan=sweep.lists_plan,
            objective=sweep.objective,
        )
        if levels is None or contrast.level in levels
    }
    if not contrasts or (levels is not None and len(contrasts) < len(levels)):
        return None
    shared = set.intersection(*(set(contrast.contexts) for contrast in contrasts.values()))
    if not shared:
        return None
    keys = set.intersection(*(set(contrast.pairs) for contrast in contrasts.values()))
    complete = {
        key: tuple(sorted(shared.intersection(*(contrast.pairs[key].keys() for contrast in contrasts.values())), key=str)) for key in keys
    }
    return GapArms(contrasts, baseline, {key: contexts for key, contexts in sorted(complete.items()) if contexts})
