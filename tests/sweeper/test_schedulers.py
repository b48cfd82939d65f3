"""What Ray Tune's scheduler is left with: the order of the trials, and their processes."""

from __future__ import annotations

from types import SimpleNamespace

from ray.tune.execution.tune_controller import _ObjectCache
from ray.tune.experiment import Trial

from sweeper.tune.schedulers import SlotScheduler


def test_an_idle_process_is_kept_for_every_slot():
    cache, scheduler = _ObjectCache(may_keep_one=True), SlotScheduler(slots=2)
    trials = [Trial("stub", stub=True, trial_id=str(number)) for number in range(3)]
    for trial in trials:
        scheduler.on_trial_add(SimpleNamespace(_actor_cache=cache), trial)
    resources = trials[0].placement_group_factory
    assert [cache.cache_object(resources, actor) for actor in "abc"] == [True, True, False]
