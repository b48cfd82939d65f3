"""Many linear heads on features that are computed once: their step is written out, which is faster than autograd.

Shapes: m heads, n samples, d features, c classes. A head's bias is the weight of a feature that is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from orca_core.finetuning.stacked import LINE, MemberRows, Stack, round_up
from orca_core.model.predictor import Classifier
from orca_core.tasks import TaskData

SPAN_NUMBERS = 2**19
"""Most numbers of features that are gathered at once for the steps of a group: what stays in the processor's cache."""

EVALUATED_NUMBERS = 2**20
"""Most numbers of one member's features that are evaluated at once."""


def is_plain_head(module: nn.Module, loss: str, data: TaskData) -> bool:
    """Whether a module is a linear layer on features, with the cross-entropy as its loss.

    Args:
        module: What trains.
        loss: Name of the task's loss.
        data: The task's data, by whose `decode` outputs may pass before the loss.
    """
    return is_linear_head(module) and loss == "cross-entropy" and data.decode is None


def is_linear_head(module: nn.Module) -> bool:
    """Whether a module is a linear layer on features."""
    return isinstance(module, Classifier) and not module.pools_late and isinstance(module.hidden, nn.Identity)


class StackedHeads(Stack):
    """The weights of linear heads: (c, d + 1) of each member, the bias last. Rows are extended with zeros to whole lines of the cache.

    Args:
        parameters: `linear.weight` and `linear.bias`, as `Stack` takes them.
    """

    def __init__(self, parameters: Sequence[tuple[str, Sequence[Tensor]]]) -> None:
        self.classes, self.width = parameters[0][1][0].shape
        self.extended = round_up(self.width + 1, LINE // 2)
        super().__init__(parameters)
        self.evaluated = [(own[:, : self.width], own[:, self.width : self.width + 1]) for own in self.matrices(self.flat)]

    def length(self) -> int:
        """Numbers of a row of `flat`."""
        return round_up(self.classes * self.extended, LINE)

    def matrices(self, flat: Tensor) -> Tensor:
        """A tensor of the shape of `flat` -> (m, c, numbers of a class)."""
        return flat[:, : self.classes * self.extended].unflatten(1, (self.classes, self.extended))

    def parts(self, row: Tensor) -> list[Tensor]:
        """One member's weights and biases."""
        own = row[: self.classes * self.extended].view(self.classes, self.extended)
        return [own[:, : self.width], own[:, self.width]]

    def with_one(self, features: Tensor) -> Tensor:
        """(..., d) features -> (..., numbers of a class), as the weights have them: with a 1 for the bias, then zeros."""
        extended = pad(features, (0, self.extended - self.width))
        extended[..., self.width] = 1.0
        return extended

    def train(
        self,
        features: MemberRows,
        classes: MemberRows,
        rows: Tensor,
        batch_size: int,
        smoothing: Tensor | None,
        step: Callable[[Tensor], None],
    ) -> Tensor:
        """Train for an epoch. With targets q, one-hot or smoothed, and p = softmax(W x), the gradient of a sample's loss by W x is p - q.

        Args:
            features: Of all members, `with_one`.
            classes: Of all members.
            rows: (m, n) rows in the order of each member's epoch.
            batch_size: Samples of a step; the last one may have fewer.
            smoothing: (m,) shares of the uniform distribution in the targets; None = 0.
            step: Called with the gradient of each batch, of the shape of `flat`; may change it.

        Returns:
            (m,) sums of losses, in float64.
        """
        losses = torch.zeros(self.members, dtype=torch.float64)
        flat = torch.zeros_like(self.flat)
        weights, gradient = self.matrices(self.flat), self.matrices(flat)
        steps = SPAN_NUMBERS // (self.members * batch_size * self.extended)
        pieces = (part.batches(rows, batch_size, steps) for part in (features, classes))
        for xs, ys in zip(*pieces, strict=True):  # (steps, m, n, ...)
            ys = ys.unsqueeze(2)
            targets, log_ps = _targets(ys, self.classes, smoothing), []
            for x, target in zip(xs, targets, strict=True):
                log_p = torch.bmm(weights, x.transpose(1, 2)).log_softmax(1)  # (m, c, n): over a short last axis it takes 20 times as long
                log_ps.append(log_p)
                gradient.baddbmm_(log_p.exp().sub_(target), x, beta=0, alpha=1 / x.shape[1])
                step(flat)
            log_p = torch.stack(log_ps)
            sums = _sums(log_p.gather(2, ys))
            losses -= sums if smoothing is None else sums * (1 - smoothing) + _sums(log_p) / self.classes * smoothing
        return losses

    def scores(self, sets: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[float, float]]:
        """Mean cross-entropy and error rate of members on sets of theirs: (n, d) features and (n,) classes for each, one at least."""
        samples, count = len(sets[0][1]), len(sets)
        losses, wrong = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.int64)
        for part in range(0, samples, size := max(1, EVALUATED_NUMBERS // self.width)):
            y = torch.stack([classes[part : part + size] for _, classes in sets])
            logits = self.flat.new_zeros(count, self.classes, round_up(y.shape[1], LINE))
            for (weight, bias), (x, _), own in zip(self.evaluated, sets, logits[:, :, : y.shape[1]], strict=False):
                torch.addmm(bias, weight, x[part : part + size].t(), out=own)
            log_p = logits.log_softmax(1)[:, :, : y.shape[1]]
            losses -= log_p.gather(1, y.unsqueeze(1)).double().flatten(1).sum(1)
            wrong += (log_p.max(1).indices != y).sum(1)
        return list(zip((losses / samples).tolist(), (wrong / samples).tolist(), strict=True))


def cross_entropies(outputs: Tensor, y: Tensor, smoothing: Tensor | None) -> Tensor:
    """(m,) mean cross-entropies of (m, n, c) logits of m models to (m, n) classes, with shares (m,) of the uniform distribution in them."""
    log_p = outputs.transpose(1, 2).contiguous().log_softmax(1)
    losses = log_p.gather(1, y.unsqueeze(1)).mean((1, 2)).neg()
    return losses if smoothing is None else losses * (1 - smoothing) - smoothing * log_p.mean((1, 2))


def _targets(classes: Tensor, count: int, smoothing: Tensor | None) -> Tensor:
    """(steps, m, 1, n) classes -> (steps, m, count, n) probabilities."""
    steps, members, _, samples = classes.shape
    if smoothing is None:
        return torch.zeros(steps, members, count, samples).scatter_(2, classes, 1.0)
    share = smoothing.view(-1, 1, 1)
    return (share / count).repeat(steps, 1, count, samples).scatter_add_(2, classes, (1 - share).expand(classes.shape))


def _sums(values: Tensor) -> Tensor:
    """(steps, m, ...) -> (m,) sums in float64."""
    return values.double().transpose(0, 1).flatten(1).sum(1)
