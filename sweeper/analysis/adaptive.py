"""Verdicts on a sweep whose seeds were added until its question was decided: those of the running sweep, from its tables.

The sweep looked at its contrasts after fixed numbers of seeds, so one test of all seeds would find too much. The same looks are taken here,
one after the other, each at the seeds that were there for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from sweeper.analysis.contrasts import Contrast
from sweeper.analysis.effect import Effect
from sweeper.analysis.margins import Margin, find_step
from sweeper.analysis.paired import UNDECIDED
from sweeper.analysis.sequential import Look, decide

_FINAL = ("FAIL", "PRUNED", "no such trial")
"""What a missing pair says that will stay missing; others may still come, and a look waits for them."""


def judge_at_looks(
    effects: Sequence[Effect], contrasts: Sequence[Contrast], looks: Sequence[int], margin: Margin, alpha: float
) -> list[Effect]:
    """The effects of single tasks with the verdicts and p-values of the looks; their intervals stay as they are.

    Args:
        effects, contrasts: The effects, and the contrast behind each.
        looks: Numbers of seeds after which the sweep looks.
        margin: The margin as it was asked for.
        alpha: Error rate of the family of all effects.
    """
    family = {number: _looks_at(contrast, looks, margin) for number, contrast in enumerate(contrasts) if contrast.contexts}
    decisions = decide(family, looks, alpha)
    steps = ", ".join(map(str, looks))
    found = []
    for number, effect in enumerate(effects):
        decision = decisions.get(number)
        if decision is None:
            found.append(replace(effect, verdict=UNDECIDED))
            continue
        seen = [str(number) for number in looks if number <= decision.seeds]
        note = f"Verdict and p are those of the look{'s' if len(seen) > 1 else ''} after {', '.join(seen)} seeds, "
        note += f"of those planned after {steps}; the interval does not account for several looks."
        needed = decision.seeds_needed if decision.verdict == UNDECIDED else None
        found.append(
            replace(
                effect,
                p=decision.p,
                p_adjusted=decision.p_adjusted,
                verdict=decision.verdict,
                seeds_needed=needed,
                notes=(*effect.notes, note) if decision.seeds else effect.notes,
            )
        )
    return found


def _looks_at(contrast: Contrast, looks: Sequence[int], margin: Margin) -> list[Look]:
    """What there was to see of a contrast at each look for which it has all seeds."""
    seed_of = contrast.pair_by.index("seed")
    seeds = {key[seed_of] for key in contrast.keys} | {missing.key[seed_of] for missing in contrast.missing}
    awaited = min((missing.key[seed_of] for missing in contrast.missing if not _is_final(missing.why)), default=math.inf)
    found = []
    for number in looks:
        if len([seed for seed in seeds if seed < number]) < number or awaited < number:
            break
        seen = replace(contrast, pairs={key: contexts for key, contexts in contrast.pairs.items() if key[seed_of] < number})
        found.append(look_at(seen, margin))
    return found


def look_at(contrast: Contrast, margin: Margin) -> Look:
    """What there is to see of a contrast, from all of its pairs."""
    values = contrast.baseline_values
    step = find_step([row for pair in contrast.all_pairs() for row in (pair.level, pair.baseline)], contrast.metric)
    baseline = math.fsum(values) / len(values) if values else 0.0
    num_contexts = max(1, len({context for of_key in contrast.pairs.values() for context in of_key}))
    return Look(contrast.differences, margin.of(baseline, step), step / num_contexts)


def _is_final(why: str) -> bool:
    return why.startswith(_FINAL)
