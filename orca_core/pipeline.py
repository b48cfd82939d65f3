"""A trial from config to rows: pretraining, source features, alignment, fine-tuning."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Literal, TypeVar

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
from orca_core.declarations import Kind
from orca_core.errors import DataError, nearest
from orca_core.finetuning.loop import FISHER_SCORES, Finetuning, weights_of
from orca_core.finetuning.selection import BestWeights, Selection
from orca_core.model.cross_modal import CrossModalModel, build_embedder
from orca_core.numerics import check_pinned, is_mixed, made_by, numerical_kind
from orca_core.pretraining.loop import Pretraining
from orca_core.proxies import find_proxy
from orca_core.rows import EpochRow, Row, StageRow, TrialResult, best_row
from orca_core.scoring import LOSSES, SCORES
from orca_core.seeding import derive
from orca_core.settings import Settings
from orca_core.stages import Stage, result_key, stages_of
from orca_core.store import Artifact, Store
from orca_core.tasks import Split, TaskData, TaskSpec
from orca_core.tasks.spec import check_train_samples
from orca_core.tasks.splitting import stratified_order
from orca_core.trajectory import Trajectory, advance, rows_of
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

    Returns:
        The scores and counts of the trial.

    Raises:
        OrcaError: If data, body or store cannot be used, a number is not finite, or `bits` is portable and this process is not pinned.
    """
    rows = trial_rows(config, store, device=device, keep_at=keep_at, keep=keep, models=models, workbench=workbench)
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
) -> Generator[Row, None, TrialResult]:
    """`run_trial` as a generator of rows, for a caller that wants to stop in between."""
    workbench = workbench or Workbench.current()
    return workbench.drive(_trial_rows(config, store, device, keep_at, keep, models))


def _trial_rows(
    config: TrialConfig, store: Store, device: str, keep_at: Mapping[str, Collection[int]], keep: Keep, models: Store | None
) -> Generator[Row, None, TrialResult]:
    trial = _Trial(config, store, device, keep_at)
    data = trial.load_data()  # first: what is wrong with it should be reported before anything is computed
    pretrained = yield from trial.pretrain()
    source = yield from trial.embed_source(pretrained)
    aligned = yield from trial.align(pretrained, source)
    model = trial.build_model(data, pretrained, aligned)

    tuning: Finetuning | None = None
    before: Artifact | None = None
    selection = Selection.of(config)
    rows: list[EpochRow] = []
    trained_counts = []
    for stage in trial.phases:
        settings = Settings.of(config, "finetune", stage.phase)

        def build(stage: Stage = stage, settings: Settings = settings, before: Artifact | None = before) -> Finetuning:
            nonlocal tuning
            if tuning is None:
                distance = trial.batch_distance(settings, data, source)
                held = selection if keep in ("best", "all") else None
                tuning = Finetuning(settings, model, data, trial.device, selection=held, distance=distance)
            if before is not None:
                tuning.load_state(before.tensors)  # also where it has trained: the phase before may have come from the store
            tuning.start_phase(settings)
            return tuning

        is_last = stage is trial.phases[-1]
        before = yield from trial.advance_phase(stage, build, keep_all=keep == "all", is_last=is_last)
        model.train_only(settings.phases[-1].train, before.tensors.get(FISHER_SCORES))
        trained_counts.append(model.num_trained())
        rows += [row for row in rows_of(before) if row.epoch > stage.start]
    best, last = best_row(rows, selection.split, selection.ties), rows[-1]
    if keep != "none" and before is not None:
        which: Literal["best", "last"] = "last" if keep == "last" else "best"
        epoch = (best if which == "best" else last).epoch
        if (weights := weights_at(epoch, selection, before, tuning)) is not None:
            (models or store).put(Address.model(result_key(config, trial.stages), which), weights, {"epoch": epoch})
    return TrialResult.of(best, last, sum(parameter.numel() for parameter in model.parameters()), trained_counts)


def model_before_tuning(config: TrialConfig, store: Store, *, device: str = "cpu", workbench: Workbench | None = None) -> CrossModalModel:
    """The model as fine-tuning starts with it: pretrained, aligned. Stages that the store does not have are computed."""

    def build() -> Generator[Row, None, CrossModalModel]:
        trial = _Trial(config, store, device)
        data = trial.load_data()
        pretrained = yield from trial.pretrain()
        source = yield from trial.embed_source(pretrained)
        aligned = yield from trial.align(pretrained, source)
        return trial.build_model(data, pretrained, aligned)

    return drain((workbench or Workbench.current()).drive(build()))


