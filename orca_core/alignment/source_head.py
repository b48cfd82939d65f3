"""A classifier of the proxy on what the body makes of it: the source predictor that RECRAFT reads labels from.

Multinomial logistic regression with a small L2 penalty on the body's tokens, averaged, of the proxy's samples. It is convex, so it has one
answer, without a rate or a number of epochs to choose. The reference trains it by steps instead (`src/newEmbedder.py`,
`get_pretrain_model2D_feature`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orca_core.alignment.source_tokens import SourceTokens
from orca_core.bodies.base import Body

PENALTY = 1e-3
"""Of the squared weights, half of it, on standardised features."""

_BATCH, _MOST_STEPS = 256, 200


def body_features(body: Body, source: SourceTokens, rows: Tensor) -> Tensor:
    """(m,) rows -> (m, d) means over the tokens that the body makes of the proxy's samples."""
    return torch.cat([body(source(part)).mean(1) for part in rows.split(_BATCH)])


def source_head(body: Body, source: SourceTokens) -> nn.Linear:
    """The classifier of a proxy by a body, which is in eval mode; frozen."""
    with torch.no_grad():
        features = body_features(body, source, torch.arange(len(source)))
    return fit_head(features, source.labels.to(features.device), source.num_classes)


def fit_head(features: Tensor, labels: Tensor, num_classes: int) -> nn.Linear:
    """Multinomial logistic regression.

    Args:
        features: (n, d).
        labels: (n,) from 0.
        num_classes: c.

    Returns:
        A frozen layer (n, d) -> (n, c) logits: the minimum of the mean cross-entropy plus `PENALTY` / 2 times the squared norm of the
        weights on standardised features.
    """
    x = features.double()
    mean, scale = x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
    x = (x - mean) / scale
    weight = torch.zeros(num_classes, x.shape[1], dtype=torch.float64, device=x.device, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_MOST_STEPS, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(x, weight, bias), labels) + PENALTY / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    head = nn.Linear(features.shape[1], num_classes).to(features)
    with torch.no_grad():
        scaled = weight / scale
        head.weight.copy_(scaled)
        head.bias.copy_(bias - scaled @ mean)
    return head.requires_grad_(False)
