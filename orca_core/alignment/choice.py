"""Which samples of a proxy are used: those nearest to the target, or farthest from it, by transport.

`PROXY+near:N` asks whether a proxy of N samples that resemble the target serves better than N at random (`PROXY+k:N`); `PROXY+far:N` is the
control in which resemblance is the lowest. A sample's distance is what the optimal plan between source and target pays for it:

    P = argmin <P, C> + eps KL(P | a b^T),  C_ij = 1/2 |x_i - y_j|^2        (entropic transport, uniform weights)
    d_i = sum_j P_ij C_ij / sum_j P_ij                                       (in squared feature units)

with the source features x and the target's training samples y as the embedder starts: the features, the cost and the epsilon of
`proxy_distance_unlabelled`. Labels of either side, and validation and test data, are never seen. As every sample of the source has the same
weight, each is paired with the part of the target that it would have to cover, not with its nearest neighbour alone: samples that crowd
around one part of the target do not all count as near.

References:
    Kang et al. 2024, Get more for less: principled data selection for warming up fine-tuning in LLMs (arXiv 2405.02774), which chooses
    samples by transport to the target. Differs: they rank samples by the gradient of the transport cost in a sample's weight; here it is
    the cost of the plan itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from orca_core.alignment.proxy_distance import EPSILON, MAX_SAMPLES, embed_rows
from orca_core.distances.sinkhorn import squared_distances, transport_cost
from orca_core.errors import DataError
from orca_core.model.embedder import Embedder
from orca_core.proxies import Choice
from orca_core.seeding import generator
from orca_core.tasks import TaskData


def transport_distances(source: Tensor, target: Tensor) -> Tensor:
    """(n,) float64 mean transport cost of each source sample, in squared feature units.

    Args:
        source, target: (n, d) and (m, d) features.

    Example:
        Four points that move along a line, each to the partner beside it.

        >>> x = torch.tensor([[0.0], [10.0], [20.0], [30.0]])
        >>> transport_distances(x, x + torch.tensor([[3.0], [1.0], [2.0], [4.0]]))
        tensor([4.5000, 0.5000, 2.0000, 8.0000], dtype=torch.float64)
    """
    cost = squared_distances(source.double(), target.double()).div_(2).requires_grad_()
    transport_cost(cost, EPSILON).backward()  # the gradient in the cost is the plan
    assert cost.grad is not None
    plan, cost = cost.grad, cost.detach()
    return (plan * cost).sum(1) / plan.sum(1)


def choose(choice: Choice, source: Tensor, target: Tensor, name: str) -> Tensor:
    """Row numbers of the chosen source samples, ascending; of equally distant ones, the first.

    Args:
        choice: Which, and how many.
        source, target: (n, d) and (m, d) features.
        name: Of the proxy, for messages.

    Raises:
        DataError: If there are not more samples to choose from.
    """
    if choice.samples >= len(source):
        raise DataError(f"{name}: must choose fewer samples than there are, {len(source)}, but got {choice.samples}.")
    distances = transport_distances(source, target)
    order = torch.argsort(distances, stable=True, descending=choice.which == "far")
    return order[: choice.samples].sort().values


def target_at_start(embedder: Embedder, data: TaskData, *, seed: int, device: torch.device) -> Tensor:
    """(m, d) features of at most 500 training samples of the target, drawn by the seed whatever their labels are.

    Args:
        embedder: As it starts, on `device`.
        data: The task's data, of which the training split is read.
        seed: Of the trial.
        device: Where the embedder computes.
    """
    rows = torch.randperm(len(data.train), generator=generator(seed, "proxy-choice"))[:MAX_SAMPLES]
    return embed_rows(embedder, data, rows, device)
