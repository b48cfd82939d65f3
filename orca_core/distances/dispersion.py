"""The target's classes apart, without a proxy: the share of the features' variance that lies within the classes.

    within = sum over samples of w_i |z_i - mean of its class|^2          total = sum over samples of w_i |z_i - mean of all|^2

and the objective is within / total, with weights w that sum to 1. It is 1 where all classes have one mean, 0 where each class is a point of
its own, and does not change with the unit of the features, so that no optimiser can lower it by making features small or large.

It answers whether alignment with a proxy does more than tidy the target's own classes.

References:
    Fisher 1936, The use of multiple measurements in taxonomic problems (between against within); Fukunaga 1990, Introduction to statistical
    pattern recognition, section 10.2 (criteria made of the traces of the scatter matrices).
    Cho, Kim & Kim 2023, Distribution-aware prompt tuning for vision-language models (DAPT, arXiv 2309.03406), has the same two terms, apart
    between the classes and close within them, as a sum on normalised features with a weight for each; a ratio needs no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from orca_core.distances.spec import Separation


def dispersion(features: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Share of the features' weighted variance that is within classes.

    Args:
        features: (m, d) of a floating dtype, m >= 1.
        labels: (m,) integer class ids.
        weights: (m,) > 0; only their proportions count.

    Returns:
        Scalar in [0, 1] up to rounding, differentiable in `features`; 1 where all features are equal.

    Example:
        Two classes on a line, at 0 and 2, and at 6 and 8: each is 1 from its mean, all are 1 or 3 from theirs plus 3, so 1 / 10.

        >>> x = torch.tensor([[0.0], [2.0], [6.0], [8.0]])
        >>> round(dispersion(x, torch.tensor([0, 0, 1, 1]), torch.ones(4)).item(), 6)
        0.1
    """
    weights = (weights / weights.sum()).unsqueeze(1)
    _, members = labels.unique(return_inverse=True)
    of_class = torch.nn.functional.one_hot(members).to(features.dtype) * weights  # (m, classes); products, whose backward has one order
    shares = of_class.sum(0).unsqueeze(1)
    means = of_class.mT @ features / shares
    mean = (weights * features).sum(0)
    between = (shares * (means - mean).square()).sum()
    total = (weights * (features - mean).square()).sum()
    return 1 - between / total.clamp(min=torch.finfo(features.dtype).tiny)


def prepare(options: Mapping[str, Any]) -> Separation:
    """`dispersion` as an objective of `align.objective`."""
    return dispersion
