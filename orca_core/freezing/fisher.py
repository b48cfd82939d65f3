"""Which layers to train, by their Fisher information: those whose weights the task changes most.

The score of a layer is the mean over its parameters of the squared gradient of the loss, averaged over the batches of one pass over the
training data: the diagonal of the empirical Fisher information, as in "surgical fine-tuning" of language models. Gradients are
those of batches, not of samples, since one backward pass yields the gradient of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn


def fisher_scores(layers: Sequence[nn.Module], losses: Iterable[Callable[[], Tensor]]) -> Tensor:
    """(number of layers,) float64 scores, on the CPU.

    Args:
        layers: Each holds at least one parameter. Their gradients are cleared.
        losses: One for each batch: computes the mean loss of the batch.
    """
    parameters = [list(layer.parameters()) for layer in layers]
    sums, batches = torch.zeros(len(layers), dtype=torch.float64), 0
    for loss in losses:
        gradients = iter(torch.autograd.grad(loss(), [p for layer in parameters for p in layer], allow_unused=True))
        for number, layer in enumerate(parameters):
            squares = [gradient.double().square().sum().cpu() for gradient in (next(gradients) for _ in layer) if gradient is not None]
            sums[number] += torch.stack(squares).sum() if squares else 0.0
        batches += 1
    return sums / torch.tensor([sum(p.numel() for p in layer) for layer in parameters]) / batches


def highest(scores: Tensor, count: int) -> list[int]:
    """Numbers of the layers of the `count` highest scores, in order; of equals, the lower layer.

    >>> highest(torch.tensor([0.1, 0.5, 0.5, 0.2]), 2)
    [1, 2]
    """
    return sorted(sorted(range(len(scores)), key=lambda layer: (-scores[layer].item(), layer))[:count])
