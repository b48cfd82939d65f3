"""The joint form: fine-tuning minimises the distance to the proxy together with the task's loss, in one stage.

    loss = task loss + align.weight * sum over classes of (share of the batch) * distance(features of the class, source features)

The distance is that of alignment (`orca_core.alignment.loop`), of the samples of one batch instead of a sample of each class. With
`align.epochs` 0 this is the one-stage form of L2G (TMLR 2025: alpha times MMD plus beta times the task's loss), its weight alpha / beta.

With `align.objective: dispersion`, which reads no proxy, the distance is the share of the variance of the batch's features that is within
its classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from orca_core.alignment.loop import class_labels, prepare_distance, prepare_separation
from orca_core.distances import find_distance
from orca_core.settings import Settings
from orca_core.tasks import TaskData


class BatchDistance:
    """Distance of a training batch to the proxy.

    Args:
        settings: Of fine-tuning: `align.objective` and the knobs of that distance.
        source_x, source_y: (n, d) source features and (n,) labels; None for an objective that reads no proxy.
        data: The task's data; of its training split the classes, or the clusters that stand for them.
        device: Where to compute.
    """

    def __init__(
        self, settings: Settings, source_x: Tensor | None, source_y: Tensor | None, data: TaskData, device: torch.device
    ) -> None:
        self.labels = torch.from_numpy(class_labels(data, settings["seed"], settings["threads"]))
        self.separation = prepare_separation(settings) if find_distance(settings["align.objective"]).compares == "classes" else None
        if self.separation is None:
            assert source_x is not None and source_y is not None, "a distance to the proxy needs its features"
            self.distance = prepare_distance(settings, source_x.to(device), source_y.to(device))

    def __call__(self, tokens: Tensor, batch: Tensor, draws: torch.Generator) -> Tensor:
        """Scalar, differentiable in the tokens.

        Args:
            tokens: (m, l, d) the embedder's output.
            batch: (m,) rows of the training split, on the CPU.
            draws: For distances that draw; its state moves on.
        """
        features = tokens.float().mean(1)
        labels = self.labels[batch]
        if self.separation is not None:
            return self.separation(features, labels.to(features.device), features.new_ones(len(features)))
        total = features.new_zeros(())
        for label in labels.unique().tolist():
            members = (labels == label).nonzero()[:, 0].to(features.device)
            total = total + len(members) / len(labels) * self.distance(features[members], draws)[0]
        return total
