"""Regularisers of fine-tuning: label smoothing, mixout, and learning rates that decrease with depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from orca_core.model.cross_modal import CrossModalModel


def smoothed(loss: Tensor, outputs: Tensor, share: float | Tensor) -> Tensor:
    """`1 - share` times the loss plus `share` times the cross-entropy to the uniform distribution (Szegedy et al. 2016).

    With the plain cross-entropy this is torch's `label_smoothing`.

    Args:
        loss: Scalar, of the labels as they are.
        outputs: (n, c) logits.
        share: In [0, 1); a number or a scalar.
    """
    return (1 - share) * loss - share * F.log_softmax(outputs, dim=1).mean()


class Mixout:
    """Mixout (Lee et al. 2020): in training each weight of the body's linear layers is the one it started from with probability p.

    The mixed weights are scaled so that their mean over draws is the current weight, as dropout does it. Only layers that train are mixed.

    Args:
        model: Its weights are those that training starts from.
        p: Probability, in (0, 1).
    """

    def __init__(self, model: CrossModalModel, p: float) -> None:
        self.p = p
        names = [f"body.{name}.weight" for name, part in model.body.named_modules() if isinstance(part, nn.Linear | Conv1D)]
        parameters = dict(model.named_parameters())
        self.start = {name: parameters[name].detach().clone() for name in names}

    def weights(self, model: CrossModalModel) -> Mapping[str, Tensor]:
        """Mixed weights by name, drawn from torch's global generators."""
        mixed = {}
        for name, parameter in model.named_parameters():
            if name in self.start and parameter.requires_grad:
                start = self.start[name] = self.start[name].to(parameter.device)
                kept = torch.rand_like(parameter) >= self.p
                mixed[name] = start + (parameter - start) * kept / (1 - self.p)
        return mixed


def layer_rates(model: CrossModalModel, decay: float) -> list[dict[str, Any]]:
    """Parameter groups with a `scale` of the learning rate that falls with depth (as in Clark et al. 2020, ELECTRA).

    Predictor, and what stands outside the body's L blocks: 1. Block l, from 0 at the bottom: decay^(L - l). Embedder: decay^(L + 1).
    """
    blocks = model.body.blocks
    scales = {id(parameter): decay ** (len(blocks) - number) for number, block in enumerate(blocks) for parameter in block.parameters()}
    scales |= {id(parameter): decay ** (len(blocks) + 1) for parameter in model.embedder.parameters()}
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        groups.setdefault(scales.get(id(parameter), 1.0), []).append(parameter)
    return [{"params": parameters, "scale": scale} for scale, parameters in groups.items()]
