"""Features that never change, as embedder and body are frozen: they are computed once, unless they are too many to hold."""

from __future__ import annotations

import torch
from torch import Tensor

from orca_core.model.cross_modal import CrossModalModel

MOST_NUMBERS = 2**28
"""That are held (1 GiB). It decides by the data alone, never by the memory at hand: features that are computed anew in other batches differ
in their last bits."""


def can_be_held(model: CrossModalModel, inputs: Tensor, samples: int) -> bool:
    """Whether the features of all samples are few enough. Pooled ones always are; tokens (attention pooling) may not be.

    Args:
        model: In any mode; left in eval mode.
        inputs: (1, channels, ...) of one sample, on the device.
        samples: How many there are.
    """
    if not model.predictor.pools_late:
        return True
    model.eval()
    with torch.no_grad():
        return samples * model.features(inputs).numel() <= MOST_NUMBERS
