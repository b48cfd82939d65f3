"""Penalties on outputs that move when the embedder's tokens are perturbed: R3F, by noise, and SMART, by an adversary.

    penalty = weight * mean over samples of divergence(outputs of the tokens, outputs of the perturbed tokens)

R3F (Aghajanyan et al. 2021, arXiv 2008.03156) perturbs by normal noise. SMART (Jiang et al. 2020, arXiv 1911.03437) takes a step of
projected gradient ascent from there; of its two parts this is the first, the smoothness penalty, without the Bregman proximal optimiser.
Both passes have their own dropout, and gradients go through both.

The divergence is the symmetric Kullback-Leibler divergence of the class probabilities, or of those of each label on its own where the loss
is a binary cross-entropy, and the squared difference of the outputs otherwise, in the scale in which the model gives them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from orca_core.finetuning.terms.base import Penalty, Start, Step, Term
from orca_core.seeding import generator


def symmetric_kl(outputs: Tensor, others: Tensor) -> Tensor:
    """KL(p || q) + KL(q || p) of the classes, mean over samples; (n, c) logits of p and q. It is the sum of (p - q)(log p - log q)."""
    p, q = F.log_softmax(outputs, dim=1), F.log_softmax(others, dim=1)
    return ((p.exp() - q.exp()) * (p - q)).sum(1).mean()


def symmetric_kl_of_labels(outputs: Tensor, others: Tensor) -> Tensor:
    """The same for labels that are yes or no on their own, mean over labels and samples: (p - q) times the difference of the logits."""
    return ((outputs.sigmoid() - others.sigmoid()) * (outputs - others)).mean()


def squared_difference(outputs: Tensor, others: Tensor) -> Tensor:
    """Mean over samples and entries."""
    return (outputs - others).square().mean()


class Smoothness(Term):
    """The penalty of R3F or, with a radius, of SMART.

    Args:
        loss: Name of the task's loss, which decides the divergence.
        weight: Of the penalty.
        noise: Standard deviation of the noise, in the scale of the embedder's tokens.
        radius: Of the step and of the box around the tokens; None = no step.
        seed: Of the trial.
    """

    needs_forward = True

    def __init__(self, loss: str, weight: float, noise: float, radius: float | None, seed: int) -> None:
        self.weight, self.noise, self.radius, self.seed = weight, noise, radius, seed
        self.divergence = squared_difference
        if loss.endswith("cross-entropy"):
            self.divergence = symmetric_kl
        elif loss.startswith("bce"):
            self.divergence = symmetric_kl_of_labels
        self.draws = torch.Generator()

    def start_epoch(self, epoch: int) -> None:
        self.draws = generator(self.seed, "smooth", epoch)

    def penalty(self, step: Step) -> Penalty:
        tokens = step.change(step.tokens)
        perturbation = self.noise * torch.randn(tokens.shape, generator=self.draws).to(tokens.device)
        if self.radius is not None:
            perturbation = self._worst(step, tokens.detach(), perturbation)
        divergence = self.divergence(step.outputs, step.run(tokens + perturbation))
        return Penalty(self.weight * divergence, {"roughness": divergence.detach()})

    def _worst(self, step: Step, tokens: Tensor, noise: Tensor) -> Tensor:
        """The perturbation after one step of ascent: `radius` along the gradient over its largest entry by sample, clipped to the box."""
        assert self.radius is not None
        noise = noise.requires_grad_(True)
        divergence = self.divergence(step.outputs.detach(), step.run(tokens + noise))
        (ascent,) = torch.autograd.grad(divergence, noise)
        largest = ascent.flatten(1).abs().amax(1).clamp(min=torch.finfo(ascent.dtype).tiny)
        return (noise.detach() + self.radius * ascent / largest[:, None, None]).clamp(-self.radius, self.radius)


def smoothness(start: Start) -> Smoothness | None:
    """The term of `finetune.smooth`."""
    settings = start.settings
    if settings["finetune.smooth.kind"] == "none":
        return None
    radius = settings["finetune.smooth.radius"] if settings["finetune.smooth.kind"] == "smart" else None
    return Smoothness(settings.task.loss, settings["finetune.smooth.weight"], settings["finetune.smooth.noise"], radius, settings["seed"])
