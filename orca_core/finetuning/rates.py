"""The schedule of the learning rate in fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence

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
    lengths = settings["finetune.warmup_epochs"], settings["finetune.decay_epochs"]
    if settings["finetune.schedule"] == "reference":
        batches = sum(group_sizes)
        last = passed * batches + sum(group_sizes[: number + 1]) - 1
        return reference_warmup_decay(last, batches, *lengths)
    schedule = {"linear": warmup_decay, "cosine": warmup_cosine}[settings["finetune.schedule"]]
    return schedule(passed + (number + 1) / len(group_sizes), *lengths)
