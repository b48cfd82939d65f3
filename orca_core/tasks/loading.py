"""The data of a task as a trial gets it: divided into parts, with `train_samples` of the training rows."""

from __future__ import annotations

from dataclasses import replace

from orca_core.seeding import derive
from orca_core.tasks.spec import Split, TaskData, TaskSpec, check_train_samples
from orca_core.tasks.splitting import stratified_order
from orca_core.tasks.validation import OWN_SHARE, Validation
from orca_core.workbench import Workbench

MAX_LOADED = 4
"""How many divisions of data sets a process keeps loaded."""


def load_parts(
    spec: TaskSpec, split_seed: int = 0, reference: bool = False, validation: Validation = OWN_SHARE, train_samples: int | None = None
) -> TaskData:
    """The data of a task; what a process has read stays loaded.

    Args:
        spec: The task.
        split_seed, reference, validation: As for `TaskSpec.load`.
        train_samples: Number of training rows, drawn by `split_seed`; None = all.

    Raises:
        DataError, ConfigError: As `TaskSpec.load`; also if so many training rows cannot be drawn.
    """
    import numpy as np

    key = (spec.digest(), split_seed, reference, validation)
    data = Workbench.current().recall("tasks", key, lambda: spec.load(split_seed, reference, validation), maxsize=MAX_LOADED)
    if train_samples is None:
        return data
    check_train_samples(data, train_samples, spec.name)
    labels = data.train.y if data.num_classes is not None else np.zeros(len(data.train), dtype=np.int64)
    # The end of a stratified order holds every class, and a smaller subset is a part of a larger one.
    chosen = np.sort(stratified_order(labels, derive(split_seed, "train-subset"))[-train_samples:])
    train = Split(np.ascontiguousarray(data.train.x[chosen]), np.ascontiguousarray(data.train.y[chosen]))
    return replace(data, train=train)
