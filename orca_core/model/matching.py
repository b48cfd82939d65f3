"""A start without training: the embedder's features get the mean and the covariance of the proxy's (`embedder.init: matched`).

Features are means over an embedder's tokens, as alignment compares them. The embedder starts as with `pretrained` (with a random body: as
with `random`); of its features on the target's training samples the mean m_t and the covariance C_t are taken, of the source features m_s
and C_s. Then all tokens, before positions are added, pass through one affine map

    t -> A t + b          A = C_t^-1/2 (C_t^1/2 C_s C_t^1/2)^1/2 C_t^-1/2          b such that the mean of the features is m_s

An affine map of tokens is the same map of their means, so mean and covariance of the *features* become the proxy's, in closed form; those
of single tokens do not. Of all linear maps that reach C_s, A moves the features least in the mean of squares. It is where a perfect
alignment by transport between two Gaussians would end: what it leaves to alignment is classes and shapes of the clouds.

What is exact: the mean, always, and the covariance on the subspace that the target's features span. The features of n samples span n - 1
dimensions at most, fewer after a LayerNorm; outside of them a map of features can do nothing, and with P the projection onto the span,
their covariance becomes P C_s P. Directions with less than `TOLERANCE` of the largest variance count as outside.

Where the map is kept: in the projection, into which it is folded, if nothing stands between that and the positions (ViT). A LayerNorm is in
the way elsewhere: there it is kept as state of its own (`Colouring`) that never trains.

It answers whether closeness in the first two moments is what alignment gives, without a step of training.

References:
    Sun, Feng & Saenko 2016, Return of frustratingly easy domain adaptation (CORAL, arXiv 1511.05547): features are whitened and coloured
    with the other domain's covariance, by C_s^1/2 C_t^-1/2. Where both covariances have full rank this has the same moments.
    Peyré & Cuturi 2019, Computational optimal transport, remark 2.31: A as the optimal map between two Gaussians.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from orca_core.distances.coral_distance import moments
from orca_core.model.embedder import Colouring, Embedder

TOLERANCE = 1e-6
"""Share of the largest variance below which a direction does not count as spanned by the target's features."""


def covariance_map(source: Tensor, target: Tensor) -> Tensor:
    """The symmetric map that turns one covariance into another, moving least.

    Args:
        source, target: (d, d) covariances, float64.

    Returns:
        (d, d) A with A target A = P source P, where P projects onto the span of `target`.

    Example:
        Along each axis it is the ratio of the standard deviations.

        >>> covariance_map(torch.diag(torch.tensor([4.0, 9.0])).double(), torch.eye(2).double()).tolist()
        [[2.0, 0.0], [0.0, 3.0]]
    """
    values, vectors = torch.linalg.eigh(target)
    kept = values > TOLERANCE * values.max().clamp(min=0)
    roots, basis = values[kept].sqrt(), vectors[:, kept]
    # In the basis of the span, where the root of the target's covariance is diagonal.
    inner = roots.unsqueeze(1) * (basis.mT @ source @ basis) * roots
    inner_values, inner_vectors = torch.linalg.eigh(inner)
    root = inner_vectors * inner_values.clamp(min=0).sqrt() @ inner_vectors.mT
    found: Tensor = basis @ (root / roots.unsqueeze(1) / roots) @ basis.mT
    return found


def prepare_matching(embedder: Embedder) -> None:
    """Give an embedder the place for the map, if it cannot be folded into its projection."""
    if isinstance(embedder.norm, nn.LayerNorm):
        embedder.colouring = Colouring(embedder.projection.out_channels)


def match_moments(embedder: Embedder, inputs: Iterable[Tensor], source: Tensor) -> None:
    """Give an embedder's features the mean and covariance of source features.

    Args:
        embedder: After `prepare_matching`; changed in place.
        inputs: Batches of all training samples of the target, (n, channels, ...), on the embedder's device.
        source: (n, d) source features.
    """
    with torch.no_grad():
        features = torch.cat([embedder(part).mean(1) for part in inputs]).cpu().double()
        positions = torch.zeros(features.shape[1], dtype=torch.float64)
        if embedder.positions is not None:
            positions = embedder.positions.cpu().double().mean(0)
        (mean, covariance), (other_mean, other_covariance) = moments(features), moments(source.cpu().double())
        weight = covariance_map(other_covariance, covariance)
        bias = other_mean - positions - weight @ (mean - positions)
        if embedder.colouring is not None:
            embedder.colouring.weight.copy_(weight)
            embedder.colouring.bias.copy_(bias)
            return
        projection = embedder.projection
        assert projection.bias is not None
        projection.bias.copy_(weight @ projection.bias.cpu().double() + bias)
        projection.weight.copy_((weight @ projection.weight.cpu().double().flatten(1)).unflatten(1, projection.weight.shape[1:]))
