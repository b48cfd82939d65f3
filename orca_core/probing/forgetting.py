"""Forgetting: does the body still tell the classes of the proxy apart?

The measure is the error of the nearest class mean on features of the proxy's samples, as the body's own embedding and the body give them:
half of the samples of each class make its mean, the others are tested. Nothing is trained for it, so it says what the features are, not
what another head could learn from them. At `start` it is that of the body before any training; what fine-tuning adds has been forgotten.

Mensink et al. 2013, "Distance-based image classification: generalizing to new classes at near-zero cost": the nearest class mean.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from orca_core.probing.reading import Measured, Reading, UnfitError


def nearest_mean_error(features: Tensor, labels: Tensor) -> tuple[float, int]:
    """Share of tested samples whose nearest class mean is another class's, and the number of tested samples.

    Of each class the samples at even places make the mean, those at odd places are tested; classes of a single sample are left out.

    Args:
        features: (n, d).
        labels: (n,).

    Raises:
        UnfitError: If fewer than two classes have two samples.
    """
    classes = [number for number in labels.unique().tolist() if (labels == number).sum() > 1]
    if len(classes) < 2:
        raise UnfitError("fewer than two classes of the proxy have two samples among those that are read.")
    members = [features[labels == number] for number in classes]
    means = torch.stack([of_class[::2].mean(0) for of_class in members])
    tested = torch.cat([of_class[1::2] for of_class in members])
    truth = torch.cat([torch.full((len(of_class) // 2,), number) for number, of_class in enumerate(members)])
    nearest = torch.cdist(tested, means).argmin(1)
    return (nearest != truth).double().mean().item(), len(tested)


def proxy_errors(reading: Reading) -> Iterator[Measured]:
    """Error of the nearest class mean on the proxy, by the features of the last layer."""
    layers, labels = reading.proxy_layers
    value, tested = nearest_mean_error(layers[-1], labels)
    yield Measured(value, len(layers) - 1, split="proxy", samples=tested)
