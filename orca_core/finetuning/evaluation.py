"""Loss and score of a set of outputs: over the whole set, or, as the reference, the mean over chunks of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from torch import Tensor

from orca_core.scoring.groups import group_means
from orca_core.settings import Settings

Decode = Callable[[Tensor], Tensor]


def evaluate(
    settings: Settings,
    outputs: Tensor,
    y: Tensor,
    *,
    group: np.ndarray | None,
    decode: Decode,
    loss: Callable[[Tensor, Tensor], Tensor],
    score: Callable[[Tensor, Tensor], float],
) -> tuple[float, float]:
    """Loss and score of a set.

    Args:
        settings: `finetune.scoring`; for chunks `finetune.score_chunk`, `finetune.eval_batch_size` and `finetune.batch_size`.
        outputs: (n, ...) of the model.
        y: (n, ...) targets.
        group: (n,) samples whose outputs are averaged and scored as one; None if each stands for itself.
        decode: To the unit of loss and score.
        loss, score: Of outputs and targets.
    """
    if group is not None:
        outputs, y = group_means(outputs, y, group)
    outputs, y = decode(outputs), decode(y)
    chunk = max(1, len(y))
    if settings["finetune.scoring"] == "chunks" and group is None:  # the reference too takes a set of groups as a whole
        batch_size = settings["finetune.batch_size"]
        samples = settings["finetune.score_chunk"] or settings["finetune.eval_batch_size"]
        chunk = math.ceil(samples / batch_size) * batch_size
    pairs = list(zip(outputs.split(chunk), y.split(chunk), strict=True))
    losses = [loss(*pair).item() for pair in pairs]
    return sum(losses) / len(pairs), sum(score(part.cpu(), true.cpu()) for part, true in pairs) / len(pairs)
