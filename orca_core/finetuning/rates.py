"""The schedule of the learning rate in fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orca_core.settings import Settings
from orca_core.training.optimizers import reference_warmup_decay, warmup_cosine, warmup_decay


def schedule_factor(settings: Settings, passed: int, group_sizes: Sequence[int], number: int) -> float:
    """Factor on the learning rate in the step of a group of batches.

    Args:
        settings: `finetune.schedule`, `finetune.warmup_epochs`, `finetune.decay_epochs`.
        passed: Epochs since the schedule began.
        group_sizes: Numbers of batches of the epoch's groups.
        number: Of the group, from 0.
    """
    return schedule(settings)(passed, group_sizes, number)


def schedule(settings: Settings) -> Callable[[int, Sequence[int], int], float]:
    """`schedule_factor` of some settings, as a function of its other arguments."""
    lengths = settings["finetune.warmup_epochs"], settings["finetune.decay_epochs"]
    if settings["finetune.schedule"] == "reference":

        def of_batches(passed: int, group_sizes: Sequence[int], number: int) -> float:
            batches = sum(group_sizes)
            last = passed * batches + sum(group_sizes[: number + 1]) - 1
            return reference_warmup_decay(last, batches, *lengths)

        return of_batches
    factor = {"linear": warmup_decay, "cosine": warmup_cosine}[settings["finetune.schedule"]]
    return lambda passed, group_sizes, number: factor(passed + (number + 1) / len(group_sizes), *lengths)
