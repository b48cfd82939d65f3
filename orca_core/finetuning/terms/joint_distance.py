"""The joint form: the weighted distance of a batch to the proxy is minimised, too (`orca_core.alignment.joint`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from orca_core.alignment.agreement import cosine, without_conflict
from orca_core.alignment.joint import BatchDistance
from orca_core.finetuning.terms.base import Combined, Gradients, Penalty, Start, Step, Term
from orca_core.freezing.schedule import Phase
from orca_core.seeding import generator


class JointDistance(Term):
    """`align.weight` times the distance of the embedder's tokens to the proxy, in phases that train the embedder.

    Args:
        distance: Of a batch.
        weight: Of the distance.
        seed: Of the trial.
        project: Whether of each of the two gradients is taken away what works against the other (`align.gradient`).
        agreement: Whether the cosine of the two gradients is reported even so (`align.agreement`).
    """

    def __init__(self, distance: BatchDistance, weight: float, seed: int, *, project: bool = False, agreement: bool = False) -> None:
        self.distance, self.weight, self.seed, self.project = distance, weight, seed, project
        self.splits_gradient = project or agreement
        self.draws = torch.Generator()

    def is_active(self, phase: Phase) -> bool:
        return "embedder" in phase.train

    def start_epoch(self, epoch: int) -> None:
        self.draws = generator(self.seed, "joint-distance", epoch)

    def penalty(self, step: Step) -> Penalty:
        distance = self.distance(step.tokens, step.batch.rows, self.draws)
        return Penalty(self.weight * distance, {"distance": distance.detach()})

    def combine(self, task: Gradients, own: Gradients, parameters: Sequence[nn.Parameter]) -> Combined:
        shared = [(number, a, b) for number, (a, b) in enumerate(zip(task, own, strict=True)) if a is not None and b is not None]
        of_task, of_distance = [a for _, a, _ in shared], [b for _, _, b in shared]
        agreement = cosine(of_task, of_distance) if shared else torch.zeros((), dtype=torch.float64)
        columns = {"gradient_cosine": agreement.float()}
        if not self.project or not agreement < 0:
            return Combined(None, columns)
        gradients = [b if a is None else a for a, b in zip(task, own, strict=True)]
        for (number, _, _), combined in zip(shared, without_conflict(of_task, of_distance), strict=True):
            gradients[number] = combined
        return Combined(gradients, columns)


def joint_distance(start: Start) -> JointDistance | None:
    """The term of `align.weight`."""
    if start.distance is None:
        return None
    settings = start.settings
    project, agreement = settings["align.gradient"] == "project", settings["align.agreement"]
    return JointDistance(start.distance, settings["align.weight"], settings["seed"], project=project, agreement=agreement)
