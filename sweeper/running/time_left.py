"""How long a sweep still takes: the work that is left, from it an estimate, and from estimates a promise that does not run backwards.

The estimate is the bound of list scheduling. If the trials that run now need at most `running` seconds, the longest chain of work of a
trial that waits takes `chain` seconds, and all work left is `work`, then on `slots` slots that never idle while something can start, it
all ends after at most

    max(running, work / slots + (1 - 1 / slots) * chain).

So if durations are what they were taken for, the sweep ends no later than was promised, and the promise need never be moved.

Reference:
    Graham 1969, Bounds on multiprocessing timing anomalies, theorem 1.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from orca_core.rows import EpochRow, Row
from sweeper.planning.cost import CostModel
from sweeper.planning.passes import kind_of, passes_of
from sweeper.planning.trials import PlannedTrial

CHECKPOINT_S = 60.0
"""A trial stores its state at least this often, so a lost one computes at most so many seconds, and an epoch, again."""

SETTLE_S = 15.0
"""Time constant, in seconds, with which a promise follows an estimate that is earlier."""

SLOW, SLOW_S = 1.5, 30.0
"""An estimate that is later than the promise by this factor and so many seconds moves it, even if no work was added."""

_Kind = tuple[str, str, str, str, float]
"""What epochs of equal length have in common: stage, task, body and, in fine-tuning, the freezing schedule with `finetune.fused` and the
number of passes."""


@dataclass(frozen=True, slots=True)
class _Step:
    """A stage of a trial: where it is stored, its kind, its first and last epoch; of a stage without epochs 0 and 1."""

    place: str
    kind: _Kind
    start: int
    end: int


class WorkLeft:
    """The work of a run that is left, stage by stage, each that several trials share counted once.

    Args:
        costs: What epochs cost in earlier sweeps. In this one they are measured as they come; those of a kind that was not seen yet are
            taken to deviate from `costs` as the others do.
        share: Whether trials share stages.
    """

    def __init__(self, costs: CostModel | None = None, *, share: bool = True) -> None:
        self._costs, self._share = costs or CostModel(), share
        self._trials: dict[str, tuple[PlannedTrial, tuple[_Step, ...]]] = {}  # those that have not ended
        self._running: dict[str, int] = {}  # -> number of trials in its group
        self._reached: dict[str, int] = {}  # place -> epoch that its trajectory has reached
        self._measured: defaultdict[_Kind, list[float]] = defaultdict(lambda: [0.0, 0.0])  # seconds, number of epochs
        self._expected: dict[_Kind, float] = {}
        self._num_ended, self._extra_s, self._trial_s = 0, 0.0, 0.0
        self._why = ""

    def expect(self, trials: Iterable[PlannedTrial]) -> None:
        """Take in trials that are to run."""
        for trial in trials:
            steps = []
            for stage in trial.stages:
                freezing = f"{trial.config.freezing} {trial.config.finetune.fused}" if stage.kind == "finetune" else ""
                kind = (kind_of(trial, stage), trial.config.task, trial.config.body.name, freezing, passes_of(trial, stage))
                first, last = (stage.start, stage.end) if stage.has_epochs else (0, 1)
                if kind not in self._expected and last > first:
                    self._expected[kind] = self._costs.seconds(trial, stage) / (last - first)
                steps.append(_Step(stage.folder if self._share else f"{trial.id}/{stage.folder}", kind, first, last))
            self._trials[trial.id] = trial, tuple(steps)

    def start(self, trial_id: str, members: int = 1) -> None:
        """Take in that a trial starts, or goes on, in a group of `members`: seconds of a trial are its share of those of its group."""
        self._running[trial_id] = members

    def pause(self, trial_id: str) -> None:
        """Take in that a trial stops for now."""
        self._running.pop(trial_id, None)

    def advance(self, trial_id: str, row: Row) -> None:
        """Take in a row that a trial reported."""
        if (known := self._trials.get(trial_id)) is None:
            return
        trial, steps = known
        for stage, step in zip(trial.stages, steps, strict=True):
            if stage.reports(row):
                epoch = row.epoch if isinstance(row, EpochRow) else step.end
                self._reached[step.place] = max(epoch, self._reached.get(step.place, step.start))
                if row.seconds > 0 and (isinstance(row, EpochRow) or not stage.has_epochs):
                    measured = self._measured[step.kind]
                    measured[0] += row.seconds
                    measured[1] += 1
                return

    def lose(self, trial_id: str) -> None:
        """Take in that an attempt has ended and the trial is to start again, from its last stored state."""
        self._running.pop(trial_id, None)
        _, steps = self._trials.get(trial_id, (None, ()))
        for step in steps:
            reached = self._reached.get(step.place, step.start)
            if reached < step.end:
                again = 1 + int(CHECKPOINT_S / max(self._each(step.kind, self._pace()), 1e-3))
                self._reached[step.place] = max(step.start, reached - again)
                self._why = "a trial was lost and goes on from its last stored state"
                return

    def end(self, trial_id: str, *, seconds: float = 0.0, computing_s: float = 0.0, is_whole: bool = True) -> None:
        """Take in that a trial has ended.

        Args:
            trial_id: The trial.
            seconds: How long it ran.
            computing_s: How much of that it spent on its stages.
            is_whole: Whether it came to its end, or was stopped early; if not, nothing is learned from its durations.
        """
        self._running.pop(trial_id, None)
        if self._trials.pop(trial_id, None) is not None and is_whole:
            self._num_ended += 1
            self._trial_s += seconds
            self._extra_s += max(0.0, seconds - computing_s)

    @property
    def is_known(self) -> bool:
        """Whether enough was seen for an estimate: a trial has come to its end, or a minute of work has been measured."""
        return self._num_ended > 0 or sum(seconds for seconds, _ in self._measured.values()) >= 60.0

    def take_reason(self) -> str:
        """Why there is more work than before, since this was last asked; empty if there is not."""
        why, self._why = self._why, ""
        return why

    def estimate(self, slots: int, later: int = 0) -> float | None:
        """Seconds until all work is done; None if too little is known. Takes time in proportion to the number of trials that are left.

        Args:
            slots: How many trials run at once.
            later: Number of trials that are not known yet and will be proposed; each is taken for a mean one.
        """
        if not self.is_known:
            return None
        pace = self._pace()
        each = {kind: self._each(kind, pace) for kind in self._expected}
        extra = self._extra_s / self._num_ended if self._num_ended else 0.0
        rest_of: dict[str, float] = {}
        running = chain = 0.0
        alike, width_of = Counter[str](), dict[str, int]()
        for trial, _ in self._trials.values():
            if trial.group is not None:
                alike[trial.group] += 1
                width_of[trial.group] = trial.config.finetune.fused
        for trial_id, (trial, steps) in self._trials.items():
            path = extra
            for step in steps:
                rest = (step.end - max(step.start, self._reached.get(step.place, step.start))) * each[step.kind] if step.end else 0.0
                if rest > 0:
                    path += rest
                    rest_of[step.place] = max(rest, rest_of.get(step.place, 0.0))
            if trial_id in self._running:
                running = max(running, path * self._running[trial_id])
            else:
                members = min(alike[trial.group], width_of[trial.group]) if trial.group is not None else 1
                chain = max(chain, path * members)
        work = math.fsum(rest_of.values()) + extra * len(self._trials)
        if later:
            mean = self._trial_s / self._num_ended if self._num_ended else work / max(1, len(self._trials))
            work += later * mean
            chain = max(chain, mean)
        groups = sum(-(-number // width_of[group]) for group, number in alike.items())
        if len(self._trials) - alike.total() + groups + later <= slots:  # all of them run at once
            return max(running, chain)
        return max(running, work / slots + (1 - 1 / slots) * chain)

    def _each(self, kind: _Kind, pace: float) -> float:
        """Seconds of an epoch."""
        seconds, number = self._measured.get(kind, (0.0, 0.0))
        return seconds / number if number else self._expected.get(kind, 1.0) * pace

    def _pace(self) -> float:
        """Measured seconds over expected ones."""
        expected = math.fsum(self._expected[kind] * number for kind, (_, number) in self._measured.items())
        return math.fsum(seconds for seconds, _ in self._measured.values()) / expected if expected > 0 else 1.0


class Promise:
    """The time left as it is shown: it never grows, except for a reason, which is shown with it.

    An estimate that is earlier is approached gradually. One that is later makes the number stand still until the estimate has come down
    to it. If work was added or slots were lost, or if the promise was far too early, the number goes up at once.

    Attributes:
        left: Seconds; None as long as there was no estimate.
        why: Why it went up last; empty if it has come down again to where it was before.
    """

    def __init__(self) -> None:
        self.left: float | None = None
        self.why = ""
        self._before = 0.0

    def see(self, estimate: float, passed: float, why: str = "") -> None:
        """Take in an estimate.

        Args:
            estimate: Seconds.
            passed: Seconds since the last one in which trials got on.
            why: Why it may be later than the last one; empty if it should not be.
        """
        if self.left is None:
            self.left = estimate
            return
        if self.left <= self._before:
            self.why = ""
        expected = max(0.0, self.left - passed)
        if estimate <= expected:
            self.left = estimate + (expected - estimate) * math.exp(-passed / SETTLE_S)
        elif estimate <= self.left:
            self.left = estimate
        elif why or estimate > SLOW * self.left + SLOW_S:
            self._before, self.left, self.why = self.left, estimate, why or "epochs take longer than was estimated"
