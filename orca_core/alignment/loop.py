"""Stage 2: train the embedder until its features resemble the source features, or by an objective that controls for that.

One epoch is one optimiser step over all classes of the target: the loss is the sum over classes of class share x distance
between the class's features and all source features (papers of ORCA: section 3.2; reference: `embedder.py:324-362`). What else a step can
minimise is in `objectives.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orca_core.alignment.agreement import cosine
from orca_core.alignment.bilevel import Bilevel
from orca_core.alignment.label_entropy import LabelEntropy
from orca_core.alignment.objectives import (
    Addition,
    ClassBatch,
    Measured,
    Objective,
    OfClasses,
    OfTask,
    ToProxy,
    WeightedTask,
    freeze_body,
    trained_predictor,
)
from orca_core.alignment.proxy_distance import measure_at_start
from orca_core.alignment.source_head import source_head
from orca_core.alignment.source_tokens import SourceTokens
from orca_core.distances import find_distance
from orca_core.distances.sinkhorn import count_unconverged
from orca_core.distances.spec import Distance, Separation
from orca_core.memory import on_device, resident
from orca_core.model.cross_modal import CrossModalModel
from orca_core.model.embedder import Embedder
from orca_core.rows import EpochRow
from orca_core.scoring import LOSSES
from orca_core.seeding import derive, generator
from orca_core.settings import Settings
from orca_core.tasks import TaskData
from orca_core.training.optimizers import load_optimizer_state, make_optimizer, optimizer_state, step_decay
from orca_core.training.state import pack, unpack

PSEUDO_LABELS = 10
"""Number of clusters that replace classes where the target has none (reference: `embedder.py:372`)."""

MINI_BATCH_ABOVE = 10_000
"""Number of rows above which mini-batch k-means is used."""

LABEL_DISTANCES_ALWAYS, LABEL_DISTANCES_EVERY = 2500, 10
"""Label distances are reported every epoch up to this number of entries; above it, in epoch 1 and every 10th epoch."""


def prepare_distance(settings: Settings, source_x: Tensor, source_y: Tensor) -> Distance:
    """The distance that `align.objective` names, with what depends on the source alone computed.

    Args:
        settings: Of a stage that declares the knobs of the distance.
        source_x, source_y: (n, d) source features and (n,) labels.
    """
    spec = find_distance(settings["align.objective"])
    return spec.prepared(source_x, source_y, {name: settings[f"align.{name}"] for name in spec.knobs})


def prepare_separation(settings: Settings) -> Separation:
    """The objective that `align.objective` names, where it compares the target's classes among themselves."""
    spec = find_distance(settings["align.objective"])
    return spec.separation({name: settings[f"align.{name}"] for name in spec.knobs})


