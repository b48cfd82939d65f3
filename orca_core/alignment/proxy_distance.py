"""How far a proxy is from a target before any training: a cheap predicted rank of proxies.

Two distances, of the target's training samples as the embedder starts, and the proxy's source features:

    proxy_distance               OTDD of all target classes together, with the labels of both sides (`otdd.py`, Gaussian classes)
    proxy_distance_unlabelled    the same Sinkhorn divergence of the features alone, cost 1/2 |x - x'|^2: the label term is left out

Both are in squared feature units, so a body's distances compare with each other, not with those of another body. Nothing of `align.*`
but the source features themselves (`align.proxy_samples`) enters, so they compare between all arms of a task, body and seed: samples,
epsilon, solver and class distance are the constants of this module. Validation and test data are never seen.

A class of m samples has a covariance of rank m - 1 at most. Where that is less than the features' width, two classes look farther apart
than they are, by the directions that they do not share: of two clouds from one Gaussian in 32 dimensions, the label term is 4.5 with 5
source classes of 100 samples, 24 with 100 classes of 5. Of two proxies of very different numbers of classes, compare the unlabelled
distance too.

References:
    Alvarez-Melis & Fusi 2020, Geometric dataset distances via optimal transport (as a predictor of how well transfer will go).
    Feydy et al. 2019, Interpolating between optimal transport and MMD using Sinkhorn divergences.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from orca_core.alignment.transferability import transferability
from orca_core.distances import OtddSource
from orca_core.distances.sinkhorn import self_transport_cost, squared_distances, transport_cost
from orca_core.model.embedder import Embedder
from orca_core.seeding import derive, generator
from orca_core.tasks import TaskData
from orca_core.tasks.splitting import stratified_order

MAX_SAMPLES = 500
"""Maximum number of samples of either side: time grows with their third power."""

EPSILON = 0.1
"""Entropic regularisation, in squared feature units."""

_BATCH = 64


class AtStart(NamedTuple):
    """What is measured of a proxy and a target before any training, by column; see `transferability.py` for the scores."""

    proxy_distance: float
    proxy_distance_unlabelled: float
    proxy_logme: float | None
    proxy_h_score: float | None
    target_logme: float | None
    target_h_score: float | None


class ProxyDistances(NamedTuple):
    """The two distances, by the columns that hold them; squared feature units."""

    proxy_distance: float
    proxy_distance_unlabelled: float


def proxy_distances(source_x: Tensor, source_y: Tensor, target_x: Tensor, target_y: Tensor) -> ProxyDistances:
    """Label-aware and label-free distance of two clouds.

    Args:
        source_x, target_x: (n, d) and (m, d) features, float32 or float64.
        source_y, target_y: (n,) and (m,) integer labels. Those of a single sample count in the label-free distance only.

    Raises:
        NotFiniteError: If a feature is NaN or infinite.

    Example:
        Two points 5 apart: half of 25 from the features, and half of 25 from the labels.

        >>> one = torch.zeros(1, dtype=torch.long)
        >>> proxy_distances(torch.zeros(1, 2), one, torch.tensor([[3.0, 4.0]]), one)
        ProxyDistances(proxy_distance=25.0, proxy_distance_unlabelled=12.5)
    """
    x, y = source_x.double(), target_x.double()
    labelled = OtddSource(x, source_y, inner="gaussian", entropic_reg=EPSILON).distance(y, target_y)
    across = transport_cost(squared_distances(x, y) / 2, EPSILON)
    within = [self_transport_cost(squared_distances(side, side) / 2, EPSILON) for side in (x, y)]
    return ProxyDistances(labelled.item(), (across - sum(within) / 2).item())


def measure_at_start(
    embedder: Embedder, data: TaskData, labels: np.ndarray, source_x: Tensor, source_y: Tensor, *, seed: int, device: torch.device
) -> AtStart:
    """The distances and scores of a trial whose embedder has not trained yet.

    Args:
        embedder: On `device`; not changed.
        data: The task's data, of which the training split is read.
        labels: (n,) integer labels of the training split; `class_labels` has pseudo labels for a target without classes.
        source_x, source_y: (n, d) source features and (n,) labels.
        seed: Of the trial: it draws the samples. Target samples are drawn class by class; source samples are drawn whatever their
            labels are, so that other labels (`+shuffled`) leave the label-free distance as it is, bit for bit.
        device: Where the embedder computes; transport is solved on the CPU.
    """
    chosen = stratified_order(labels, derive(seed, "proxy-distance"))[-MAX_SAMPLES:]  # its end holds every class
    target_x = embed_rows(embedder, data, torch.from_numpy(chosen), device)
    drawn = torch.randperm(len(source_x), generator=generator(seed, "proxy-distance"))[:MAX_SAMPLES]
    source_x, source_y = source_x.cpu()[drawn], source_y.cpu()[drawn]
    target_y = torch.from_numpy(labels[chosen])
    distances = proxy_distances(source_x, source_y, target_x, target_y)
    return AtStart(*distances, *transferability(source_x, source_y), *transferability(target_x, target_y))


def embed_rows(embedder: Embedder, data: TaskData, rows: Tensor, device: torch.device) -> Tensor:
    """(m, d) features of some training rows, averaged over tokens, on the CPU. The embedder is on `device`."""
    with torch.no_grad():
        batches = (torch.from_numpy(data.train.x[batch.numpy()]).to(device) for batch in rows.split(_BATCH))
        return torch.cat([embedder(data.inputs(batch)).mean(1).cpu() for batch in batches])
