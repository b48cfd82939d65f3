"""Penalties on leaving the start: of the weights (L2-SP) and of what the body makes of the data (distillation).

Both take as the start the model as fine-tuning begins: pretrained, aligned if the trial aligns, with the layers of `finetune.reinit_top`
already drawn anew. The predictor has no start that is worth keeping, since it is drawn at random, and takes no part in either.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from orca_core.finetuning.precision import autocast
from orca_core.finetuning.terms.base import Penalty, Start, Step, Term
from orca_core.freezing.schedule import Phase
from orca_core.model.cross_modal import CrossModalModel
from orca_core.settings import Settings


def _trains_features(phase: Phase) -> bool:
    return set(phase.train) != {"predictor"}


class WeightAnchor(Term):
    """L2-SP (Li et al. 2018, arXiv 1802.01483): `weight` / 2 times the squared distance of the weights from those at the start.

    Of embedder and body, the parameters that train in the phase. The paper's second term, an L2 penalty on the new layers, is
    `finetune.weight_decay`, which takes the other weights towards 0, too: set it to 0 for the penalty alone.

    Args:
        model: At the start.
        weight: The paper's alpha.
    """

    def __init__(self, model: CrossModalModel, weight: float) -> None:
        self.weight = weight
        self.start: Mapping[str, Tensor] = {
            name: parameter.detach().clone() for name, parameter in model.named_parameters() if not name.startswith("predictor.")
        }

    def is_active(self, phase: Phase) -> bool:
        return _trains_features(phase)

    def penalty(self, step: Step) -> Penalty | None:
        training = {name: p for name, p in step.model.named_parameters() if p.requires_grad}
        moved = [(p - self.start[name]).square().sum() for name, p in training.items() if name in self.start]
        if not moved:
            return None
        distance = torch.stack(moved).sum()
        return Penalty(self.weight / 2 * distance, {"weight_distance": distance.detach()})


class BodyAnchor(Term):
    """Distillation from the start: `weight` times the mean squared difference of the body's output from that of the model at the start.

    The mean is over samples, tokens and width. This is the behavioural penalty of DELTA (Li et al. 2019, arXiv 1901.09229) on the last
    layer's features, without its attention over them, and the hint of Romero et al. 2015 (arXiv 1412.6550) for networks of one shape.
    The start reads the same batch, mixed and changed alike, without dropout.

    Args:
        model: At the start; its embedder and body are copied.
        weight: Of the difference.
        settings: `precision`.
        device: Where it computes.
    """

    reads_body = True

    def __init__(self, model: CrossModalModel, weight: float, settings: Settings, device: torch.device) -> None:
        self.weight, self.settings, self.device = weight, settings, device
        self.embedder, self.body = (copy.deepcopy(part).requires_grad_(False).eval() for part in (model.embedder, model.body))

    def is_active(self, phase: Phase) -> bool:
        return _trains_features(phase)

    def penalty(self, step: Step) -> Penalty:
        assert step.body_tokens is not None
        with torch.no_grad(), autocast(self.settings, self.device):
            at_start = self.body(step.change(self.embedder(step.batch.inputs)))
        distance = (step.body_tokens.float() - at_start.float()).square().mean()
        return Penalty(self.weight * distance, {"body_distance": distance.detach()})


def weight_anchor(start: Start) -> WeightAnchor | None:
    """The term of `finetune.l2_sp`."""
    weight = start.settings["finetune.l2_sp"]
    return WeightAnchor(start.model, weight) if weight else None


def body_anchor(start: Start) -> BodyAnchor | None:
    """The term of `finetune.distill`."""
    weight = start.settings["finetune.distill"]
    return BodyAnchor(start.model, weight, start.settings, start.device) if weight else None
