"""Stage 2: train the embedder until its features resemble the source features.

One epoch is one optimiser step over all classes of the target: the loss is the sum over classes of class share x distance
between the class's features and all source features (papers of ORCA: section 3.2; reference: `embedder.py:324-362`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from orca_core.alignment.proxy_distance import measure_at_start
from orca_core.distances import find_distance
from orca_core.distances.sinkhorn import count_unconverged
from orca_core.distances.spec import Distance
from orca_core.model.embedder import Embedder
from orca_core.rows import EpochRow
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


class Alignment:
    """Alignment of one embedder, a trajectory of one step an epoch.

    Args:
        settings: Of the stage.
        embedder: Trained in place.
        source_x, source_y: (n, d) source features and (n,) labels.
        data: The task's data; only its training split is used.
        device: Where to train.
    """

    def __init__(
        self, settings: Settings, embedder: Embedder, source_x: Tensor, source_y: Tensor, data: TaskData, device: torch.device
    ) -> None:
        self.settings, self.seed, self.device = settings, settings["seed"], device
        self.lr = settings["align.lr"]
        self.embedder = embedder.to(device).requires_grad_(True).train()
        self.inputs = data.inputs
        self.x = torch.from_numpy(data.train.x).to(device)
        labels = class_labels(data, self.seed, settings["threads"])
        self.classes = [torch.from_numpy(np.flatnonzero(labels == label)) for label in np.unique(labels)]
        self.at_start = partial(measure_at_start, self.embedder, data, labels, source_x, source_y, seed=self.seed, device=device)
        self.distance = prepare_distance(settings, source_x.to(device), source_y.to(device))
        self.optimizer = make_optimizer(
            settings["align.optimizer"],
            self.embedder.parameters(),
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
            at_start = self.at_start()._asdict() if epoch == 1 else {}
            distance, label_distances = self._step(epoch)
        size = sum(len(row or ()) for row in label_distances)
        # By the epoch alone, not by whether it is the last: a longer alignment passes through it too.
        reported = size > 0 and (size <= LABEL_DISTANCES_ALWAYS or epoch == 1 or epoch % LABEL_DISTANCES_EVERY == 0)
        return EpochRow(
            stage="align",
            epoch=epoch,
            distance=distance,
            lr=self._rate(epoch),
            label_distances=label_distances if reported else None,
            unconverged=unconverged.count or None,
            **at_start,
        )

    def _step(self, epoch: int) -> tuple[float, list[list[float] | None]]:
        """One optimiser step; returns the distance before it, and the label distances of the classes that took part."""
        draws = generator(self.seed, "align-samples", epoch)
        self.optimizer.param_groups[0]["lr"] = self._rate(epoch)
        self.optimizer.zero_grad()
        total = 0.0
        label_distances: list[list[float] | None] = [None] * len(self.classes)
        for number in self._class_order(draws):
            members = self.classes[number]
            chosen = members[torch.randperm(len(members), generator=draws)[: self._samples_of_a_class]].to(self.device)
            features = self.embedder(self.inputs(self.x[chosen])).mean(1)
            distance, to_source = self.distance(features, draws)
            loss = len(members) / len(self.x) * distance
            loss.backward()
            total += loss.item()
            if to_source is not None:
                label_distances[number] = to_source[0].tolist()
        self.optimizer.step()
        return total, label_distances

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
        """The embedder's weights and the optimiser's state."""
        return pack("embedder", self.embedder.state_dict()) | optimizer_state(self.optimizer, self.embedder)

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a state."""
        self.embedder.load_state_dict(embedder_weights(tensors))
        load_optimizer_state(self.optimizer, self.embedder, tensors)


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