class Alignment:
    """Alignment of one embedder, a trajectory of one step an epoch.

    Args:
        settings: Of the stage.
        embedder: Trained in place.
        source_x, source_y: (n, d) source features and (n,) labels; None for an objective that reads no proxy.
        data: The task's data; only its training split is used.
        device: Where to train.
        model: The whole model, of which `embedder` is a part, where the task's loss is needed; its predictor may train too.
        tokens: The proxy's tokens, where the body reads them.
    """

    def __init__(
        self,
        settings: Settings,
        embedder: Embedder,
        source_x: Tensor | None,
        source_y: Tensor | None,
        data: TaskData,
        device: torch.device,
        model: CrossModalModel | None = None,
        tokens: SourceTokens | None = None,
    ) -> None:
        self.settings, self.seed, self.device = settings, settings["seed"], device
        self.lr = settings["align.lr"]
        self.embedder = embedder.to(device).requires_grad_(True).train()
        self.data, self.inputs = data, data.inputs
        (self.x,) = resident([torch.from_numpy(data.train.x)], device)
        labels = class_labels(data, self.seed, settings["threads"])
        self.classes = [torch.from_numpy(np.flatnonzero(labels == label)) for label in np.unique(labels)]
        self.labels, self.source = labels, None if source_x is None or source_y is None else (source_x, source_y)
        self.task = None if model is None else self._task_loss(model.to(device))
        self.tokens = tokens
        self.objective = self._objective()
        self.additions = self._additions()
        self.predictor = trained_predictor(self.objective, self.additions)
        self.trained: nn.Module = self.embedder
        if self.predictor is not None:
            self.trained = nn.ModuleDict({"embedder": self.embedder, "predictor": self.predictor})
        self.optimizer = make_optimizer(
            settings["align.optimizer"],
            self.trained.parameters(),
            lr=self.lr,
            weight_decay=settings["align.weight_decay"],
            momentum=settings["align.momentum"],
            betas=settings["align.betas"],
        )

    def run_epoch(self, epoch: int) -> EpochRow:
        """One step. The row has the distance before it and, for OTDD, the label distances: target classes x source classes.

        The row of the first epoch also has the proxy's distances and the scores before any step, see `proxy_distance.py`.
        """
        with count_unconverged() as unconverged:
            at_start = self._at_start() if epoch == 1 else {}
            measured, agreement = self._step(epoch)
        label_distances = [measured.label_distances.get(number) for number in range(len(self.classes))]
        size = sum(len(row or ()) for row in label_distances)
        # By the epoch alone, not by whether it is the last: a longer alignment passes through it too.
        reported = size > 0 and (size <= LABEL_DISTANCES_ALWAYS or epoch == 1 or epoch % LABEL_DISTANCES_EVERY == 0)
        values: dict[str, Any] = {self.objective.column: measured.value, **measured.columns, **at_start}
        return EpochRow(
            stage="align",
            epoch=epoch,
            lr=self._rate(epoch),
            label_distances=label_distances if reported else None,
            unconverged=unconverged.count or None,
            gradient_cosine=agreement,
            **values,
        )

    def _at_start(self) -> dict[str, Any]:
        """The proxy's distances and scores before any step; none without a proxy."""
        if self.source is None:
            return {}
        return measure_at_start(self.embedder, self.data, self.labels, *self.source, seed=self.seed, device=self.device)._asdict()

    def _objective(self) -> Objective:
        compares = find_distance(self.settings["align.objective"]).compares
        if compares == "nothing":
            assert self.task is not None, "the task's loss needs the whole model"
            return self.task
        if compares == "classes":
            return OfClasses(self.embedder, prepare_separation(self.settings))
        if compares == "body":
            assert self.task is not None, "the inner steps need the whole model"
            assert self.tokens is not None, "the outer objective needs the proxy's tokens"
            names = (*find_distance(self.settings["align.objective"]).knobs, "task_weight")
            options = {name: self.settings[f"align.{name}"] for name in names}
            return Bilevel(self.task.model, self.task.loss, self.task.targets, self.tokens, options)
        assert self.source is not None, "a distance to the proxy needs its features"
        source_x, source_y = self.source
        return ToProxy(self.embedder, prepare_distance(self.settings, source_x.to(self.device), source_y.to(self.device)))

    def _additions(self) -> list[Addition]:
        found: list[Addition] = []
        if self.settings["align.label_entropy"]:
            assert self.task is not None, "the proxy's labels are read through the body"
            assert self.tokens is not None, "and its classifier is fitted to the proxy's tokens"
            model, form = self.task.model, self.settings["align.label_entropy_form"]
            found.append(LabelEntropy(model, source_head(model.body, self.tokens), self.settings["align.label_entropy"], form))
        if self.settings["align.task_weight"] and not isinstance(self.objective, OfTask):
            assert self.task is not None, "the task's loss needs the whole model"
            found.append(WeightedTask(self.task, self.settings["align.task_weight"]))
        return found

    def _task_loss(self, model: CrossModalModel) -> OfTask:
        """The loss that fine-tuning minimises, without smoothing."""
        freeze_body(model)
        targets, decode = torch.from_numpy(self.data.train.y), self.data.decode or (lambda values: values)
        of_decoded = LOSSES[self.settings.task.loss](targets)
        return OfTask(model, lambda outputs, truth: of_decoded(decode(outputs), decode(truth)), targets)

    def _step(self, epoch: int) -> tuple[Measured, float | None]:
        """One optimiser step; returns what the objective was before it, and whether its gradient agrees with the task's."""
        draws = generator(self.seed, "align-samples", epoch)
        self.optimizer.param_groups[0]["lr"] = self._rate(epoch)
        self.optimizer.zero_grad()
        if isinstance(self.objective, Bilevel):
            self.objective.epoch = epoch
        measured = self.objective.backward(self._batches(draws), draws)
        agreement = None
        if self.settings["align.agreement"]:
            assert self.task is not None, "the task's gradient needs the whole model"
            gradients = [torch.zeros_like(part) if part.grad is None else part.grad for part in self.embedder.parameters()]
            agreement = cosine(gradients, self.task.gradients(measured.batches)).item()
        columns = {addition.column: addition.backward(measured.batches) for addition in self.additions}
        self.optimizer.step()
        return measured._replace(columns={**measured.columns, **columns}), agreement

    def _batches(self, draws: torch.Generator) -> Iterator[ClassBatch]:
        """The samples of each class, drawn when they are asked for."""
        for number in self._class_order(draws):
            members = self.classes[number]
            chosen = members[torch.randperm(len(members), generator=draws)[: self._samples_of_a_class]]
            inputs = self.inputs(on_device(self.x, self.device, chosen))
            yield ClassBatch(number, len(members) / len(self.x), chosen.to(self.device), inputs)

    def _rate(self, epoch: int) -> float:
        # The reference counts epochs from 0 and compares with > (`task_configs.py:239`).
        late = self.settings["align.lr_schedule"] == "reference"
        rate: float = self.lr * step_decay(epoch - late, self.settings["align.lr_steps"])
        return rate

    @property
    def _samples_of_a_class(self) -> int:
        limit: int = self.settings["align.class_samples"]
        if self.settings["align.class_sampling"] == "exact":
            return limit
        # The reference stops after the first batch with which it has more (`embedder.py:345`).
        batch_size: int = self.settings["finetune.batch_size"]
        return (limit // batch_size + 1) * batch_size

    def _class_order(self, draws: torch.Generator) -> list[int]:
        """Numbers of the classes that take part, in the order they do."""
        if self.settings["align.class_sampling"] == "exact":
            return list(range(len(self.classes)))
        return [number for number in torch.randperm(len(self.classes), generator=draws).tolist() if len(self.classes[number]) > 1]

    def state(self) -> dict[str, Tensor]:
        """The weights of what trains, the embedder's among them, and the optimiser's state."""
        state = pack("embedder", self.embedder.state_dict()) | optimizer_state(self.optimizer, self.trained)
        if self.predictor is not None:
            state |= pack("predictor", self.predictor.state_dict())
        return state

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a state."""
        self.embedder.load_state_dict(embedder_weights(tensors))
        if self.predictor is not None:
            self.predictor.load_state_dict(unpack("predictor", tensors))
        load_optimizer_state(self.optimizer, self.trained, tensors)


def embedder_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The embedder's weights out of what an alignment stored."""
    return unpack("embedder", tensors)


def class_labels(data: TaskData, seed: int, threads: int) -> np.ndarray:
    """(n,) int64 labels of the training split: its classes, or clusters of its flattened targets where it has none.

    Args:
        data: The task's data.
        seed: Of the trial: it draws the first centres of the clusters.
        threads: CPU threads, which change the bits of the clusters.
    """
    if data.num_classes is not None:
        return data.train.y
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    targets = np.nan_to_num(data.train.y.reshape(len(data.train), -1))  # NaN marks positions that do not count
    kind = MiniBatchKMeans if len(targets) > MINI_BATCH_ABOVE else KMeans
    clusters = kind(min(PSEUDO_LABELS, len(targets)), random_state=derive(seed, "k-means"), n_init=3)
    with threadpool_limits(threads):
        return clusters.fit_predict(targets).astype(np.int64)