def distances_of_proxy(
    config: TrialConfig, store: Store, *, device: str = "cpu", workbench: Workbench | None = None
) -> Generator[Row, None, ProxyDistances]:
    """How far a trial's proxy is from its task, as the first epoch of its alignment reports it, to the same bits, without the alignment.

    Yields the rows of the stages before: pretraining and source features, which the store keeps for trials.

    Args:
        config: The trial; `align.epochs` must be above 0, how far does not matter.
        store: Where stages are found and kept.
        device: Device type, `cpu` or `cuda`.
        workbench: Where data lies and what stays loaded; None = the current one.
    """
    return (workbench or Workbench.current()).drive(_distances_of_proxy(config, store, device))


def _distances_of_proxy(config: TrialConfig, store: Store, device: str) -> Generator[Row, None, ProxyDistances]:
    trial, settings = _Trial(config, store, device), Settings.of(config, "align")
    data = load_data(settings)
    pretrained = yield from trial.pretrain()
    source = yield from trial.embed_source(pretrained)
    assert source is not None, "align.epochs must be above 0"
    embedder = build_embedder(settings, trial.load_body(settings, pretrained), data.input_shape).to(trial.device)
    labels = class_labels(data, settings["seed"], settings["threads"])
    features = source.tensors["features"], source.tensors["labels"]
    return distances_at_start(embedder, data, labels, *features, seed=settings["seed"], device=trial.device)


class _Trial:
    """The stages of one trial before fine-tuning, each from the store or computed and stored there.

    Every stage is built from `Settings`, its own view of the config, and from the results of the stages before it.
    """

    def __init__(self, config: TrialConfig, store: Store, device: str, keep_at: Mapping[str, Collection[int]] = {}) -> None:
        if config.bits == "portable":
            check_pinned(device)
        _prepare_torch(config.threads, device)
        self.kind = numerical_kind(device)
        self.config, self.store, self.device, self.keep_at = config, store, torch.device(device), keep_at
        self.stages = stages_of(config, device)
        self.phases = [stage for stage in self.stages if stage.kind == "finetune"]

    def stage(self, kind: Kind) -> Stage | None:
        """The stage of a kind, if the trial has one."""
        return next((stage for stage in self.stages if stage.kind == kind), None)

    def load_data(self) -> TaskData:
        """The task's data, with `train_samples` of its training rows."""
        return load_data(Settings.of(self.config, "finetune"))

    def pretrain(self) -> Generator[Row, None, Artifact | None]:
        """Pretrain the body, if it is one that is pretrained here."""
        if (stage := self.stage("pretrain")) is None:
            return None
        settings = Settings.of(self.config, "pretrain")
        artifact = yield from self._advance(stage, lambda: Pretraining(settings, self.device))
        return artifact

    def embed_source(self, pretrained: Artifact | None) -> Generator[Row, None, Artifact | None]:
        """Compute the features of the proxy, if the trial compares with any."""
        if (stage := self.stage("source")) is None:
            return None
        settings, started = Settings.of(self.config, "source"), time.perf_counter()
        artifact = self.store.get(stage.address)
        reused, stored = artifact is not None, None
        if artifact is None:
            proxy, body = find_proxy(settings["proxy"]), self.load_body(settings, pretrained)
            samples, seed = settings["align.proxy_samples"], settings["seed"]
            features, labels = source_features(proxy, body, samples=samples, seed=seed, device=self.device)
            data = {"seconds": time.perf_counter() - started, **made_by(self.kind)}
            artifact = Artifact({"features": features, "labels": labels}, data)
            stored = self.store.put(stage.address, artifact.tensors, artifact.data)
        yield StageRow(
            stage=stage.kind,
            key=stage.key,
            epochs=0,
            reused_epochs=0,
            seconds=0.0 if reused else time.perf_counter() - started,
            saved_s=artifact.data["seconds"] if reused else 0.0,
            stored_bytes=stored,
            mixed_numerics=is_mixed(self.kind, artifact.data) if reused else False,
        )
        return artifact

    def align(self, pretrained: Artifact | None, source: Artifact | None) -> Generator[Row, None, Artifact | None]:
        """Align the embedder with the proxy, if `align.epochs` is above 0."""
        if (stage := self.stage("align")) is None or source is None:
            return None
        settings = Settings.of(self.config, "align")

        def build() -> Alignment:
            data = load_data(settings)
            embedder = build_embedder(settings, self.load_body(settings, pretrained), data.input_shape)
            return Alignment(settings, embedder, source.tensors["features"], source.tensors["labels"], data, self.device)

        artifact = yield from self._advance(stage, build)
        return artifact

    def build_model(self, data: TaskData, pretrained: Artifact | None, aligned: Artifact | None) -> CrossModalModel:
        """The model as fine-tuning starts with it."""
        settings = Settings.of(self.config, "finetune")
        body = self.load_body(settings, pretrained, dropout=settings["finetune.dropout"])
        model = CrossModalModel(settings, body, data.input_shape, data.output_shape)
        if aligned is not None:
            model.embedder.load_state_dict(embedder_weights(aligned.tensors))
        return model

    def load_body(self, settings: Settings, pretrained: Artifact | None, dropout: float = 0.0) -> LoadedBody:
        """The body of a stage, with its weights."""
        spec = settings.body
        if settings["body.weights"] == "random":
            return random_body(spec, seed=settings["seed"], dropout=dropout)
        if pretrained is None:
            return checkpoint_body(spec, spec.digest(), dropout)
        stage = self.stage("pretrain")
        assert stage is not None
        key = (stage.address, dropout)
        return Workbench.current().recall("pretrained bodies", key, lambda: pretrained_mini(spec, pretrained.tensors, dropout), maxsize=4)

    def batch_distance(self, settings: Settings, data: TaskData, source: Artifact | None) -> BatchDistance | None:
        """The distance to the proxy, if fine-tuning minimises it too."""
        if source is None or "source" not in settings.inputs:
            return None
        return BatchDistance(settings, source.tensors["features"], source.tensors["labels"], data, self.device)

    def advance_phase(
        self, stage: Stage, build: Callable[[], Finetuning], *, keep_all: bool, is_last: bool
    ) -> Generator[Row, None, Artifact]:
        """Bring a phase of fine-tuning to its end."""
        end = stage.end
        ends: Collection[int] = range(stage.start + 1, end + 1) if keep_all else self._ends(stage)
        # The weights after the last phase are needed again only by trials that go on from there.
        needed = not is_last or keep_all or any(epoch > end for epoch in ends)
        # The layers that `surgical` chose are in the state: it is always kept.
        needed |= self.config.phases[stage.phase].is_surgical
        artifact = yield from advance(stage, self.store, build, kind=self.kind, keep_tensors=needed, keep_at=ends)
        return artifact

    def _advance(self, stage: Stage, build: Callable[[], Trajectory]) -> Generator[Row, None, Artifact]:
        artifact = yield from advance(stage, self.store, build, kind=self.kind, keep_at=self._ends(stage))
        return artifact

    def _ends(self, stage: Stage) -> Collection[int]:
        return self.keep_at.get(stage.folder, ())


