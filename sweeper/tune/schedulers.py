"""Early stopping with Ray Tune's schedulers, one per task, since scores of different tasks cannot be compared.

A run that continues a sweep first replays the epochs of earlier trials, read from the result tables, so that rungs and medians are those of
the complete sweep and not of one run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from sweeper.planning.trials import Plan, PlannedTrial
from sweeper.results.workspace import Workspace
from sweeper.space.file import SchedulerConfig


@dataclass(frozen=True)
class PastTrial:
    """A trial that ended in an earlier run.

    Args:
        trial_id: Its id.
        pruned: Whether it was stopped early.
        epochs: (epoch, metric) of its fine-tuning, by epoch.
    """

    trial_id: str
    pruned: bool
    epochs: tuple[tuple[int, float], ...]


def read_past_trials(workspace: Workspace, plan: Plan, ended: Collection[str]) -> dict[str, list[PastTrial]]:
    """Read task -> its trials that ended in earlier runs of a sweep, in the order in which they ended.

    Args:
        workspace: Where the results are.
        plan: The sweep's plan.
        ended: Ids of the trials that are done.
    """
    past = defaultdict[str, list[PastTrial]](list)
    of_sweep = f"sweep = '{plan.space.name}'"
    epochs = defaultdict[str, list[tuple[int, float]]](list)
    query = f"select trial, epoch, {plan.space.metric} as value from metrics where {of_sweep} and stage = 'finetune' order by trial, epoch"
    for row in workspace.sql(query).rows() if ended else ():
        epochs[row["trial"]].append((row["epoch"], row["value"]))
    for row in workspace.sql(f"select trial, status from trial_status where {of_sweep} order by ended_at, trial").rows() if ended else ():
        trial = row["trial"]
        if trial in ended and trial in plan.by_id and epochs[trial]:
            past[plan.by_id[trial].config.task].append(PastTrial(trial, row["status"] == "PRUNED", tuple(epochs[trial])))
    return past


class PerTaskScheduler(FIFOScheduler):
    """Starts trials in their order and asks the scheduler of a trial's task whether the trial goes on.

    Args:
        config: Name and settings of the scheduler.
        metric: The metric that it compares.
        trials: Tune's trial id -> planned trial, of the running trials; filled by the searcher as trials are handed out.
        slots: Maximum number of trials at once.
        longest: Maximum number of fine-tuning epochs of any trial.
        past: Task -> trials that ended in earlier runs, in the order in which they ended.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        metric: str,
        trials: dict[str, PlannedTrial],
        slots: int,
        longest: int,
        past: Mapping[str, Sequence[PastTrial]] = {},
    ) -> None:
        super().__init__()
        self._config, self._judged_by, self._trials, self._slots, self._longest = config, metric, trials, slots, longest
        self._past = past
        self._by_task: dict[str, TrialScheduler] = {}
        self._known: dict[str, PlannedTrial] = {}  # also ended ones: Tune calls once more for them
        self._actors_kept = False

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Keep an idle actor for every slot: Tune keeps only one, so a slot that waits for a leader would lose its loaded process.

        `_actor_cache` is private to Ray; a test counts the processes.
        """
        if not self._actors_kept:
            tune_controller._actor_cache.increase_max(trial.placement_group_factory, by=self._slots)
            self._actors_kept = True
        self._known.setdefault(trial.trial_id, self._trials[trial.trial_id])
        if (inner := self._get_scheduler(tune_controller, trial)) is not None:
            inner.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        inner = self._get_scheduler(tune_controller, trial)
        if inner is None or "epoch" not in result or result.get("done"):
            return TrialScheduler.CONTINUE
        decision: str = inner.on_trial_result(tune_controller, trial, result)
        # Our trials cannot be paused in favour of waiting ones. And stopping after the last epoch is not early: the trial ends by itself,
        # as COMPLETE.
        last = result["epoch"] >= self._known[trial.trial_id].config.finetune.epochs
        return TrialScheduler.CONTINUE if last or decision == TrialScheduler.PAUSE else decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        inner = self._get_scheduler(tune_controller, trial)
        if inner is not None and "epoch" in result:
            inner.on_trial_complete(tune_controller, trial, result)

    def _get_scheduler(self, tune_controller: Any, trial: Any) -> TrialScheduler | None:
        if self._config.name == "fifo":
            return None
        task = self._known[trial.trial_id].config.task
        if task not in self._by_task:
            inner = self._by_task[task] = self._make_scheduler()
            for past in self._past.get(task, ()):
                self._replay(tune_controller, inner, past)
        return self._by_task[task]

    def _replay(self, tune_controller: Any, inner: TrialScheduler, past: PastTrial) -> None:
        """Let a scheduler see a trial that ended in an earlier run."""
        trial: Any = past  # schedulers use only the id of a trial, and the trial as a key
        results = [{"epoch": epoch, self._judged_by: value} for epoch, value in past.epochs]
        inner.on_trial_add(tune_controller, trial)
        for result in results:
            if self._config.name == "median":  # takes in a result without deciding anything
                inner.on_trial_complete(tune_controller, trial, result)
            else:
                inner.on_trial_result(tune_controller, trial, result)
        if past.pruned:
            inner.on_trial_complete(tune_controller, trial, results[-1])

    def _make_scheduler(self) -> TrialScheduler:
        if self._config.name == "asha":
            return AsyncHyperBandScheduler(
                time_attr="epoch",
                metric=self._judged_by,
                mode="min",
                max_t=max(self._longest, self._config.grace_period),
                grace_period=self._config.grace_period,
                reduction_factor=self._config.reduction_factor,
            )
        return MedianStoppingRule(
            time_attr="epoch",
            metric=self._judged_by,
            mode="min",
            grace_period=self._config.grace_period,
            min_samples_required=self._config.min_trials,
        )
