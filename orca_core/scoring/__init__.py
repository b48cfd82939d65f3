"""Losses and scores by name. Every score is an error: lower is better.

A loss is `loss(outputs, targets) -> scalar tensor`; `LOSSES` maps a name to a function that makes it from the training
targets, as class weights come from there. A score is `score(outputs, targets) -> float`, over a whole data set at once.
"""

from __future__ import annotations

from orca_core.scoring.losses import LOSSES
from orca_core.scoring.scores import SCORES

__all__ = ["LOSSES", "SCORES"]