def weights_at(epoch: int, selection: Selection, end: Artifact, tuning: Finetuning | None) -> Mapping[str, Tensor] | None:
    """The trained parameters after an epoch, by name, if they are still there.

    Args:
        epoch: The best one, or the last.
        selection: What the best one is best by.
        end: State at the end of the trajectory; may hold rows alone.
        tuning: What trained on the trajectory, or a part of it.
    """
    held = [BestWeights.from_state(selection, end.tensors), tuning.best if tuning else None]
    best = next((weights for weights in held if weights is not None and weights.epoch == epoch), None)
    if best is not None:
        return best.tensors
    if end.tensors and rows_of(end)[-1].epoch == epoch:
        return weights_of(end.tensors)
    return tuning.weights() if tuning is not None and tuning.epoch == epoch else None


def load_data(settings: Settings) -> TaskData:
    """The data of a trial: the task's, with `train_samples` of its training rows.

    Args:
        settings: Of alignment or of fine-tuning.
    """
    spec, split_seed, reference = settings.task, settings["split_seed"], settings["reference_data"]
    _check_scoring(spec, reference)
    key = (spec.digest(), split_seed, reference)
    data = Workbench.current().recall("tasks", key, lambda: spec.load(split_seed, reference), maxsize=4)
    samples = settings["train_samples"]
    if samples is None:
        return data
    check_train_samples(data, samples, settings["task"])
    labels = data.train.y if data.num_classes is not None else np.zeros(len(data.train), dtype=np.int64)
    # The end of a stratified order holds every class, and a smaller subset is a part of a larger one.
    chosen = np.sort(stratified_order(labels, derive(split_seed, "train-subset"))[-samples:])
    train = Split(np.ascontiguousarray(data.train.x[chosen]), np.ascontiguousarray(data.train.y[chosen]))
    return replace(data, train=train)


def _check_scoring(spec: TaskSpec, reference: bool) -> None:
    """Check that a task's loss and score exist, before anything is computed: a task of another package may name any."""
    for field, name, known in (("loss", spec.loss, LOSSES), ("score", spec.score_name(reference), SCORES)):
        if name not in known:
            raise DataError(f"{spec.name}: {field} must be the name of a {field}, but got {name!r}. {nearest(name, known)}")


def _prepare_torch(threads: int, device: str) -> None:
    """Set what the bits of a trial depend on besides its config."""
    torch.set_num_threads(threads)
    if device == "cuda":
        # cuBLAS reads it when it is first used; without it, its sums may differ from run to run.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Not `warn_only`: then the backward pass of attention would be the one that differs from run to run.
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = False  # on by default: fp32 convolutions would have 10 bits of mantissa
        torch.backends.cuda.matmul.allow_tf32 = False
