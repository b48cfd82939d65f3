"""Several trials in one process, whose fine-tuning advances in groups (`finetune.fused`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence

from orca_core.config.knobs import TrialConfig
from orca_core.errors import ConfigError, Fault
from orca_core.finetuning.fused import FusedFinetuning, train_together
from orca_core.pipeline import Keep, trial_rows
from orca_core.probing.request import ProbeRequest
from orca_core.rows import Row, TrialResult
from orca_core.store import Store
from orca_core.trajectory import Due
from orca_core.workbench import Workbench


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
    try:
        while len(ended) < len(runs):
            due = []
            for number, rows in runs.items():
                if number not in ended:
                    outcome = _until_due(rows, lambda row, number=number: report(number, row))  # type: ignore[misc]
                    if isinstance(outcome, Due):
                        due.append(outcome)
                    else:
                        ended[number] = outcome
            with workbench.use():
                train_together([(one.trajectory, one.epoch) for one in due if isinstance(one.trajectory, FusedFinetuning)])
    finally:
        for rows in runs.values():
            rows.close()
    return [ended[number] for number in runs]


def _until_due(rows: Generator[Row, None, TrialResult], report: Callable[[Row], None]) -> Due | TrialResult | Exception:
    """Report the rows of a trial until an epoch is due; returns that, or how the trial ended."""
    while True:
        try:
            row = next(rows)
        except StopIteration as stop:
            result: TrialResult = stop.value
            return result
        except Exception as error:
            return error
        if isinstance(row, Due):
            return row
        report(row)
