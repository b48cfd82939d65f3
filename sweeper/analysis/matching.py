"""Which arms of two levels of a factor are compared: those that differ in the factor alone.

A knob that nothing reads is null, so arms that differ in the factor may also differ in that another knob is null on one side: with
`align.epochs` 0 nothing reads the proxy, and an aligned arm with any proxy is compared with the one arm that is not aligned.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from orca_core.config.paths import KNOBS
from orca_core.declarations import reading_sentence
from sweeper.analysis.factors import KNOB_OF, VARIANT, Factor, Row, cell

Key = tuple[Any, ...]
"""What tells the repeats of an arm apart: the values of the columns that the seeds vary."""

Setting = tuple[Any, ...]
"""Values of the compared columns: of an arm, or of a context."""

Arms = Mapping[Setting, Mapping[Key, Row]]
"""The arms of one level on one task: setting -> key -> row."""


def deciding_columns(factor: Factor, rows: Iterable[Row]) -> frozenset[str]:
    """The columns that decide whether a knob is read, and so must differ between its null level and the others.

    With the proxy as the factor, the arms at its null level are not aligned: their `align.epochs` is 0, that of the others is not. Such are
    the knobs that the knob's declaration names, if no value of theirs occurs on both sides.
    """
    if len(factor.columns) != 1 or factor.name == VARIANT:
        return frozenset()
    named = [path.replace(".", "_") for path in re.findall(r"`([a-z_.]+)`", reading_sentence(KNOB_OF[factor.columns[0]])) if path in KNOBS]
    sides: dict[bool, dict[str, set[Any]]] = {True: defaultdict(set), False: defaultdict(set)}
    for row in rows:
        for column in named:
            sides[cell(row, factor.columns[0]) is None][column].add(cell(row, column))
    return frozenset(column for column in named if sides[True][column] and not sides[True][column] & sides[False][column])


@dataclass(frozen=True)
class Matching:
    """Context -> the settings of the two arms that are compared in it; and, if there are none, in which columns the closest arms differ."""

    settings: Mapping[Setting, tuple[Setting, Setting]]
    closest: Sequence[str] = ()


def match_arms(arms: Arms, baselines: Arms, columns: Sequence[str], free: Collection[str], level_is_null: bool) -> Matching:
    """Find the arms that differ in the factor alone: they agree in every column but those that are free, or null on one side.

    Null is a value like any other in knobs that can be set to null (`train_samples`).
    """
    later = [column in free and level_is_null for column in columns]  # whose value in a context is the baseline's
    has_null = [any(setting[n] is None for setting in (*arms, *baselines)) for n in range(len(columns))]
    settable = [type(None) in get_args(KNOBS[KNOB_OF[column]].annotation) for column in columns]
    loose = [n for n, column in enumerate(columns) if column in free or (has_null[n] and not settable[n])]
    strict = [n for n in range(len(columns)) if n not in loose]
    alike: dict[Setting, list[Setting]] = defaultdict(list)
    for other in baselines:
        alike[tuple(other[n] for n in strict)].append(other)

    def conflicts(one: Setting, other: Setting, numbers: Iterable[int]) -> list[int]:
        return [n for n in numbers if one[n] != other[n] and not (n in loose and (columns[n] in free or None in (one[n], other[n])))]

    found: dict[Setting, tuple[int, Setting, Setting]] = {}
    for one in arms:
        for other in alike.get(tuple(one[n] for n in strict), ()):
            if not conflicts(one, other, loose):
                differing = sum(one[n] != other[n] for n in loose)
                context = tuple(other[n] if one[n] is None or later[n] else one[n] for n in range(len(columns)))
                if context not in found or differing < found[context][0]:
                    found[context] = (differing, one, other)
    if found:
        return Matching({context: (one, other) for context, (_, one, other) in found.items()})
    misses = (conflicts(one, other, range(len(columns))) for one in arms for other in baselines)
    return Matching({}, [columns[n] for n in min(misses, key=len, default=[])])
