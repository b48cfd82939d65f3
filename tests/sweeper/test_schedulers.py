"""Early stopping: each task is judged by itself, in epochs of fine-tuning, and the last epoch is no early stop."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.tune.execution.tune_controller import _ObjectCache
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from sweeper.planning.planner import make_plan
from sweeper.space.file import SchedulerConfig
from sweeper.space.reading import parse_space
from sweeper.tune.schedulers import PastTrial, PerTaskScheduler

GO, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP
ASHA = SchedulerConfig(name="asha", reduction_factor=2)


class Judge:
    """A scheduler, asked about trials on some tasks as Tune asks it."""

    def __init__(self, config: SchedulerConfig, tasks: list[str], epochs: int = 4, past=()) -> None:
        space = {"name": "s", "base": {"finetune.epochs": epochs}, "space": {"task": {"grid": sorted(set(tasks))}}, "seeds": len(tasks)}
        planned = iter(make_plan(parse_space(space)).trials)
        by_task = {task: [] for task in tasks}
        for trial in planned:
            by_task[trial.config.task].append(trial)
        self.trials = [Trial("stub", stub=True, trial_id=str(number)) for number in range(len(tasks))]
        self.handed = {trial.trial_id: by_task[task].pop() for trial, task in zip(self.trials, tasks, strict=True)}
        self.cache = _ObjectCache(may_keep_one=True)
        self.controller = SimpleNamespace(_actor_cache=self.cache, get_live_trials=lambda: self.trials)
        self.scheduler = PerTaskScheduler(config, "valid_error", self.handed, slots=2, longest=epochs, past={"digits": past})
        for trial in self.trials:
            self.scheduler.on_trial_add(self.controller, trial)

    def hears(self, number: int, epoch: int, error: float) -> str:
        return self.scheduler.on_trial_result(self.controller, self.trials[number], {"epoch": epoch, "valid_error": error})


def test_fifo_stops_nothing():
    judge = Judge(SchedulerConfig(), ["digits"] * 3)
    assert {judge.hears(number, 1, error) for number, error in enumerate([0.1, 0.5, 0.9])} == {GO}


@pytest.mark.parametrize("config", [ASHA, SchedulerConfig(name="median", min_trials=1)], ids=lambda config: config.name)
def test_a_trial_is_compared_with_those_of_its_own_task_only(config):
    judge = Judge(config, ["digits", "openml/187", "digits"])
    assert judge.hears(0, 1, 0.1) == GO
    assert judge.hears(0, 2, 0.1) == GO
    assert judge.hears(1, 1, 0.9) == judge.hears(1, 2, 0.9) == GO
    assert any(judge.hears(2, epoch, 0.9) == STOP for epoch in (1, 2))


def test_the_last_epoch_is_no_early_stop():
    judge = Judge(ASHA, ["digits"] * 2, epochs=1)
    assert (judge.hears(0, 1, 0.1), judge.hears(1, 1, 0.9)) == (GO, GO)


def test_reports_without_an_epoch_are_not_judged():
    judge = Judge(ASHA, ["digits"] * 2)
    judge.hears(0, 1, 0.1)
    assert judge.scheduler.on_trial_result(judge.controller, judge.trials[1], {"rows": "[]"}) == GO


def test_the_grace_period_is_in_epochs():
    judge = Judge(SchedulerConfig(name="asha", reduction_factor=2, grace_period=2), ["digits"] * 2)
    assert [judge.hears(0, epoch, 0.1) for epoch in (1, 2)] == [GO, GO]
    assert [judge.hears(1, epoch, 0.9) for epoch in (1, 2)] == [GO, STOP]


def test_a_trial_that_has_ended_is_still_known():
    judge = Judge(ASHA, ["digits"])
    judge.handed.clear()
    judge.scheduler.on_trial_complete(judge.controller, judge.trials[0], {"epoch": 4, "valid_error": 0.1})
    assert judge.hears(0, 4, 0.1) == GO


@pytest.mark.parametrize("config", [ASHA, SchedulerConfig(name="median", min_trials=2)], ids=lambda config: config.name)
def test_a_continued_run_ranks_with_the_trials_that_ended_before(config):
    def is_stopped(past, task):
        judge = Judge(config, [task], past=past)
        return any(judge.hears(0, epoch, 0.5) == STOP for epoch in (1, 2))

    past = [PastTrial("p1", False, ((1, 0.2), (2, 0.1), (3, 0.1), (4, 0.1))), PastTrial("p2", True, ((1, 0.4), (2, 0.3)))]
    assert not is_stopped([], "digits")
    assert is_stopped(past, "digits")
    assert not is_stopped(past, "openml/187")  # of another task


def test_past_and_present_trials_are_stopped_as_in_one_run():
    errors = [[0.1, 0.1], [0.3, 0.2], [0.2, 0.3], [0.25, 0.1], [0.15, 0.1]]
    whole = Judge(ASHA, ["digits"] * 5)
    at_once = [whole.hears(number, 1, first) for number, (first, _) in enumerate(errors)]
    past = [PastTrial(f"p{number}", decision == STOP, ((1, errors[number][0]),)) for number, decision in enumerate(at_once[:3])]
    rest = Judge(ASHA, ["digits"] * 2, past=past)
    assert [rest.hears(number, 1, errors[3 + number][0]) for number in (0, 1)] == at_once[3:]
    assert set(at_once) == {GO, STOP}


def test_an_idle_process_is_kept_for_every_slot():
    judge = Judge(SchedulerConfig(), ["digits"])
    resources = judge.trials[0].placement_group_factory
    assert [judge.cache.cache_object(resources, actor) for actor in "abc"] == [True, True, False]
