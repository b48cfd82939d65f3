"""How many seeds each arm of a sweep with a question has: more and more, as long as one of its contrasts is open.

A contrast is a level of the question's factor against the baseline, on one task (and at one level of `question.within`), as `sweeper
compare` has it. The contrasts are known when the sweep is planned, and so are the looks: the numbers of seeds after which those that are
open are tested. A look waits for all seeds of all open contrasts, so the order in which trials end does not matter: which seeds are added
depends on the scores alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orca_core.errors import ConfigError, Fault
from sweeper.analysis.adaptive import look_at
from sweeper.analysis.contrasts import Contrast, paired_differences
from sweeper.analysis.margins import parse_margin
from sweeper.analysis.sequential import Decision, Look, decide
from sweeper.planning.planned_arm import PlannedArm, ScoreOf, Scores
from sweeper.planning.trials import PlannedTrial
from sweeper.space.space import SearchSpace

Arms = Mapping[str, Sequence[PlannedArm]]
"""Key of an arm -> the arms that have it, which have the same trials."""

_KEYS = {"--factor": "question.factor", "--baseline": "question.baseline", "--within": "question.within", "--metric": "question.metric"}
"""Option of `sweeper compare` -> key of the file."""


@dataclass(frozen=True)
class ContrastName:
    """What a contrast is known by.

    Args:
        task: The task.
        level: The level of the factor that is compared with the baseline.
        within: The level of `question.within`; None without it.
    """

    task: str
    level: Any
    within: Any = None


def find_contrasts(space: SearchSpace, arms: Arms) -> dict[ContrastName, frozenset[str]]:
    """The contrasts of a space's question, and the keys of the arms that each compares.

    Raises:
        ConfigError: If factor, baseline or `within` are not among what the arms have; or if seeds are to be added until the question is
            decided, and there is nothing to compare.
    """
    assert space.question is not None
    values = dict.fromkeys([space.question.metric, space.metric], 0.0)
    rows = [
        _row(space, trial, values) | {"role": "trial"}
        for of_key in arms.values()
        for trial in of_key[0].trials
        if trial.config.seed == of_key[0].trials[0].config.seed
    ]
    try:
        contrasts = compare(space, rows)
    except ConfigError as error:
        faults = [replace(fault, path=_KEYS[fault.path]) for fault in error.faults if fault.path in _KEYS]
        if not faults and not space.looks:
            return {}
        raise ConfigError(faults or error.faults, space.file) from None
    found = {
        name_of(contrast): frozenset(str(arm) for context in contrast.contexts for arm in contrast.arms[context])
        for contrast in contrasts
        if contrast.contexts
    }
    if not found and space.looks:
        rule = "must have levels that arms differ in alone, on a task that has the baseline, too"
        remedy = next((f"Here they also differ in {', '.join(of.also_differs)}." for of in contrasts if of.also_differs), "")
        raise ConfigError([Fault("question.factor", rule, space.question.factor, remedy)], space.file)
    return found


def compare(space: SearchSpace, rows: Sequence[Mapping[str, Any]]) -> list[Contrast]:
    """The contrasts of a space's question in rows of trials."""
    question = space.question
    assert question is not None
    return paired_differences(
        rows,
        question.factor,
        question.baseline,
        [_column(knob) for knob in space.vary],
        metric=question.metric,
        varied=[_column(knob) for knob in space.varied],
        within=question.within,
        lists_plan=True,
        objective=space.metric,
    )


def name_of(contrast: Contrast) -> ContrastName:
    """The name of a contrast."""
    return ContrastName(contrast.task, contrast.level, contrast.within[1] if contrast.within is not None else None)


class Deciding:
    """Decides how many seeds each arm has.

    Args:
        space: The search space, with a question and looks.
        arms: The arms, each with the trials of its first seeds.
        contrasts: As `find_contrasts` returns them.

    Attributes:
        contrasts: The contrasts.
        decisions: The state of each contrast.
        open_arms: Keys of the arms of contrasts that are open, in the order of the plan.
    """

    def __init__(self, space: SearchSpace, arms: Arms, contrasts: Mapping[ContrastName, frozenset[str]]) -> None:
        assert space.question is not None
        self.contrasts = contrasts
        self._space, self._question, self._arms = space, space.question, arms
        self._seen: dict[ContrastName, list[Look]] = {name: [] for name in contrasts}
        self._num_taken = 0
        self._awaited: set[str] | None = None
        self.decisions: Mapping[ContrastName, Decision] = {name: Decision() for name in contrasts}
        self.open_arms: list[str] = self._find_open_arms()

    @property
    def most_later(self) -> int:
        """The most trials that may be added."""
        return sum(self._space.looks[-1] - self._arms[key][0].num_seeds for key in self.open_arms)

    def look(self, score_of: ScoreOf, told: str | None = None) -> dict[str, int]:
        """Take the next looks, as far as their scores are known.

        Args:
            score_of: The scores of a trial; None while they are unknown.
            told: The trial whose score is new since the last call; None if that may be any.

        Returns:
            Key -> number of seeds, of the arms that need more than they have for the next look.
        """
        while self.open_arms:
            open_arms = self.open_arms
            seeds = self._space.looks[self._num_taken]
            if missing := {key: seeds for key in open_arms if self._arms[key][0].num_seeds < seeds}:
                self._awaited = None
                return missing
            if told is None or self._awaited is None:
                self._awaited = {trial.id for key in open_arms for trial in self._arms[key][0].trials if score_of(trial) is None}
            else:
                self._awaited.discard(told)
            if self._awaited:
                break
            self._take(score_of, seeds)
            told = None
        return {}

    def _take(self, score_of: ScoreOf, seeds: int) -> None:
        """Take the look after so many seeds: all scores of the arms of open contrasts are known.

        The other arms have rows, too, as which knobs make up a context depends on all arms. So do those that are compared with nothing,
        whose scores are not waited for and must not count.
        """
        compared, seen = frozenset().union(*self.contrasts.values()), set(self._space.seeds[:seeds])
        rows = [
            _row(self._space, trial, (score_of(trial) if key in compared else None) or {})
            for key, of_key in self._arms.items()
            for trial in of_key[0].trials
            if trial.config.seed in seen
        ]
        by_name = {name_of(contrast): contrast for contrast in compare(self._space, rows)}
        margin = parse_margin(self._question.margin)
        for name, decision in self.decisions.items():
            if decision.is_open:
                self._seen[name].append(look_at(by_name[name], margin) if name in by_name else Look((), 0.0))
        self._num_taken += 1
        self.decisions = decide(self._seen, self._space.looks, self._question.alpha)
        self.open_arms = self._find_open_arms()

    def _find_open_arms(self) -> list[str]:
        wanted = {key for name, keys in self.contrasts.items() if self.decisions[name].is_open for key in keys}
        return [key for key in self._arms if key in wanted]


def _row(space: SearchSpace, trial: PlannedTrial, scores: Scores) -> dict[str, Any]:
    """A trial that has ended, as a row of `trials` with the columns that a comparison reads."""
    assert space.question is not None
    has_failed = scores.get(space.question.metric, math.inf) == math.inf
    names = {"trial": trial.id, "arm": trial.arm, "candidate": trial.candidate, "variant": trial.variant or None, "role": trial.role}
    score = trial.config.task_spec.score_name(trial.config.reference_data)
    return trial.cells() | names | dict(scores) | {"status": "FAIL" if has_failed else "COMPLETE", "cause": None, "score": score}


def _column(knob: str) -> str:
    return knob.replace(".", "_")
