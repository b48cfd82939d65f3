"""Several trials in one process, whose fine-tuning advances in groups (`finetune.fused`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import TypeVar

from orca_core.config.knobs import TrialConfig
from orca_core.errors import ConfigError, Fault
from orca_core.finetuning.fused import FusedFinetuning, train_together
from orca_core.pipeline import Keep, trial_rows
from orca_core.probing.request import ProbeRequest
from orca_core.rows import Row, TrialResult
from orca_core.store import Store
from orca_core.trajectory import Due
from orca_core.workbench import Workbench

K = TypeVar("K", bound=Hashable)


def run_trials(
    configs: Sequence[TrialConfig],
    store: Store,
    report: Callable[[int, Row], None],
    *,
    device: str = "cpu",
    keep_at: Mapping[str, Collection[int]] = {},
    keep: Keep = "none",
    models: Store | None = None,
    workbench: Workbench | None = None,
    probes: ProbeRequest | None = None,
) -> list[TrialResult | Exception]:
    """Run several trials side by side; those that can, train as one batched model.

    Each trial has the rows, keys and artifacts that `run_trial` gives it, to the same bits. Stages before fine-tuning are run one after the
    other. Then all trials advance epoch by epoch, in groups of up to `finetune.fused` that differ in seed, learning rate, schedule, weight
    decay or label smoothing; a trial that fits no other trains among copies. The models of all trials are in memory at once.

    Args:
        configs: The trials, with `finetune.fused` above 0.
        store: Where stages are found and kept.
        report: Called with the number of a trial and its row, as rows come. If it raises, all trials stop and store their state.
        device, keep_at, keep, models, workbench, probes: As in `run_trial`.

    Returns:
        For each trial its result, or what ended it: a number that is not finite, or an error, of one trial touches no other.

    Raises:
        ConfigError: If a trial has `finetune.fused: 0`.
    """
    alone = [config.finetune.fused for config in configs if not config.finetune.fused]
    if alone:
        raise ConfigError([Fault("finetune.fused", "must be above 0 for trials that run side by side", 0, "Run this trial by run_trial.")])
    workbench = workbench or Workbench.current()
    runs = {
        number: trial_rows(
            config,
            store,
            device=device,
            keep_at=keep_at,
            keep=keep,
            models=models,
            workbench=workbench,
            probes=probes,
            announces=True,
        )
        for number, config in enumerate(configs)
    }
    ended: dict[int, TrialResult | Exception] = {}
    with closing(rows_together(runs, workbench)) as steps:
        for number, step in steps:
            if isinstance(step, TrialResult | Exception):
                ended[number] = step
            elif step is not None:
                report(number, step)
    return [ended[number] for number in runs]


def rows_together(
    runs: Mapping[K, Generator[Row, None, TrialResult]], workbench: Workbench, limits: Mapping[K, int] = {}
) -> Generator[tuple[K, Row | TrialResult | Exception | None], None, None]:
    """Run trials side by side, as a generator for a caller that wants to stop in between: closing it stores the state of each trial.

    A stage before fine-tuning is computed by the first trial that comes to it; those after it find it in the store.

    Args:
        runs: The trials, each as `trial_rows` that announces its epochs.
        workbench: Where data lies and what stays loaded.
        limits: Trial -> epoch of fine-tuning after which it leaves the others.

    Yields:
        The name of a trial, and its next row or, as its last, how it ended: its result, its error, or None if it has left at its limit,
        with its state stored if `keep_at` names that epoch.
    """
    active = dict(runs)
    with ExitStack() as stack:
        for rows in runs.values():
            stack.callback(rows.close)  # of all, also if one cannot store its state
        while active:
            due = []
            for name, rows in list(active.items()):
                for step in _until_due(rows):
                    if isinstance(step, Due):
                        if step.epoch > limits.get(name, step.epoch):
                            del active[name]
                            yield name, _leave(rows)
                        else:
                            due.append(step)
                        continue
                    if isinstance(step, TrialResult | Exception):
                        del active[name]
                    yield name, step
            with workbench.use():
                train_together([(one.trajectory, one.epoch) for one in due if isinstance(one.trajectory, FusedFinetuning)])


def _until_due(rows: Generator[Row, None, TrialResult]) -> Iterator[Row | Due | TrialResult | Exception]:
    """The rows of a trial until an epoch is due or it ends; last the `Due`, or how it ended."""
    while True:
        try:
            row: Row | Due = next(rows)
        except StopIteration as stop:
            yield stop.value
            return
        except Exception as error:
            yield error
            return
        yield row
        if isinstance(row, Due):
            return


def _leave(rows: Generator[Row, None, TrialResult]) -> Exception | None:
    """Stop a trial for now. Returns its error, if it cannot store its state."""
    try:
        rows.close()
    except Exception as error:
        return error
    return None
