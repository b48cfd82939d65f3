"""The stages of one training, each from the store or computed and stored there, and the data they read."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from orca_core.adaptation.loop import Adaptation, adapted_body
from orca_core.alignment.choice import target_at_start
from orca_core.alignment.joint import BatchDistance
from orca_core.alignment.loop import Alignment, embedder_weights
from orca_core.alignment.source import source_features
from orca_core.alignment.source_tokens import SourceTokens
from orca_core.bodies.bodiless import ConvolutionalNetwork
from orca_core.bodies.families.decoders import DecoderBody
from orca_core.bodies.keep import ALL
from orca_core.bodies.loading import LoadedBody, checkpoint_body, partly_pretrained, pretrained_mini, random_body, shuffled_body
from orca_core.config.device_faults import check_device
from orca_core.config.knobs import TrialConfig
from orca_core.declarations import STAGES
from orca_core.errors import DataError, nearest
from orca_core.finetuning.fused import FusedFinetuning
from orca_core.finetuning.loop import FISHER_SCORES, Finetuning
from orca_core.finetuning.selection import Selection
from orca_core.finetuning.terms.base import Term
from orca_core.finetuning.terms.mixing import Mixing
from orca_core.keeping import Shapes, shapes_of
from orca_core.memory import keep_freed_memory, release
from orca_core.model.cross_modal import CrossModalModel, build_body, build_embedder
from orca_core.model.embedder import Embedder
from orca_core.model.matching import match_moments
from orca_core.numerics import NumericalKind, check_pinned, is_mixed, made_by, numerical_kind
from orca_core.pretraining.loop import Pretraining
from orca_core.proxies import find_proxy
from orca_core.reads import Kind
from orca_core.rows import EpochRow, Row, StageRow
from orca_core.scoring import LOSSES, SCORES
from orca_core.settings import Settings
from orca_core.stages import Stage, stages_of_training
from orca_core.store import Artifact, Store
from orca_core.tasks import TaskData, TaskSpec
from orca_core.tasks.loading import load_parts
from orca_core.tasks.reversal import reverse
from orca_core.tasks.validation import Validation
from orca_core.trajectory import Trajectory, advance, rows_of
from orca_core.workbench import Workbench

_BATCH = 256


@dataclass(frozen=True)
class Tuned:
    """What fine-tuning leaves.

    Args:
        model: In the state of its last epoch, if that was computed here.
        rows: Of all epochs.
        end: The last artifact; may hold rows alone.
        tuning: What trained, or a part of it; None if all came from the store.
        trained_counts: Parameters that train, by phase.
        valid_samples: Number of samples that validated.
    """

    model: CrossModalModel
    rows: list[EpochRow]
    end: Artifact
    tuning: Finetuning | None
    trained_counts: list[int]
    valid_samples: int


class TrialStages:
    """The stages of one training: of a trial, or of a fold of it; each from the store or computed and stored there.

    Every stage is built from `Settings`, its own view of the config, and from the results of the stages before it. With `announces`, epochs
    of fine-tuning that can be trained together with those of other trials are announced by a `Due` among the rows.
    """

    def __init__(
        self,
        config: TrialConfig,
        store: Store,
        device: str,
        keep_at: Mapping[str, Collection[int]] = {},
        announces: bool = False,
    ) -> None:
        if config.bits == "portable":
            check_pinned(device)
        check_device(config, device)
        _prepare_torch(config.threads, device)
        self.config, self.store, self.device, self.keep_at = config, store, torch.device(device), keep_at
        self.announces = announces
        self.stages = stages_of_training(config, device)
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
        artifact = yield from self._advance(stage, lambda: Pretraining(settings, self._device_of(stage)))
        return artifact

    def embed_source(self, pretrained: Artifact | None) -> Generator[Row, None, Artifact | None]:
        """Compute the features of the proxy, if the trial compares with any."""
        if (stage := self.stage("source")) is None:
            return None
        settings, started = Settings.of(self.config, "source"), time.perf_counter()
        device, kind = self._device_of(stage), self._numerics_of(stage)
        artifact = self.store.get(stage.address)
        reused, stored = artifact is not None, None
        if artifact is None:
            proxy, body = find_proxy(settings["proxy"]), self.load_body(settings, pretrained)
            samples, seed = settings["align.proxy_samples"], settings["seed"]

            def target() -> torch.Tensor:
                data = load_data(settings)
                embedder = build_embedder(settings, body, data.input_shape).to(device)
                return target_at_start(embedder, data, seed=seed, device=device)

            features, labels = source_features(proxy, body, samples=samples, seed=seed, device=device, target=target)
            data = {"seconds": time.perf_counter() - started, **made_by(kind)}
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
            mixed_numerics=is_mixed(kind, artifact.data) if reused else False,
        )
        return artifact

    def align(self, pretrained: Artifact | None, source: Artifact | None) -> Generator[Row, None, Artifact | None]:
        """Align the embedder with the proxy, if `align.epochs` is above 0."""
        if (stage := self.stage("align")) is None:
            return None
        settings = Settings.of(self.config, "align")

        def build() -> Alignment:
            data, body, device = load_data(settings), self.load_body(settings, pretrained), self._device_of(stage)
            source_x, source_y = features_of(source)
            if not self.config.needs_task_model:
                embedder = build_embedder(settings, body, data.input_shape)
                start_matched(settings, embedder.to(device), data, source)
                return Alignment(settings, embedder, source_x, source_y, data, device)
            model = CrossModalModel(settings, body, *shapes_of(data), with_adapter=False)
            start_matched(settings, model.embedder.to(device), data, source)
            reads_tokens = settings["align.objective"] == "bilevel" or settings["align.label_entropy"]
            tokens = self.source_tokens(model, data, pretrained, device) if reads_tokens else None
            return Alignment(settings, model.embedder, source_x, source_y, data, device, model, tokens)

        artifact = yield from self._advance(stage, build)
        return artifact

    def adapt(
        self, pretrained: Artifact | None, source: Artifact | None, aligned: Artifact | None
    ) -> Generator[Row, None, Artifact | None]:
        """Adapt embedder and body to the target's inputs, if `adapt.epochs` is above 0."""
        if (stage := self.stage("adapt")) is None:
            return None
        settings = Settings.of(self.config, "adapt")

        def build() -> Adaptation:
            data, loaded = load_data(settings), self.load_body(settings, pretrained)
            embedder = build_embedder(settings, loaded, data.input_shape)
            self._start_embedder(settings, embedder, source, aligned, data)
            return Adaptation(settings, embedder, build_body(settings, loaded), data, self._device_of(stage))

        artifact = yield from self._advance(stage, build)
        return artifact

    def start_of_training(self, shapes: Shapes, pretrained: Artifact | None, source: Artifact | None) -> CrossModalModel:
        """The model before any training of the trial: pretrained at most."""
        settings = Settings.of(self.config, "finetune")
        body = self.load_body(settings, pretrained, dropout=settings["finetune.dropout"])
        model = CrossModalModel(settings, body, *shapes)
        self._start_embedder(settings, model.embedder, source, None)
        return model

    def start_of_tuning(
        self, shapes: Shapes, pretrained: Artifact | None, source: Artifact | None
    ) -> Generator[Row, None, CrossModalModel]:
        """Align and adapt; returns the model as fine-tuning starts with it."""
        aligned = yield from self.align(pretrained, source)
        adapted = yield from self.adapt(pretrained, source, aligned)
        settings = Settings.of(self.config, "finetune")
        body = self.load_body(settings, pretrained, dropout=settings["finetune.dropout"])
        weights = {} if adapted is None else adapted_body(adapted.tensors)
        if weights:
            body = replace(body, body=copy.deepcopy(body.body))  # what is loaded is shared between trials
            body.body.load_state_dict(weights)
        shares = (
            settings["finetune.fused"] > 0 and not weights and not settings["finetune.reinit_top"] and self._trains_predictor_alone(body)
        )
        model = CrossModalModel(settings, body, *shapes, body_is_adapted=bool(weights), shares_body=shares)
        self._start_embedder(settings, model.embedder, source, aligned if adapted is None else adapted)
        return model

    def _trains_predictor_alone(self, body: LoadedBody) -> bool:
        """Whether no phase changes the body, and nothing else of the trial does, as with those of decoders."""
        is_plain = not isinstance(body.body, DecoderBody | ConvolutionalNetwork)
        return is_plain and all(phase.train == ("predictor",) for phase in self.config.phases)

    def _start_embedder(
        self, settings: Settings, embedder: Embedder, source: Artifact | None, before: Artifact | None, data: TaskData | None = None
    ) -> None:
        """Give an embedder the weights of the stage before, else the start that needs data."""
        if before is not None:
            embedder.load_state_dict(embedder_weights(before.tensors))
        elif settings["embedder.init"] == "matched":
            start_matched(settings, embedder.to(self.device), data or load_data(settings), source)

    def tune(
        self,
        pretrained: Artifact | None,
        source: Artifact | None,
        *,
        end: int | None = None,
        held: Selection | None = None,
        keep_all: bool = False,
    ) -> Generator[Row, None, Tuned]:
        """Align and adapt, then fine-tune phase by phase.

        Args:
            pretrained, source: Results of the stages before.
            end: Epoch after which to stop, on the same schedule; None = at the end of the schedule.
            held: By which the weights of the best epoch are held; None if they are not.
            keep_all: Whether the states of all epochs are kept.
        """
        data = self.load_data()
        model = yield from self.start_of_tuning(shapes_of(data), pretrained, source)
        phases = self.phases
        if end is not None:
            phases = [replace(stage, end=min(stage.end, end)) for stage in phases if stage.start < end]
        tuning: Finetuning | None = None
        before: Artifact | None = None
        rows: list[EpochRow] = []
        trained_counts = []
        for stage in phases:
            settings = Settings.of(self.config, "finetune", stage.phase)

            def build(stage: Stage = stage, settings: Settings = settings, before: Artifact | None = before) -> Finetuning:
                nonlocal tuning
                if tuning is None:
                    distance = self.batch_distance(settings, data, source)
                    terms = self.terms(settings, model, data, pretrained, self._device_of(stage))
                    kind = FusedFinetuning if settings["finetune.fused"] else Finetuning
                    tuning = kind(settings, model, data, self._device_of(stage), selection=held, distance=distance, terms=terms)
                if before is not None:
                    tuning.load_state(before.tensors)  # also where it has trained: the phase before may have come from the store
                tuning.start_phase(settings)
                return tuning

            before = yield from self.advance_phase(stage, build, keep_all=keep_all, is_last=stage is phases[-1])
            model.train_only(settings.phases[-1].train, before.tensors.get(FISHER_SCORES))
            trained_counts.append(model.num_trained())
            rows += [row for row in rows_of(before) if row.epoch > stage.start]
        assert before is not None, "a schedule has at least one phase, and a phase at least one epoch"
        return Tuned(model, rows, before, tuning, trained_counts, len(data.valid))

    def load_body(self, settings: Settings, pretrained: Artifact | None, dropout: float = 0.0) -> LoadedBody:
        """The body of a stage, with its weights."""
        spec, weights, keep = settings.body, settings["body.weights"], settings["body.keep"]
        if weights == "random":
            seed = settings["seed"]
            if not spec.pretrained_here:  # larger ones are not worth the memory
                return random_body(spec, seed=seed, dropout=dropout)
            drawn = ("random", spec, seed, dropout)
            return Workbench.current().recall("mini bodies", drawn, lambda: random_body(spec, seed=seed, dropout=dropout), maxsize=4)
        if pretrained is None:
            loaded = checkpoint_body(spec, spec.digest(), dropout)
        else:
            stage = self.stage("pretrain")
            assert stage is not None
            key, build = (stage.address, dropout), lambda: pretrained_mini(spec, pretrained.tensors, dropout)
            loaded = Workbench.current().recall("pretrained bodies", key, build, maxsize=4)
        if weights == "shuffled":
            return shuffled_body(loaded, seed=settings["seed"])
        return loaded if keep == ALL else partly_pretrained(loaded, keep, seed=settings["seed"], dropout=dropout)

    def terms(
        self, settings: Settings, model: CrossModalModel, data: TaskData, pretrained: Artifact | None, device: torch.device
    ) -> list[Term]:
        """What fine-tuning does with the proxy's tokens."""
        if not settings["mix.share"]:
            return []
        return [Mixing(settings, model, data, self.source_tokens(model, data, pretrained, device))]

    def source_tokens(self, model: CrossModalModel, data: TaskData, pretrained: Artifact | None, device: torch.device) -> SourceTokens:
        """The proxy as the body's own embedding gives it to the body, in samples of as many tokens as the embedder makes."""
        source = Settings.of(self.config, "source")
        with torch.no_grad():
            first = data.inputs(torch.from_numpy(data.train.x[:1]).to(device))
            length = model.embedder.to(device)(first).shape[1]
        proxy, body = find_proxy(source["proxy"]), self.load_body(source, pretrained)
        return SourceTokens(proxy, body, samples=source["align.proxy_samples"], length=length, seed=source["seed"], device=device)

    def batch_distance(self, settings: Settings, data: TaskData, source: Artifact | None) -> BatchDistance | None:
        """The distance to the proxy, if fine-tuning minimises it too."""
        if not settings["align.weight"]:
            return None
        source_x, source_y = features_of(source)
        return BatchDistance(settings, source_x, source_y, data, self.device)

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
        artifact = yield from advance(
            stage, self.store, build, kind=self._numerics_of(stage), keep_tensors=needed, keep_at=ends, announces=self.announces
        )
        return artifact

    def _advance(self, stage: Stage, build: Callable[[], Trajectory]) -> Generator[Row, None, Artifact]:
        artifact = yield from advance(stage, self.store, build, kind=self._numerics_of(stage), keep_at=self._ends(stage))
        return artifact

    def _device_of(self, stage: Stage) -> torch.device:
        """Where a stage is computed."""
        return torch.device(STAGES[stage.kind].device_in(self.device.type))

    def _numerics_of(self, stage: Stage) -> NumericalKind:
        """What computes a stage in this process."""
        return numerical_kind(self._device_of(stage).type)

    def _ends(self, stage: Stage) -> Collection[int]:
        return self.keep_at.get(stage.folder, ())


