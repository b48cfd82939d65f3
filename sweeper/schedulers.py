"""Early stopping through Ray Tune's schedulers, one for each task, so that no task is ranked against another."""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from sweeper.planning import PlannedTrial
from sweeper.space import SchedulerConfig


class PerTaskScheduler(FIFOScheduler):
    """Starts trials in their order and asks the scheduler of a trial's task whether it goes on.

    Args:
        config: Which scheduler, and its settings.
        metric: What it compares.
        trials: Tune's trial id -> planned trial, of those that run; filled by the searcher as trials are handed out.
        slots: Trials that can run at once.
        longest: Most epochs of fine-tuning of any trial.
    """

    def __init__(self, config: SchedulerConfig, metric: str, trials: dict[str, PlannedTrial], slots: int, longest: int) -> None:
        super().__init__()
        self._config, self._judged_by, self._trials, self._slots, self._longest = config, metric, trials, slots, longest
        self._by_task: dict[str, TrialScheduler] = {}
        self._known: dict[str, PlannedTrial] = {}  # also those that have ended: Tune asks once more about them
        self._actors_kept = False

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Keep an idle actor for every slot: Tune keeps one, and a slot that waits for a leader would lose its loaded process.

        `_actor_cache` is private to Ray; a test counts the processes.
        """
        if not self._actors_kept:
            tune_controller._actor_cache.increase_max(trial.placement_group_factory, by=self._slots)
            self._actors_kept = True
        self._known.setdefault(trial.trial_id, self._trials[trial.trial_id])
        if (inner := self._inner(trial)) is not None:
            inner.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        inner = self._inner(trial)
        if inner is None or "epoch" not in result or result.get("done"):
            return TrialScheduler.CONTINUE
        decision: str = inner.on_trial_result(tune_controller, trial, result)
        # A trial does not give way to one that waits: ours cannot be paused. And the last epoch is no early stop: the trial ends
        # by itself and is COMPLETE.
        last = result["epoch"] >= self._known[trial.trial_id].config.finetune.epochs
        return TrialScheduler.CONTINUE if last or decision == TrialScheduler.PAUSE else decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        inner = self._inner(trial)
        if inner is not None and "epoch" in result:
            inner.on_trial_complete(tune_controller, trial, result)

    def _inner(self, trial: Any) -> TrialScheduler | None:
        if self._config.name == "fifo":
            return None
        task = self._known[trial.trial_id].config.task
        if task not in self._by_task:
            self._by_task[task] = self._make()
        return self._by_task[task]

    def _make(self) -> TrialScheduler:
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
