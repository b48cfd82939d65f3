"""Whether two arms were treated alike: what else than the factor may explain a difference between them.

A comparison that is not fair gets no verdict, unless it is asked for: an arm that was tuned longer, lost its bad seeds, chose its epoch on
the test set or ran on another machine differs in more than the factor. What does not go with the arm is a remark.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.analysis.contrasts import Contrast, Missing
from sweeper.analysis.factors import Row, spell_value
from sweeper.analysis.machines import COMPARED, select_compared
from sweeper.analysis.matching import Key
from sweeper.analysis.representatives import REPLICATE, group_arms, role_of
from sweeper.analysis.sweep_rows import OBJECTIVE

GOES_WITH_ARM = 0.75
"""Machines go with the arm from this share on: of the pairs, by how many more one kind computed the level than the baseline. Machines drawn
at random reach it in 3 % of comparisons with 3 seeds, and more rarely with more."""


@dataclass(frozen=True)
class Remark:
    """Something to know about a comparison.

    Args:
        name: Its name in `flags`; empty for a note.
        text: What was found, as a sentence.
    """

    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text}" if self.name else self.text


@dataclass(frozen=True)
class ArmFacts:
    """How an arm came to the trials by which it is compared.

    Args:
        candidates: Number of its candidates.
        tried: Number of those that have a result: complete with all that ran, or stopped early.
        pruned: Number of those that were stopped early.
        is_replicated: Whether its best candidate was run again on fresh seeds.
    """

    candidates: int
    tried: int
    pruned: int
    is_replicated: bool


def arm_facts(rows: Iterable[Row]) -> dict[tuple[Any, Any], ArmFacts]:
    """(task, arm) -> how it was tuned, from all rows of a sweep."""
    found = {}
    for key, of_arm in group_arms(rows).items():
        chosen_from = [row for row in of_arm if role_of(row) != REPLICATE]
        statuses: dict[Any, set[Any]] = {}
        for row in chosen_from or of_arm:
            statuses.setdefault(row.get("candidate") or 0, set()).add(row.get("status", "COMPLETE"))
        pruned = sum("PRUNED" in of_candidate for of_candidate in statuses.values())
        complete = sum(of_candidate == {"COMPLETE"} for of_candidate in statuses.values())
        found[key] = ArmFacts(len(statuses), pruned + complete, pruned, len(chosen_from) < len(of_arm))
    return found


def find_remarks(
    contrast: Contrast, facts: Mapping[tuple[Any, Any], ArmFacts], scheduler: Mapping[str, Any], objective: str = OBJECTIVE
) -> list[Remark]:
    """All that speaks against a comparison, as flags, and what else is to know, as notes.

    Args:
        contrast: The comparison.
        facts: What `arm_facts` says of all arms.
        scheduler: The sweep's `scheduler`: `name` and `among`; empty if unknown.
        objective: The metric by which candidates were chosen.
    """
    arms = [(facts.get((contrast.task, one)), facts.get((contrast.task, other))) for one, other in contrast.arms.values()]
    known = [(one, other) for one, other in arms if one is not None and other is not None]
    return [
        *_about_tuning(known, objective, contrast.metric),
        *_about_stopping(contrast, known, scheduler),
        *_about_selection(contrast),
        *_about_missing(contrast),
        *_about_machines(contrast),
        *_about_settings(contrast),
    ]


def _about_tuning(arms: Sequence[tuple[ArmFacts, ArmFacts]], objective: str, metric: str) -> Iterator[Remark]:
    unequal = [(one.candidates, other.candidates) for one, other in arms if one.candidates != other.candidates]
    if unequal:
        yield Remark("unequal-tuning", f"{unequal[0][0]} candidates were tuned against {unequal[0][1]} of the baseline.")
    tried = [(one.tried, other.tried) for one, other in arms if one.candidates == other.candidates > 1 and one.tried != other.tried]
    if tried:
        text = f"The level is the best of {tried[0][0]} candidates, the baseline of {tried[0][1]}: others have no result."
        yield Remark("best-of-unequal", text)
    if any(one.is_replicated != other.is_replicated for one, other in arms):
        yield Remark("unequal-replication", "One side is compared on fresh seeds, the other on those by which it was chosen.")
    if tuned := next((one for one, other in arms if one.candidates == other.candidates > 1), None):
        fresh = ", run again on fresh seeds" if tuned.is_replicated else ""
        yield Remark("", f"Each arm stands for the best of its {tuned.candidates} candidates by {objective}{fresh}.")
    is_tuned = any(max(one.candidates, other.candidates) > 1 and not one.is_replicated for one, other in arms)
    if is_tuned and (objective == metric or objective.startswith("test")):
        yield Remark("", f"Candidates were chosen by {objective}, so errors are too low on both sides.")


def _about_stopping(contrast: Contrast, arms: Sequence[tuple[ArmFacts, ArmFacts]], scheduler: Mapping[str, Any]) -> Iterator[Remark]:
    stopped = Counter(missing.side for missing in contrast.missing if "PRUNED" in missing.why)
    if stopped["level"] != stopped["baseline"] or any((one.pruned > 0) != (other.pruned > 0) for one, other in arms):
        yield Remark("early-stopped", "Early stopping has ended trials of one side alone.")
    if scheduler.get("name", "fifo") != "fifo" and scheduler.get("among") == "task":
        text = f"{scheduler['name']} compared all arms of a task (scheduler.among: task), so that arms stopped each other."
        yield Remark("stopped-among-task", text)


def _about_selection(contrast: Contrast) -> Iterator[Remark]:
    by = Counter((pair.level.get("selection"), pair.baseline.get("selection")) for pair in contrast.all_pairs())
    if any((one == "test") != (other == "test") for one, other in by):
        yield Remark("test-selected", "One side chose its epoch by test error, the other by validation error.")
    elif by and all(one == "test" for one, _ in by):
        yield Remark("", "Both sides chose their epochs by test error, so errors are too low on both.")


def _about_missing(contrast: Contrast) -> Iterator[Remark]:
    ended = [missing for missing in contrast.missing if not is_pending(missing)]
    if pending := len(contrast.missing) - len(ended):
        yield Remark("", f"{pending} pair{'' if pending == 1 else 's'} of trials have not ended.")
    sides = Counter(missing.side for missing in ended)
    if not sides:
        return
    named = "; ".join(describe_missing(contrast, ended))
    if sides["level"] != sides["baseline"]:
        text = f"More trials are missing on one side: {sides['level']} of the level, {sides['baseline']} of the baseline ({named})."
        yield Remark("missing-in-one-arm", text)
    else:
        yield Remark("", f"Missing pairs: {named}.")


_PENDING = ("not started", "RUNNING", "PAUSED")
"""How the reason begins why a trial is missing that has yet to end."""


def is_pending(missing: Missing) -> bool:
    """Whether all that a pair lacks is trials that have yet to end."""
    return all(why.startswith(_PENDING) for why in missing.why.split("; "))


def describe_missing(contrast: Contrast, pairs: Iterable[Missing]) -> Iterator[str]:
    """Missing pairs as text, those of a context that lack the same for one reason together: seeds, context, what is missing and why."""
    keys: dict[tuple[Any, ...], list[Key]] = {}
    for missing in pairs:
        keys.setdefault((missing.context, missing.side, missing.why), []).append(missing.key)
    for (context, missing_side, why), of_group in keys.items():
        names = {name: _spell_values([key[n] for key in of_group]) for n, name in enumerate(contrast.pair_by)}
        names |= {knob: spell_value(value) for knob, value in contrast.name_context(context).items()}
        side = "neither trial has a result" if missing_side == "both" else f"{missing_side} is missing"
        yield f"{', '.join(f'{name} {value}' for name, value in names.items())}: {side} ({why})"


def _spell_values(values: Sequence[Any]) -> str:
    """Some values of a column of seeds: `2`, `2, 5`, or the first and the last of many."""
    known = list(dict.fromkeys(map(str, values)))
    return ", ".join(known) if len(known) <= MAX_NAMED else f"{known[0]}, {known[1]}, ..., {known[-1]} ({len(known)} of them)"


MAX_NAMED = 6
"""Maximum number of seeds that are named one by one."""


def _about_machines(contrast: Contrast) -> Iterator[Remark]:
    pairs = [(_kind(pair.level), _kind(pair.baseline)) for pair in contrast.all_pairs()]
    differing = [name for name in _MACHINE if len({kind[name] for pair in pairs for kind in pair} | {None}) > 2]
    known = [name for name in differing if not any(kind[name] is None for pair in pairs for kind in pair)]
    if not known:
        return
    balance = Counter(tuple(one[name] for name in known) for one, _ in pairs)
    balance.subtract(tuple(other[name] for name in known) for _, other in pairs)
    if sum(map(abs, balance.values())) / 2 >= GOES_WITH_ARM * len(pairs):
        yield Remark(OTHER_MACHINES, f"Level and baseline ran on different kinds of machine: {', '.join(known)}.")
    else:
        yield Remark("", f"Trials of both sides ran on {len(balance)} kinds of machine, which differ in {', '.join(known)}.")


OTHER_MACHINES = "machines-go-with-arm"
"""The flag of a comparison whose sides ran on different kinds of machine."""

_MACHINE = ("device", "instance_type", *COMPARED)
"""Columns that tell kinds of machine apart."""


def _kind(row: Row) -> dict[str, Any]:
    """The kind of machine that computed a trial: column -> value, null where it is not known."""
    return dict(zip(_MACHINE, (row.get("device"), row.get("instance_type"), *select_compared(row)), strict=True))


def _about_settings(contrast: Contrast) -> Iterator[Remark]:
    if contrast.also_differs:
        yield Remark("", f"No pair differs in {contrast.factor.name} alone: {', '.join(contrast.also_differs)} differs, too.")
    if contrast.along:
        yield Remark("", f"Recipes change with the level: {', '.join(contrast.along)}.")
    if contrast.left_out:
        arms, are = (f"{len(contrast.left_out)} arms", "are") if len(contrast.left_out) > 1 else ("1 arm", "is")
        yield Remark("", f"{arms} without a counterpart at the other level {are} left out.")