def features_of(source: Artifact | None) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Features and labels of the proxy; None for both in a trial that reads no proxy."""
    return (None, None) if source is None else (source.tensors["features"], source.tensors["labels"])


def start_matched(settings: Settings, embedder: Embedder, data: TaskData, source: Artifact | None) -> None:
    """Give an embedder the moments of the proxy's features on the training samples, with `embedder.init: matched`."""
    if settings["embedder.init"] != "matched":
        return
    assert source is not None, "matching needs the proxy's features"
    device = embedder.projection.weight.device
    rows = torch.from_numpy(data.train.x).split(_BATCH)
    match_moments(embedder, (data.inputs(part.to(device)) for part in rows), source.tensors["features"])


def load_data(settings: Settings) -> TaskData:
    """The data of a trial: the task's, with `train_samples` of its training rows, turned round if the trial reads it `reversed`.

    Args:
        settings: Of alignment or of fine-tuning.
    """
    spec, split_seed, reference = settings.task, settings["split_seed"], settings["reference_data"]
    validation = Validation(settings["valid_share"], settings["validation.folds"], settings["validation.fold"])
    _check_scoring(spec, reference)
    data = load_parts(spec, split_seed, reference, validation, settings["train_samples"])
    return reverse(data) if settings["reversed"] else data


def _check_scoring(spec: TaskSpec, reference: bool) -> None:
    """Check that a task's loss and score exist, before anything is computed: a task of another package may name any."""
    for field, name, known in (("loss", spec.loss, LOSSES), ("score", spec.score_name(reference), SCORES)):
        if name not in known:
            raise DataError(f"{spec.name}: {field} must be the name of a {field}, but got {name!r}. {nearest(name, known)}")


def _prepare_torch(threads: int, device: str) -> None:
    """Set what the bits of a trial depend on besides its config, and how the process holds memory."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    if device != "cuda":
        if torch.are_deterministic_algorithms_enabled():  # by a trial on a GPU, in this process; on a CPU it takes other sums
            torch.use_deterministic_algorithms(False)
    else:
        release(torch.device(device))  # what trials before left
        # cuBLAS reads it when it is first used; without it, its sums may differ from run to run.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Not `warn_only`: then the backward pass of attention would be the one that differs from run to run.
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = False  # on by default: fp32 convolutions would have 10 bits of mantissa
        torch.backends.cuda.matmul.allow_tf32 = False
