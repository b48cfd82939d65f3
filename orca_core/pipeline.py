"""A trial from config to rows: pretraining, source features, alignment, fine-tuning."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from orca_core.addresses import Address
from orca_core.alignment.joint import BatchDistance
from orca_core.alignment.loop import Alignment, class_labels, embedder_weights
from orca_core.alignment.proxy_distance import ProxyDistances, distances_at_start
from orca_core.alignment.source import source_features
from orca_core.bodies.loading import LoadedBody, checkpoint_body, pretrained_mini, random_body
from orca_core.config.knobs import TrialConfig
from orca_core.finetuning.loop import SCORES_KEY, Finetuning, Weights, weights_of
from orca_core.model.cross_modal import CrossModalModel
from orca_core.pretraining.loop import Pretraining
from orca_core.proxies import find_proxy
from orca_core.rows import EpochRow, Row, StageRow, TrialResult, best_row
from orca_core.seeding import derive
from orca_core.stages import Kind, Stage, result_key, stages_of
from orca_core.store import Artifact, Store
from orca_core.tasks import Split, TaskData
from orca_core.tasks.spec import check_train_samples
from orca_core.tasks.splitting import stratified_order
from orca_core.trajectory import advance, rows_of

Keep = Literal["none", "best", "last", "all"]
"""Which fine-tuned weights of a trial stay: of no epoch, of the best one, of the last one, or of the best and the states of all."""


def run_trial(
    config: TrialConfig,
    store: Store,
    report: Callable[[Row], None],
    *,
    device: str = "cpu",
    keep_at: Mapping[str, Collection[int]] = {},
    keep: Keep = "none",
    models: Store | None = None,
) -> TrialResult:
    """Run one trial.

    Args:
        config: The trial.
        store: Where stages are found and kept.
        report: Called with every row as it comes: one per stage and epoch, one per stage.
        device: Device type, `cpu` or `cuda`.
        keep_at: Place of a stage -> epochs whose states other trials will want.
        keep: Which fine-tuned weights stay; they are read again by `orca_core.export`.
        models: Where weights are kept; None = in `store`.

    Returns:
        The scores and counts of the trial.

    Raises:
        OrcaError: If data, body or store cannot be used, or a number is not finite.
    """
    rows = trial_rows(config, store, device=device, keep_at=keep_at, keep=keep, models=models)
    with closing(rows):  # when `report` raises, the state so far is stored at once
        while True:
            try:
                report(next(rows))
            except StopIteration as stop:
                result: TrialResult = stop.value
                return result


def trial_rows(
    config: TrialConfig,
    store: Store,
    *,
    device: str = "cpu",
    keep_at: Mapping[str, Collection[int]] = {},
    keep: Keep = "none",
    models: Store | None = None,
) -> Generator[Row, None, TrialResult]:
    """`run_trial` as a generator of rows, for a caller that wants to stop in between."""
    _prepare_torch(config, device)
    all_stages = stages_of(config, device)
    phases = [stage for stage in all_stages if stage.kind == "finetune"]
    data = load_data(config)  # first: what is wrong with it should be said before anything is computed
    model, source, _ = yield from _build(config, data, store, device, keep_at)
    place = torch.device(device)

    tuning: Finetuning | None = None
    before: Artifact | None = None
    rows: list[EpochRow] = []
    counts = []
    for stage in phases:

        def build(stage: Stage = stage, before: Artifact | None = before) -> Finetuning:
            nonlocal tuning
            if tuning is None:
                distance = None
                if source is not None and config.aligns_jointly:
                    distance = BatchDistance(config, source.tensors["features"], source.tensors["labels"], data, place)
                tuning = Finetuning(config, model, data, place, keep_best=keep in ("best", "all"), distance=distance)
            if before is not None:
                tuning.load_state(before.tensors)  # also where it has trained: the phase before may have come from the store
            tuning.start_phase(stage.phase)
            return tuning

        ends = range(stage.start + 1, (stage.end or 0) + 1) if keep == "all" else keep_at.get(stage.folder, ())
        # The weights after the last phase are needed again only by trials that go on from there.
        needed = stage is not phases[-1] or keep == "all" or any(epoch > (stage.end or 0) for epoch in ends)
        phase = config.phases[stage.phase]
        # The layers that `surgical` chose are in the state: it is always kept.
        before = yield from advance(stage, store, build, keep_tensors=needed or phase.is_surgical, keep_at=ends)
        model.train_only(phase.train, before.tensors.get(SCORES_KEY))
        counts.append(model.num_trained())
        rows += [row for row in rows_of(before) if row.epoch > stage.start]
    best, last = best_row(rows, config.selection, config.selection_ties), rows[-1]
    if keep != "none" and before is not None:
        which: Literal["best", "last"] = "last" if keep == "last" else "best"
        epoch = (best if which == "best" else last).epoch
        if (weights := weights_at(epoch, config.best_by, before, tuning)) is not None:
            address = Address.model(result_key(config, all_stages), which)
            (models or store).put(address, weights, {"epoch": epoch})
    return TrialResult.of(best, last, sum(parameter.numel() for parameter in model.parameters()), counts)


def build_model(
    config: TrialConfig, data: TaskData, store: Store, *, device: str = "cpu", keep_at: Mapping[str, Collection[int]] = {}
) -> Generator[Row, None, CrossModalModel]:
    """The model as fine-tuning starts with it: pretrained, aligned. Yields the rows of these stages."""
    model, _, _ = yield from _build(config, data, store, device, keep_at)
    return model


def distances_of_proxy(config: TrialConfig, store: Store, *, device: str = "cpu") -> Generator[Row, None, ProxyDistances]:
    """How far a trial's proxy is from its task, as the first epoch of its alignment tells it, to the same bits, without the alignment.

    Yields the rows of the stages before: pretraining and source features, which the store keeps for trials.

    Args:
        config: The trial; `align.epochs` must be above 0, how far does not matter.
        store: Where stages are found and kept.
        device: Device type, `cpu` or `cuda`.
    """
    data = load_data(config)
    stages = {stage.kind: stage for stage in stages_of(config, device)}
    model, loaded = yield from _unaligned(config, data, store, stages, device)
    place = torch.device(device)
    source = yield from _source(config, stages["source"], store, loaded, place)
    features, labels = source.tensors["features"], source.tensors["labels"]
    embedder = model.embedder.to(place)
    return distances_at_start(embedder, data, class_labels(data, config), features, labels, seed=config.seed, device=place)


def _build(
    config: TrialConfig, data: TaskData, store: Store, device: str, keep_at: Mapping[str, Collection[int]]
) -> Generator[Row, None, tuple[CrossModalModel, Artifact | None, Artifact | None]]:
    """`build_model`, and the source features and the alignment if there are any."""
    stages = {stage.kind: stage for stage in stages_of(config, device)}
    model, loaded = yield from _unaligned(config, data, store, stages, device, keep_at)
    if "source" not in stages:
        return model, None, None
    place = torch.device(device)
    source = yield from _source(config, stages["source"], store, loaded, place)
    if (stage := stages.get("align")) is None:
        return model, source, None
    aligned = yield from advance(
        stage,
        store,
        lambda: Alignment(config, model.embedder, source.tensors["features"], source.tensors["labels"], data, place),
        keep_at=keep_at.get(stage.folder, ()),
    )
    model.embedder.load_state_dict(embedder_weights(aligned.tensors))
    return model, source, aligned


def _unaligned(
    config: TrialConfig,
    data: TaskData,
    store: Store,
    stages: Mapping[Kind, Stage],
    device: str,
    keep_at: Mapping[str, Collection[int]] = {},
) -> Generator[Row, None, tuple[CrossModalModel, LoadedBody]]:
    """The model before alignment, and the body it is made of. Yields the rows of pretraining."""
    _prepare_torch(config, device)
    pretrained = None
    if stage := stages.get("pretrain"):
        pretrained = yield from advance(
            stage,
            store,
            lambda: Pretraining(config.body_spec, config.pretrain, torch.device(device)),
            keep_at=keep_at.get(stage.folder, ()),
        )
    loaded = _load_body(config, pretrained, stages.get("pretrain"))
    return CrossModalModel(config, loaded, data.input_shape, data.output_shape), loaded


def weights_at(epoch: int, best_by: str, end: Artifact, tuning: Finetuning | None) -> Mapping[str, Tensor] | None:
    """The trained parameters after an epoch, by name, if they are still there.

    Args:
        epoch: The best one, or the last.
        best_by: What it is best by, see `TrialConfig.best_by`.
        end: State at the end of the trajectory; may hold rows alone.
        tuning: What trained on the trajectory, or a part of it.
    """
    held = [Weights.from_tensors(best_by, end.tensors), tuning.best if tuning else None]
    best = next((weights for weights in held if weights is not None and weights.epoch == epoch), None)
    if best is not None:
        return best.tensors
    if end.tensors and rows_of(end)[-1].epoch == epoch:
        return weights_of(end.tensors)
    return tuning.weights() if tuning is not None and tuning.epoch == epoch else None


def _source(config: TrialConfig, stage: Stage, store: Store, loaded: LoadedBody, device: torch.device) -> Generator[Row, None, Artifact]:
    """Source features, from the store or computed and stored there."""
    started = time.perf_counter()
    artifact = store.get(stage.address)
    reused, stored = artifact is not None, None
    if artifact is None:
        proxy = find_proxy(config.proxy)
        features, labels = source_features(proxy, loaded, samples=config.align.proxy_samples, seed=config.seed, device=device)
        artifact = Artifact({"features": features, "labels": labels}, {"seconds": time.perf_counter() - started})
        stored = store.put(stage.address, artifact.tensors, artifact.data)
    yield StageRow(
        stage="source",
        key=stage.key,
        epochs=0,
        reused_epochs=0,
        seconds=0.0 if reused else time.perf_counter() - started,
        saved_s=artifact.data["seconds"] if reused else 0.0,
        stored_bytes=stored,
    )
    return artifact


_minis: OrderedDict[tuple[str, float], LoadedBody] = OrderedDict()
_tasks: OrderedDict[tuple[str, int, bool], TaskData] = OrderedDict()


def _kept(cache: OrderedDict[Any, Any], key: Any, make: Callable[[], Any], size: int) -> Any:
    """An entry of a small cache that keeps bodies and data in the process between trials, most recently used last."""
    if key not in cache:
        cache[key] = make()
        while len(cache) > size:
            cache.popitem(last=False)
    cache.move_to_end(key)
    return cache[key]


def _load_body(config: TrialConfig, pretrained: Artifact | None, stage: Stage | None) -> LoadedBody:
    spec, dropout = config.body_spec, config.finetune.dropout
    if config.body.weights == "random":
        return random_body(spec, seed=config.seed, dropout=dropout)
    if pretrained is not None and stage is not None:
        loaded: LoadedBody = _kept(_minis, (stage.address, dropout), lambda: pretrained_mini(spec, pretrained.tensors, dropout), size=4)
        return loaded
    return checkpoint_body(spec, spec.digest(), dropout)


def load_data(config: TrialConfig) -> TaskData:
    """The data of a trial: the task's, with `train_samples` of its training rows."""
    spec = config.task_spec
    key = (spec.digest(), config.split_seed, config.reference_data)
    data: TaskData = _kept(_tasks, key, lambda: spec.load(config.split_seed, config.reference_data), size=4)
    if config.train_samples is None:
        return data
    check_train_samples(data, config.train_samples, config.task)
    labels = data.train.y if data.num_classes is not None else np.zeros(len(data.train), dtype=np.int64)
    # The end of a stratified order holds every class, and a smaller subset is a part of a larger one.
    chosen = np.sort(stratified_order(labels, derive(config.split_seed, "train-subset"))[-config.train_samples :])
    train = Split(np.ascontiguousarray(data.train.x[chosen]), np.ascontiguousarray(data.train.y[chosen]))
    return replace(data, train=train)


def _prepare_torch(config: TrialConfig, device: str) -> None:
    """What the bits of a trial depend on beside its config."""
    torch.set_num_threads(config.threads)
    if device == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
        torch.backends.cuda.matmul.allow_tf32 = False
