"""The joint form: the weighted distance of a batch to the proxy is minimised, too (`orca_core.alignment.joint`)."""

from __future__ import annotations

import torch

from orca_core.alignment.joint import BatchDistance
from orca_core.finetuning.terms.base import Penalty, Start, Step, Term
from orca_core.freezing.schedule import Phase
from orca_core.seeding import generator


class JointDistance(Term):
    """`align.weight` times the distance of the embedder's tokens to the proxy, in phases that train the embedder.

    Args:
        distance: Of a batch.
        weight: Of the distance.
        seed: Of the trial.
    """

    def __init__(self, distance: BatchDistance, weight: float, seed: int) -> None:
        self.distance, self.weight, self.seed = distance, weight, seed
        self.draws = torch.Generator()

    def is_active(self, phase: Phase) -> bool:
        return "embedder" in phase.train

    def start_epoch(self, epoch: int) -> None:
        self.draws = generator(self.seed, "joint-distance", epoch)

    def penalty(self, step: Step) -> Penalty:
        distance = self.distance(step.tokens, step.batch.rows, self.draws)
        return Penalty(self.weight * distance, {"distance": distance.detach()})


def joint_distance(start: Start) -> JointDistance | None:
    """The term of `align.weight`."""
    if start.distance is None:
        return None
    return JointDistance(start.distance, start.settings["align.weight"], start.settings["seed"])
