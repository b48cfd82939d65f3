"""Geometry of features by layer: distance to the proxy, similarity to the body before fine-tuning, effective rank.

All take (n, d) features, one row per sample, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from orca_core.probing.layers import layer_means
from orca_core.probing.reading import Measured, Reading, UnfitError


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Squared Fréchet distance of the normal distributions with the means and covariances of two clouds, in squared feature units.

    |m - m'|^2 + tr(C + C' - 2 (C C')^1/2), Dowson & Landau 1982, "The Fréchet distance between multivariate normal distributions". With C =
    A'A of centred rows over sqrt(n - 1), the last trace is the sum of the singular values of A B', so no root of a matrix is taken.

    Args:
        x, y: (n, d) and (m, d), at least 2 rows each.
    """
    a, b = ((cloud - cloud.mean(0)) / math.sqrt(len(cloud) - 1) for cloud in (x, y))
    means = (x.mean(0) - y.mean(0)).square().sum()
    roots = [torch.linalg.qr(side, mode="r").R for side in (a, b)]  # (min(n, d), d), with the same A'A
    across = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    return max(0.0, (means + a.square().sum() + b.square().sum() - 2 * across).item())


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of two sets of features of the same samples, in [0, 1].

    ||Y'X||^2 / (||X'X|| ||Y'Y||) with centred columns and Frobenius norms: Kornblith et al. 2019, "Similarity of neural network
    representations revisited", arXiv 1905.00414, equation 3 with a linear kernel. 1 if they are equal up to rotation, scale and shift.

    Args:
        x, y: (n, d) and (n, d').

    Raises:
        UnfitError: If one of them is constant.
    """
    x, y = (features - features.mean(0) for features in (x, y))
    if len(x) < x.shape[1] + y.shape[1]:  # the same numbers from the smaller matrices
        kernels = x @ x.T, y @ y.T
        across, norms = (kernels[0] * kernels[1]).sum(), [torch.linalg.norm(kernel) for kernel in kernels]
    else:
        across, norms = (y.T @ x).square().sum(), [torch.linalg.norm(features.T @ features) for features in (x, y)]
    if (scale := norms[0] * norms[1]) == 0:
        raise UnfitError("the features of a layer are the same for all samples.")
    return min(1.0, (across / scale).item())


def effective_rank(x: Tensor) -> float:
    """Effective rank of centred features: the exponential of the entropy of their singular values, divided by the sum of these.

    Roy & Vetterli 2007, "The effective rank: a measure of effective dimensionality", EUSIPCO. From 1 to the smaller of d and n - 1.

    Args:
        x: (n, d).

    Raises:
        UnfitError: If all rows are equal.
    """
    values = torch.linalg.svdvals(x - x.mean(0))
    if values.sum() == 0:
        raise UnfitError("the features of a layer are the same for all samples.")
    shares = values / values.sum()
    return torch.exp(-torch.xlogy(shares, shares).sum()).item()


def distances(reading: Reading) -> Iterator[Measured]:
    """Distance of the target's features to the proxy's at each layer, in squared feature units and relative to the proxy's variance."""
    proxy, target = reading.proxy_layers[0], reading.target_layers
    for layer, (of_proxy, of_target) in enumerate(zip(proxy, target, strict=False)):
        if not reading.request.has_layer(layer):
            continue
        samples = min(len(of_proxy), len(of_target))
        if samples < 2:
            raise UnfitError("a distance needs at least two samples of either side.")
        value, variance = frechet_distance(of_proxy, of_target), of_proxy.var(0).sum().item()
        yield Measured(value, layer, setting="absolute", split="train", samples=samples)
        if variance > 0:
            yield Measured(value / variance, layer, setting="relative", split="train", samples=samples)


def similarities(reading: Reading) -> Iterator[Measured]:
    """CKA between the body as it is and as fine-tuning found it, at each layer, for the tokens of the embedder as it is.

    Of a pretrained body what fine-tuning found is the pretrained one. Layer 0 is left out: it is the same by construction.
    """
    with torch.no_grad():
        parts = [layer_means(reading.before.body, reading.model.embedder(inputs)) for inputs in reading.parts("train")]
    before = [torch.cat(layer) for layer in zip(*parts, strict=True)]
    for layer, pair in enumerate(zip(reading.target_layers, before, strict=True)):
        if layer and reading.request.has_layer(layer):
            yield Measured(linear_cka(*pair), layer, split="train", samples=len(pair[0]))


def ranks(reading: Reading) -> Iterator[Measured]:
    """Effective rank of the target's features at each layer."""
    for layer, features in enumerate(reading.target_layers):
        if reading.request.has_layer(layer):
            yield Measured(effective_rank(features), layer, split="train", samples=len(features))
