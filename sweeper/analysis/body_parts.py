"""The gap between a pretrained and a random body, by the parts of the body: Shapley values over `body.keep`, exact by the full factorial.

Beside it, where a sweep has `body.weights: shuffled`: how much of the gap is in the statistics of the weights, and how much in their
structure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from orca_core.bodies.keep import ALL, NOTHING, PARTS
from sweeper.analysis.factors import Factor, Row
from sweeper.analysis.gap_arms import GapArms, Missing, Options, gap_arms, is_arm
from sweeper.analysis.paired import as_number, paired_t
from sweeper.analysis.shapley import (
    Coalition,
    atoms,
    coalitions,
    first_in_weights,
    last_in_weights,
    main_effect_weights,
    missing_coalitions,
    resolution_of,
    shapley_weights,
    weigh,
)
from sweeper.analysis.sweep_rows import SweepRows
from sweeper.analysis.terms import GAP, PARTS_QUESTION, STATISTICS_QUESTION, Term, measure

KEEP = Factor("body.keep", ("body_keep",))
WEIGHTS = Factor("body.weights", ("body_weights",))

SHUFFLED = "shuffled"

SUGGESTED: tuple[tuple[str, ...], ...] = (("attention",), ("ffn",), ("layernorm", "embeddings", "other"))
"""The players of the factorial that is suggested where a sweep has no arm with some parts alone."""


def kept(row: Row) -> Coalition | None:
    """The parts of the body that start pretrained; None of arms that are no such set: bodiless, shuffled, or cut by layers."""
    weights, keep = row.get("body_weights", "pretrained"), row.get("body_keep")
    if weights == "random":
        return frozenset()
    if weights != "pretrained":
        return None
    if keep in (None, ALL):
        return frozenset(PARTS)
    names = frozenset() if keep == NOTHING else frozenset(str(keep).split("+"))
    return names if names <= set(PARTS) else None


def spell_parts(parts: Coalition) -> str:
    """Parts as `body.keep` spells them: `all`, `none`, or names joined by `+`."""
    return ALL if parts >= set(PARTS) else "+".join(part for part in PARTS if part in parts) or NOTHING


def name_player(player: Sequence[str]) -> str:
    """Parts that the arms do not tell apart, as one name."""
    return "+".join(player)


def explain_parts(sweep: SweepRows, options: Options) -> tuple[list[Term], list[Missing]]:
    """The gap pretrained minus random by parts of the body, on each task.

    Args:
        sweep: The trials.
        options: Metric, margin and what else holds for all terms.

    Returns:
        The terms, the gap of each task last; and the arms that are missing.
    """
    terms: list[Term] = []
    missing: list[Missing] = []
    for task, rows in _by_task(sweep.rows):
        arms = {parts for row in rows if is_arm(row, options.metric) and (parts := kept(row)) is not None}
        players = atoms(list(arms), PARTS)
        if not players:
            continue
        fixed, top = frozenset.intersection(*arms), frozenset.union(*arms)
        lacking = [] if len(players) > MAX_PLAYERS else list(missing_coalitions(list(arms), players))
        if len(players) == 1:
            wanted = [parts for parts in map(_union, coalitions_of(SUGGESTED)) if parts not in arms] if len(top) == len(PARTS) else []
            if wanted:
                why = "No arm has some of the parts pretrained and others not, so the gap cannot be told apart by parts."
                missing.append(_missing(task, wanted, arms, why))
        elif lacking:
            missing.append(_missing(task, lacking, arms, "Shapley values need every combination of the parts that the sweep varies."))
        terms += _game(task, rows, players, fixed, top, arms, sweep, options)
    return terms, missing


MAX_PLAYERS = 5
"""Number of parts of a body, so at most as many players."""


def coalitions_of(players: Sequence[Sequence[str]]) -> list[list[Sequence[str]]]:
    """All sets of some players, each a list of players."""
    named = {name_player(player): player for player in players}
    return [[named[name] for name in named if name in one] for one in coalitions(list(named))]


def _union(players: Sequence[Sequence[str]]) -> Coalition:
    return frozenset(part for player in players for part in player)


def _missing(task: str, parts: Sequence[Coalition], arms: Set[Coalition], why: str) -> Missing:
    names = tuple(f"body.keep {spell_parts(one)}" for one in parts)
    present = sorted(arms - {frozenset[str]()}, key=lambda one: (-len(one), spell_parts(one)))
    return Missing(PARTS_QUESTION, task, names, "body.keep", tuple(map(_as_yaml, parts)), tuple(map(_as_yaml, present)), why)


def _as_yaml(parts: Coalition) -> str | list[str]:
    """Parts as a search space has them."""
    return ALL if parts >= set(PARTS) else [part for part in PARTS if part in parts]


def _by_task(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(str(row.get("task")), []).append(row)
    return sorted(found.items())


def _game(
    task: str,
    rows: Sequence[Row],
    players: Sequence[tuple[str, ...]],
    fixed: Coalition,
    top: Coalition,
    arms: set[Coalition],
    sweep: SweepRows,
    options: Options,
) -> list[Term]:
    """The terms of one task; none if the gap itself is not known."""
    if fixed not in arms or top not in arms:
        return []
    named = {name_player(player): player for player in players}
    names = list(named)
    sets = {one: fixed | _union([named[name] for name in one]) for one in coalitions(names)}
    is_full = all(parts in arms for parts in sets.values())
    wanted = {spell_parts(parts): one for one, parts in sets.items() if parts in arms}
    levelled = [
        {**row, "body_keep": spell_parts(parts), "body_weights": "pretrained"}
        for row in rows
        if (parts := kept(row)) is not None and spell_parts(parts) in wanted
    ]
    levels = [level for level in wanted if level != spell_parts(top)]
    side = gap_arms(levelled, KEEP, spell_parts(top), sweep, options.metric, levels)  # the top reads all that any of them reads
    if side is None or not side.keys:
        return []
    values = [{wanted[level]: value for level, value in of_key.items()} for of_key in side.values]
    none, every = frozenset[str](), frozenset(names)
    baseline = math.fsum(of_key[none] for of_key in values) / len(values)
    flags, notes = side.remarks({level: f"body.keep {level}" for level in levels}, sweep, options)
    subject = f"{'pretrained' if top >= set(PARTS) else spell_parts(top)} - {'random' if not fixed else spell_parts(fixed)}"
    shared = Term(
        question=PARTS_QUESTION,
        task=task,
        subject=subject,
        term=GAP,
        metric=options.metric,
        contexts=side.contexts,
        flags=flags,
        notes=notes,
        seeds=tuple(key[0] if len(key) == 1 else key for key in side.keys),
    )
    level_of = {one: level for level, one in wanted.items()}
    terms = []
    for name in names if len(names) > 1 else ():
        weights = {"first_in": first_in_weights(name, names), "last_in": last_in_weights(name, names)}
        if is_full:
            weights["main_effect"] = main_effect_weights(name, names)
        means = {which: _mean_of(of, values) for which, of in weights.items()}
        first, last = means["first_in"], means["last_in"]
        term = replace(shared, term=name, first_in=first, last_in=last, main_effect=means.get("main_effect"))
        if is_full:
            shapley = shapley_weights(name, names)
            by_seed = tuple(weigh(shapley, of_key) for of_key in values)
            term = replace(term, by_seed=by_seed, cells=side.cells({level_of[one]: weight for one, weight in shapley.items()}))
            term = measure(term, baseline, options.margin, side.step, resolution_of(shapley, side.step))
        if first is not None and last is not None:
            apart = [weigh(weights["last_in"], of_key) - weigh(weights["first_in"], of_key) for of_key in values]
            term = replace(term, p_interaction=as_number(float(paired_t(apart, resolution=side.step).p)))
        terms.append(term)
    gap = {every: 1.0, none: -1.0}
    level, other = spell_parts(top), spell_parts(fixed)
    by_seed = tuple(weigh(gap, of_key) for of_key in values)
    whole = replace(shared, by_seed=by_seed, level=level, baseline=other, cells=side.cells({level: 1.0, other: -1.0}))
    return [*terms, measure(whole, baseline, options.margin, side.step, side.step)]


def _mean_of(weights: Mapping[Coalition, float], values: Sequence[Mapping[Coalition, float]]) -> float | None:
    """The mean over seeds of a weighted sum; None if an arm of it is missing."""
    if any(one not in values[0] for one in weights):
        return None
    return math.fsum(weigh(weights, of_key) for of_key in values) / len(values)


# ---------------------------------------------------------------------------------------------------------------- shuffled weights


def explain_statistics(sweep: SweepRows, options: Options) -> list[Term]:
    """The gap pretrained minus random in two links: what the statistics of the weights do, shuffled minus random; and what their structure
    does, pretrained minus shuffled. Nothing where a sweep has no shuffled arm."""
    terms: list[Term] = []
    for task, rows in _by_task(sweep.rows):
        whole = [
            {**row, "body_keep": None, "body_weights": weights}
            for row in rows
            if (weights := SHUFFLED if row.get("body_weights") == SHUFFLED else _WHOLE.get(kept(row)))
        ]
        side = gap_arms(whole, WEIGHTS, "pretrained", sweep, options.metric, [SHUFFLED, "random"])
        if side is None or not side.keys:
            continue
        terms += _links(task, side, sweep, options)
    return terms


_WHOLE: Mapping[Any, str] = {frozenset(): "random", frozenset(PARTS): "pretrained"}

_LINKS = (("statistics", SHUFFLED, "random"), ("structure", "pretrained", SHUFFLED), (GAP, "pretrained", "random"))


def _links(task: str, side: GapArms, sweep: SweepRows, options: Options) -> list[Term]:
    baseline = math.fsum(of_key["random"] for of_key in side.values) / len(side.keys)
    flags, notes = side.remarks({level: f"body.weights {level}" for level in side.contrasts}, sweep, options)
    return [
        measure(
            Term(
                question=STATISTICS_QUESTION,
                task=task,
                subject="pretrained - random",
                term=name,
                metric=options.metric,
                level=f"body.weights {level}",
                baseline=f"body.weights {other}",
                contexts=side.contexts,
                flags=flags,
                notes=notes,
                by_seed=tuple(of_key[level] - of_key[other] for of_key in side.values),
                seeds=tuple(key[0] if len(key) == 1 else key for key in side.keys),
                cells=side.cells({level: 1.0, other: -1.0}),
            ),
            baseline,
            options.margin,
            side.step,
            side.step,
        )
        for name, level, other in _LINKS
    ]
