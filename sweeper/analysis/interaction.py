"""Whether a difference depends on the context: tests of interaction between the factor and the other knobs."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.analysis.contrasts import Contrast
from sweeper.analysis.factors import KNOB_OF
from sweeper.analysis.matching import Key, Setting
from sweeper.analysis.paired import paired_t

MIN_KEYS = 3
"""Minimum number of seeds for a test."""

MAX_SINGLE = 8
"""Maximum number of contexts of several knobs that are also tested one by one: more tests find less."""


@dataclass(frozen=True)
class Interaction:
    """The difference in some contexts against that in all others.

    Args:
        where: Knob -> value that these contexts share.
        there, elsewhere: Mean differences in these contexts, and in the others.
        n: Number of seeds that have both.
        p: Two-sided p of a paired t test over seeds; NaN if both are the same in every seed.
    """

    where: Mapping[str, Any]
    there: float
    elsewhere: float
    n: int
    p: float


def find_interactions(contrast: Contrast) -> list[Interaction]:
    """Test for each value of each knob, and for each single context, whether the difference is another one there than elsewhere.

    Both are means over their contexts within a seed, so the test is paired over seeds. The p are not corrected.
    """
    by_context = {context: of_keys for context, of_keys in contrast.by_context().items() if of_keys}
    found = []
    for group in _groups(contrast, list(by_context)):
        there, elsewhere = _mean_by_key(by_context, group), _mean_by_key(by_context, by_context.keys() - group)
        keys = sorted(there.keys() & elsewhere.keys())
        if len(keys) >= MIN_KEYS:
            shared = _shared_by(contrast, group)
            here, other = (math.fsum(side[key] for key in keys) / len(keys) for side in (there, elsewhere))
            same = [math.isclose(there[key], elsewhere[key], rel_tol=1e-9, abs_tol=1e-15) for key in keys]
            p = float(paired_t([0.0 if is_same else there[key] - elsewhere[key] for key, is_same in zip(keys, same, strict=True)]).p)
            found.append(Interaction(shared, here, other, len(keys), p))
    return found


def _groups(contrast: Contrast, contexts: Collection[Setting]) -> Iterator[frozenset[Setting]]:
    """The sets of contexts that are compared with all others: those of a value of a knob, then single ones. Of two halves only one."""
    seen: set[frozenset[Setting]] = set()
    columns = range(len(contrast.columns))
    values = [(n, value) for n in columns for value in dict.fromkeys(context[n] for context in contexts)]
    groups = [frozenset(context for context in contexts if context[n] == value) for n, value in values]
    if len(contexts) <= MAX_SINGLE:
        groups += [frozenset([context]) for context in contexts]
    for group in groups:
        rest = frozenset(contexts) - group
        if group and rest and group not in seen and rest not in seen:
            seen.add(group)
            yield group


def _shared_by(contrast: Contrast, group: Collection[Setting]) -> dict[str, Any]:
    """What the contexts of a group share, of the knobs in which contexts differ at all."""
    named = contrast.name_context(next(iter(group)))
    numbers = {KNOB_OF[column]: n for n, column in enumerate(contrast.columns)}
    return {knob: value for knob, value in named.items() if len({context[numbers[knob]] for context in group}) == 1}


def _mean_by_key(by_context: Mapping[Setting, Mapping[Key, float]], contexts: Collection[Setting]) -> dict[Key, float]:
    """Key -> mean over some contexts, of the keys that all of them have."""
    keys = set.intersection(*(set(by_context[context]) for context in contexts))
    return {key: math.fsum(by_context[context][key] for context in contexts) / len(contexts) for key in keys}
