"""One arm of a plan: the candidates proposed so far, with their seeds, and the trials that repeat the best of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property

from orca_core.config.knobs import TrialConfig
from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError
from orca_core.identity import CanonicalConfig, hash_of
from orca_core.stages import Digests, key_of_result, stages_of
from sweeper.planning.search import Earlier, Score, Values, list_candidates, mean_score
from sweeper.planning.trials import PlannedTrial, Role
from sweeper.space.space import Arm, SearchSpace

Scores = Mapping[str, float]
"""Metric -> its value for a trial that has ended, infinite if it failed."""

ScoreOf = Callable[[PlannedTrial], Scores | None]


class PlannedArm:
    """An arm with the trials planned so far.

    Args:
        space: The search space.
        arm: The arm.
        earlier: Key of an arm -> candidates of earlier sweeps from which it learns.
        digests: As for `stages_of`; shared by the arms of a plan, whose planner empties it.

    Attributes:
        arm: The arm.
        key: Hash of the knobs that it reads, without tuned ones and those that seeds set; empty before it is grown first.
        num_seeds: Number of seeds that each candidate has; only grows.
        replicates: The trials that repeat the best candidate.
    """

    def __init__(self, space: SearchSpace, arm: Arm, earlier: Mapping[str, Earlier] = {}, digests: Digests | None = None) -> None:
        self.arm, self._space, self._earlier, self._digests = arm, space, earlier, digests
        self.key = ""
        self.num_seeds = space.looks[0] if space.looks else len(space.seeds)
        self.replicates: list[PlannedTrial] = []
        self._is_replicated = False
        self._values: list[Values] = []
        self._candidates: list[list[PlannedTrial]] = []
        self._means: list[Score | None] = []

    @property
    def num_proposed(self) -> int:
        """Number of candidates proposed so far."""
        return len(self._candidates)

    @property
    def num_candidates(self) -> int:
        """Number of candidates in the end. An arm with nothing to choose has none beside replicates of those of other arms."""
        return self._space.search.trials if self.arm.tuned else 0 if self._space.search.replicate else 1

    def may_have(self, task: str) -> bool:
        """Whether the arm may have trials on a task."""
        return self.arm.config.task == task or any("task" in axis.knobs for axis in self.arm.tuned)

    @property
    def trials(self) -> list[PlannedTrial]:
        """Its trials: those of all candidates, each with every seed, then the replicates."""
        return [trial for candidate in self._candidates for trial in candidate] + self.replicates

    @property
    def proposed_later(self) -> int:
        """Number of trials still to be proposed, apart from seeds that a question may add."""
        missing = self.num_seeds * (self.num_candidates - len(self._candidates))
        return missing + (0 if self._is_replicated else self._space.search.replicate)

    def grow(self, score_of: ScoreOf, stopped: Collection[str] = ()) -> list[PlannedTrial]:
        """Propose every trial that the scores allow; returns the new ones.

        Args:
            score_of: The scores of a trial; None while they are unknown.
            stopped: Ids of trials that were stopped early: their candidates are not repeated.
        """
        self.key = self.key or arm_key(self._space, self.arm, self._canonical)
        if self._space.search.replicate and not self.arm.tuned:
            return [] if self._is_replicated else self._replicate({})  # nothing to choose: it runs with the seeds of the others' replicates
        before = len(self._candidates)
        while True:
            # A candidate may repeat an earlier one whose score is known: then the next one can be proposed right away.
            self._means = self._score_candidates(score_of)
            values = list_candidates(self.arm.tuned, self._space.search, self._means, self._values, self._earlier.get(self.key, ()))
            if len(values) == len(self._values):
                break
            chosen = values[len(self._values) :]
            self._candidates += list(self._plan_candidates(chosen))
            self._values += chosen
        grown = [trial for candidate in self._candidates[before:] for trial in candidate]
        return grown + self._replicate_best(stopped)

    def extend(self, num_seeds: int) -> list[PlannedTrial]:
        """Give each candidate so many seeds, if it has fewer; returns the new trials."""
        seeds = self._space.seeds[self.num_seeds : num_seeds]
        self.num_seeds = max(self.num_seeds, num_seeds)
        grown = []
        for number, canonical in enumerate(self._canonical_of(self._values if seeds else [])):
            new = self._plan_trials(canonical, number, seeds, "trial")
            self._candidates[number] += new
            grown += new
        return grown

    def _replicate_best(self, stopped: Collection[str]) -> list[PlannedTrial]:
        """Once every candidate has its score: the trials that repeat the best one. None, if all failed or were stopped early."""
        if not self._space.search.replicate or self._is_replicated or len(self._means) < self.num_candidates or None in self._means:
            return []
        whole = [number for number, trials in enumerate(self._candidates) if not any(trial.id in stopped for trial in trials)]
        ranked = sorted((self._means[number], number) for number in whole)
        best = next((number for means, number in ranked if means is not None and all(map(math.isfinite, means))), None)
        if best is None:
            self._is_replicated = True
            return []
        return self._replicate(self._values[best], best)

    def _replicate(self, values: Values, number: int = 0) -> list[PlannedTrial]:
        self._is_replicated = True
        (canonical,) = self._canonical_of([values])
        self.replicates = self._plan_trials(canonical, number, self._space.fresh_seeds, "replicate")
        return list(self.replicates)

    def _score_candidates(self, score_of: ScoreOf) -> list[Score | None]:
        """The mean score of each candidate. Means known before are reused, which keeps `Planner.tell` fast."""
        known = self._means + [None] * (len(self._candidates) - len(self._means))
        return [self._score(trials, score_of) if mean is None else mean for mean, trials in zip(known, self._candidates, strict=True)]

    def _score(self, trials: Sequence[PlannedTrial], score_of: ScoreOf) -> Score | None:
        scores = {trial.config.seed: score_of(trial) for trial in trials}
        means = [
            mean_score({seed: None if values is None else values.get(metric) for seed, values in scores.items()})
            for metric in self._space.metrics
        ]
        return None if None in means else tuple(mean for mean in means if mean is not None)

    def _plan_candidates(self, chosen: Sequence[Values]) -> Iterator[list[PlannedTrial]]:
        """The trials of the next candidates, one per seed."""
        role: Role = "tuning" if self._space.search.replicate else "trial"
        seeds = self._space.seeds[: self.num_seeds]
        for number, canonical in enumerate(self._canonical_of(chosen), len(self._candidates)):
            yield self._plan_trials(canonical, number, seeds, role)

    @cached_property
    def _canonical(self) -> CanonicalConfig:
        """The config with tuned knobs as they are in `base` or the recipe."""
        return CanonicalConfig.of(self.arm.config)

    def _canonical_of(self, values: Sequence[Values]) -> list[CanonicalConfig]:
        """The configs of candidates."""
        if not self.arm.tuned:
            return [self._canonical] * len(values)
        # One step after the other for all of them takes a quarter less time: the code of each stays in the processor's cache.
        configs = [self._config_of(each) for each in values]
        return [CanonicalConfig.of(config) for config in configs]

    def _config_of(self, values: Values) -> TrialConfig:
        overrides = dict(self.arm.overrides)
        for axis in self.arm.tuned:
            overrides = axis.put(overrides, values[axis.path])
        try:
            return resolve_config(overrides)
        except ConfigError as error:
            raise ConfigError([fault.at("space") for fault in error.faults], self._space.file) from None

    def _plan_trials(self, canonical: CanonicalConfig, number: int, seeds: Sequence[int], role: Role) -> list[PlannedTrial]:
        # No other knob depends on those that seeds set: the config is resolved once, then they are filled in.
        seeded = [canonical.with_seed(self._space.vary, seed) for seed in seeds]
        return [plan_trial(one, self._space.device, self.key, number, self.arm.variant, role, self._digests) for one in seeded]


def plan_trial(
    config: TrialConfig | CanonicalConfig,
    device: str,
    arm: str = "",
    candidate: int = 0,
    variant: str = "",
    role: Role = "trial",
    digests: Digests | None = None,
) -> PlannedTrial:
    """One trial with its stages. Without an `arm`, the trial is an arm of its own. `digests` as for `stages_of`."""
    canonical = config if isinstance(config, CanonicalConfig) else CanonicalConfig.of(config)
    stages, identity = stages_of(canonical, device, digests), canonical.id
    key = key_of_result(identity, stages)
    return PlannedTrial(identity, canonical.config, arm or identity, candidate, variant, stages, key, role, canonical.read)


def arm_key(space: SearchSpace, arm: Arm, canonical: CanonicalConfig) -> str:
    """Hash of the knobs that an arm reads, without tuned knobs and those that seeds set. Which it reads is decided at the base values of
    the tuned ones: `canonical` is the canonical form of its config."""
    left_out = {*space.vary} | {knob for axis in arm.tuned for knob in axis.knobs}
    return hash_of({path: value for path, value in canonical.hashed.items() if path not in left_out})
