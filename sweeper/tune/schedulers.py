"""The order in which Ray Tune runs trials. Which of them are stopped early is decided by the session, not by a scheduler of Ray."""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import FIFOScheduler


class SlotScheduler(FIFOScheduler):
    """Starts trials in their order, and keeps an idle process for every slot.

    Args:
        slots: Maximum number of trials at once.
    """

    def __init__(self, slots: int) -> None:
        super().__init__()
        self._slots = slots
        self._actors_kept = False

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Keep an idle actor for every slot: Tune keeps only one, so a slot that waits for a leader would lose its loaded process.

        `_actor_cache` is private to Ray; a test counts the processes.
        """
        if not self._actors_kept:
            tune_controller._actor_cache.increase_max(trial.placement_group_factory, by=self._slots)
            self._actors_kept = True
