"""Mixup: training on mixtures of two samples of a batch and their targets.

With one share s ~ Beta(alpha, alpha) and one permutation of the batch (Zhang et al. 2018, arXiv 1710.09412), the model reads

    s * x + (1 - s) * permuted x

where x is the inputs, or the embedder's tokens (manifold mixup, Verma et al. 2019, arXiv 1806.05236, at the one layer that all bodies
have). The targets are mixed alike. Class numbers cannot be, so for a classification the losses to both are, which for a cross-entropy is
the same. A value of a target that does not count in one of the two (NaN) does not count in the mixture.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from orca_core.finetuning.terms.base import Batch, Start, Term
from orca_core.seeding import derive


class Mixup(Term):
    """Mixes the samples of each batch.

    Args:
        alpha: Of the Beta distribution, above 0.
        mixes_tokens: Whether the embedder's tokens are mixed instead of the inputs.
        mixes_targets: Whether targets are numbers, whose mixture is a target.
        seed: Of the trial.
    """

    needs_forward = True

    def __init__(self, alpha: float, *, mixes_tokens: bool, mixes_targets: bool, seed: int) -> None:
        self.alpha, self.changes_tokens, self.mixes_targets, self.seed = alpha, mixes_tokens, mixes_targets, seed
        self.draws = np.random.default_rng(0)
        self.share, self.partners = 1.0, torch.empty(0, dtype=torch.int64)

    def start_epoch(self, epoch: int) -> None:
        self.draws = np.random.default_rng(derive(self.seed, "mixup", epoch))

    def before(self, batch: Batch) -> None:
        self.share = float(self.draws.beta(self.alpha, self.alpha))
        self.partners = torch.from_numpy(self.draws.permutation(len(batch.rows))).to(batch.inputs.device)
        if not self.changes_tokens:
            batch.inputs = self._mixed(batch.inputs)
        if self.mixes_targets:
            batch.targets = tuple((weight, self._mixed(target)) for weight, target in batch.targets)
        else:
            own = tuple((self.share * weight, target) for weight, target in batch.targets)
            batch.targets = own + tuple(((1 - self.share) * weight, target[self.partners]) for weight, target in batch.targets)

    def between(self, tokens: Tensor, batch: Batch) -> Tensor:
        return self._mixed(tokens)

    def _mixed(self, values: Tensor) -> Tensor:
        return self.share * values + (1 - self.share) * values[self.partners]


def mixup(start: Start) -> Mixup | None:
    """The term of `finetune.mixup`."""
    settings = start.settings
    if not settings["finetune.mixup.alpha"]:
        return None
    return Mixup(
        settings["finetune.mixup.alpha"],
        mixes_tokens=settings["finetune.mixup.place"] == "tokens",
        mixes_targets=settings.task.kind != "classification",
        seed=settings["seed"],
    )
