"""Feature-label distortion (RECRAFT): how uncertain the proxy's label of a target sample is, given the target's label.

A classifier of the proxy (`source_head.py`) reads a label of the proxy from target samples, through the frozen body. With p_c the mean of
its probabilities over the samples of the target's class c, and H the entropy in nats,

    conditional     H(Y_s | Y_t) = sum over classes of share_c H(p_c)
    information     H(Y_s | Y_t) - H(Y_s), with H(Y_s) = H(sum over classes of share_c p_c): less the mutual information

Alignment minimises `align.label_entropy` times this beside its distance, in the same steps.

Reference:
    Tran et al. 2026, Rethinking cross-modal fine-tuning, AISTATS (arXiv 2601.18231); code: khiembk/RECRAFT, `src/newEmbedder.py`,
    `label_matching_by_entropy` and `label_matching_by_conditional_entropy`. What differs: docs/successors.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from orca_core.alignment.objectives import ClassBatch
from orca_core.model.cross_modal import CrossModalModel


def entropy(probabilities: Tensor) -> Tensor:
    """(c,) probabilities -> scalar, in nats; 0 log 0 is 0.

    >>> round(entropy(torch.tensor([0.5, 0.5, 0.0])).item(), 4)
    0.6931
    """
    return -torch.special.xlogy(probabilities, probabilities.clamp(min=1e-30)).sum()


def label_entropy(by_class: Sequence[Tensor], shares: Sequence[float], form: str) -> Tensor:
    """The entropy of the proxy's labels given the target's.

    Args:
        by_class: For each class of the target (m, c) probabilities of the proxy's labels for some of its samples.
        shares: Of the classes; only their proportions count.
        form: `conditional` or `information`.
    """
    means = torch.stack([probabilities.mean(0) for probabilities in by_class])
    weights = torch.tensor(shares, dtype=means.dtype, device=means.device)
    weights = weights / weights.sum()
    conditional = torch.stack([entropy(mean) for mean in means]) @ weights
    return conditional if form == "conditional" else conditional - entropy(weights @ means)


class LabelEntropy:
    """The term of alignment.

    Args:
        model: Embedder, frozen body and predictor; the predictor takes no part.
        head: Classifier of the proxy.
        weight: Of the entropy.
        form: `conditional` or `information`.
    """

    column = "label_entropy"

    def __init__(self, model: CrossModalModel, head: nn.Linear, weight: float, form: str) -> None:
        self.model, self.head, self.weight, self.form = model, head, weight, form

    def backward(self, batches: Sequence[ClassBatch]) -> float:
        """Add the gradient in the embedder; returns the entropy. Classes pass the body one by one, twice, as in `OfClasses`."""
        with torch.no_grad():
            probabilities = torch.cat([self._probabilities(batch) for batch in batches])
        sizes = [len(batch.rows) for batch in batches]
        probabilities.requires_grad_()
        value = label_entropy(probabilities.split(sizes), [batch.share for batch in batches], self.form)
        (gradient,) = torch.autograd.grad(self.weight * value, probabilities)
        for batch, part in zip(batches, gradient.split(sizes), strict=True):
            self._probabilities(batch).backward(part)
        return value.item()

    def _probabilities(self, batch: ClassBatch) -> Tensor:
        read = self.model.body(self.model.embedder(batch.inputs)).mean(1)
        return torch.softmax(self.head(read).float(), 1)
