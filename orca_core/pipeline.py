"""A trial from config to rows: pretraining, source features, alignment, adaptation, fine-tuning."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, Literal, TypeVar

from orca_core.addresses import Address
from orca_core.alignment.loop import class_labels
from orca_core.alignment.proxy_distance import AtStart, measure_at_start
from orca_core.config.knobs import TrialConfig
from orca_core.finetuning.selection import Selection
from orca_core.keeping import Shapes, describe_data, errors_of, is_complete, shapes_of, weights_at, with_frozen
from orca_core.model.cross_modal import CrossModalModel, build_embedder
from orca_core.pretraining.seen import seen_in_pretraining
from orca_core.probing.request import ProbeRequest
from orca_core.probing.run import probe_rows
from orca_core.rows import EpochRow, ProbeRow, Row, TrialResult, best_row, mean_rows
from orca_core.settings import Settings
from orca_core.stages import result_key, stages_of
from orca_core.store import Artifact, Store
from orca_core.tasks import TaskData
from orca_core.tasks.sizes import keep_sizes, part_sizes
from orca_core.trajectory import Due
from orca_core.trial_stages import TrialStages, load_data, start_matched
from orca_core.workbench import Workbench

Keep = Literal["none", "best", "last", "all"]
"""Which fine-tuned weights of a trial are kept: of no epoch, of the best one, of the last one, or of the best and the states of all."""

T = TypeVar("T")


def run_trial(
    config: TrialConfig,
    store: Store,
    report: Callable[[Row], None],
    *,
    device: str = "cpu",
    keep_at: Mapping[str, Collection[int]] = {},
    keep: Keep = "none",
    models: Store | None = None,
    workbench: Workbench | None = None,
    probes: ProbeRequest | None = None,
) -> TrialResult:
    """Run one trial.

    Args:
        config: The trial.
        store: Where stages are found and kept.
        report: Called with every row as it comes: one for each stage and epoch, one for each stage.
        device: Device type, `cpu` or `cuda`.
        keep_at: Folder of a stage (`Stage.folder`) -> epochs whose states other trials will want.
        keep: Which fine-tuned weights are kept; `orca_core.export` reads them again.
        models: Where weights are kept; None = in `store`.
        workbench: Where data lies and what stays loaded; None = the current one.
        probes: What is measured beside the scores, at the end; of no effect on any other row.

    Returns:
        The scores and counts of the trial.

    Raises:
        OrcaError: If data, body or store cannot be used, a number is not finite, or `bits` is portable and this process is not pinned.
    """
    rows = trial_rows(config, store, device=device, keep_at=keep_at, keep=keep, models=models, workbench=workbench, probes=probes)
    return drain(rows, report)


def drain(rows: Generator[Row, None, T], report: Callable[[Row], None] = lambda row: None) -> T:
    """Report every row of a generator and return its result. If `report` raises, the generator is closed, which stores its state."""
    with closing(rows):
        while True:
            try:
                report(next(rows))
            except StopIteration as stop:
                result: T = stop.value
                return result


def trial_rows(
    config: TrialConfig,
    store: Store,
    *,
    device: str = "cpu",
    keep_at: Mapping[str, Collection[int]] = {},
    keep: Keep = "none",
    models: Store | None = None,
    workbench: Workbench | None = None,
    probes: ProbeRequest | None = None,
    announces: bool = False,
) -> Generator[Row, None, TrialResult]:
    """`run_trial` as a generator of rows, for a caller that wants to stop in between.

    With `announces` it also yields a `Due` before each epoch that can be trained together with those of other trials.
    """
    workbench = workbench or Workbench.current()
    return workbench.drive(_trial_rows(config, store, device, keep_at, keep, models, probes, announces))


def _trial_rows(
    config: TrialConfig,
    store: Store,
    device: str,
    keep_at: Mapping[str, Collection[int]],
    keep: Keep,
    models: Store | None,
    probes: ProbeRequest | None,
    announces: bool,
) -> Generator[Row, None, TrialResult]:
    trial = TrialStages(config, store, device, keep_at, announces)
    data = trial.load_data()  # first: what is wrong with it should be reported before anything is computed
    facts = _facts(config, data)
    pretrained = yield from trial.pretrain()
    source = yield from trial.embed_source(pretrained)
    selection = Selection.of(config)
    if config.is_cross_validated:
        means, valid_samples = yield from _train_folds(config, store, device, keep_at, pretrained, source, announces)
        facts["valid_samples"] = valid_samples
        chosen = best_row(means, "valid", selection.ties)
        tuned = yield from trial.tune(pretrained, source, end=chosen.epoch, keep_all=keep == "all")
        best = replace(tuned.rows[-1], valid_error=chosen.valid_error, valid_loss=chosen.valid_loss)
        last = means[-1]
    else:
        held = selection if keep in ("best", "all") or (probes is not None and probes.weights == "best") else None
        tuned = yield from trial.tune(pretrained, source, held=held, keep_all=keep == "all")
        best, last = best_row(tuned.rows, selection.split, selection.ties), tuned.rows[-1]
    if keep != "none":
        which: Literal["best", "last"] = "last" if keep == "last" else "best"
        epoch = tuned.rows[-1].epoch if which == "last" else best.epoch
        if (weights := weights_at(epoch, selection, tuned.end, tuned.tuning)) is not None:
            found = {"epoch": epoch, "errors": errors_of(best if which == "best" else last), **describe_data(data)}
            weights = with_frozen(weights, tuned.model, tuned.tuning.trained if tuned.tuning else set())
            found["complete"] = is_complete(weights, tuned.model)
            (models or store).put(Address.model(result_key(config, stages_of(config, device)), which), weights, found)
    result = TrialResult.of(best, last, tuned.model.num_parameters(), tuned.trained_counts, facts)
    if probes is not None:
        epoch = tuned.rows[-1].epoch if probes.weights == "last" else best.epoch
        trained = weights_at(epoch, selection, tuned.end, tuned.tuning)
        if tuned.tuning is not None and trained is not None:
            trained = {name: value.detach().to("cpu", copy=True) for name, value in trained.items()}
        del tuned  # its model, before others are built
        yield from probe_rows(config, probes, models or store, trial, data, pretrained, source, trained)
    return result


def _train_folds(
    config: TrialConfig,
    store: Store,
    device: str,
    keep_at: Mapping[str, Collection[int]],
    pretrained: Artifact | None,
    source: Artifact | None,
    announces: bool,
) -> Generator[Row, None, tuple[list[EpochRow], int]]:
    """Align and fine-tune without each fold in turn; returns the mean validation row of every epoch, and the number of samples in it."""
    folds, valid_samples = [], 0
    for fold, part in enumerate(config.fold_configs):
        training = TrialStages(part, store, device, keep_at, announces)
        tuned = yield from _in_fold(fold, training.tune(pretrained, source))
        folds.append(tuned.rows)
        valid_samples += tuned.valid_samples
        del tuned  # its model, before the next one is built
    return mean_rows(folds), valid_samples


def _in_fold(fold: int, rows: Generator[Row, None, T]) -> Generator[Row, None, T]:
    """The same rows, each with the number of the fold. The stored ones have none, as a trial on the one fold has the same stages."""
    with closing(rows):
        while True:
            try:
                row = next(rows)
            except StopIteration as stop:
                result: T = stop.value
                return result
            yield row if isinstance(row, ProbeRow | Due) else replace(row, fold=fold)


def _facts(config: TrialConfig, data: TaskData) -> dict[str, Any]:
    """What the row of a trial says about its data, by column. `data` is that of the final training."""
    reference = config.reference_data and bool(config.task_spec.reference)
    if config.train_samples is None:
        sizes = keep_sizes(config.task_spec, data, config.split_seed, reference, config.held_out)
    else:
        sizes = part_sizes(config.task_spec, data, reference)  # of a part of the training rows
    return {
        "valid_samples": sizes.valid,
        "test_samples": sizes.test,
        "valid_majority_error": sizes.valid_majority_error,
        "majority_error": sizes.majority_error,
        **seen_in_pretraining(config),
        "task_columns": json.dumps(data.encoding.describe(), ensure_ascii=False) if data.encoding is not None else None,
    }


def model_before_tuning(
    config: TrialConfig, store: Store, *, shapes: Shapes | None = None, device: str = "cpu", workbench: Workbench | None = None
) -> CrossModalModel:
    """The model as fine-tuning starts with it: pretrained, aligned, adapted. Stages that the store does not have are computed.

    Args:
        config: The trial.
        store: Where stages are found and kept.
        shapes: Of an input and of an output; None = those of the task's data, which is then loaded.
        device: Device type, `cpu` or `cuda`.
        workbench: Where data lies and what stays loaded; None = the current one.
    """

    def build() -> Generator[Row, None, CrossModalModel]:
        trial = TrialStages(config, store, device)
        of_data = shapes or shapes_of(trial.load_data())
        pretrained = yield from trial.pretrain()
        source = yield from trial.embed_source(pretrained)
        model = yield from trial.start_of_tuning(of_data, pretrained, source)
        return model

    return drain((workbench or Workbench.current()).drive(build()))


def measure_proxy(
    config: TrialConfig, store: Store, *, device: str = "cpu", workbench: Workbench | None = None
) -> Generator[Row, None, AtStart]:
    """How far a trial's proxy is from its task, and LogME and H-score: as the first epoch of its alignment reports them, to the same bits.

    Yields the rows of the stages before: pretraining and source features, which the store keeps for trials.

    Args:
        config: The trial; `align.epochs` must be above 0, how far does not matter.
        store: Where stages are found and kept.
        device: Device type, `cpu` or `cuda`.
        workbench: Where data lies and what stays loaded; None = the current one.
    """
    return (workbench or Workbench.current()).drive(_measure_proxy(config, store, device))


def _measure_proxy(config: TrialConfig, store: Store, device: str) -> Generator[Row, None, AtStart]:
    trial, settings = TrialStages(config, store, device), Settings.of(config, "align")
    data = load_data(settings)
    pretrained = yield from trial.pretrain()
    source = yield from trial.embed_source(pretrained)
    assert source is not None, "align.epochs must be above 0"
    embedder = build_embedder(settings, trial.load_body(settings, pretrained), data.input_shape).to(trial.device)
    start_matched(settings, embedder, data, source)
    labels = class_labels(data, settings["seed"], settings["threads"])
    features = source.tensors["features"], source.tensors["labels"]
    return measure_at_start(embedder, data, labels, *features, seed=settings["seed"], device=trial.device)
