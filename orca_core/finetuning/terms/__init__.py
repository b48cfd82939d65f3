"""Terms: what fine-tuning does beside minimising the task's loss. How to add one: see `orca_core/finetuning/terms/base.py`."""

from __future__ import annotations

from orca_core.finetuning.terms.adapter import adapter_term
from orca_core.finetuning.terms.anchors import body_anchor, weight_anchor
from orca_core.finetuning.terms.base import Start, Term
from orca_core.finetuning.terms.joint_distance import joint_distance
from orca_core.finetuning.terms.mixup import mixup
from orca_core.finetuning.terms.smoothness import smoothness

_MAKERS = (adapter_term, joint_distance, weight_anchor, body_anchor, smoothness, mixup)
"""In the order in which they change batches and in which their penalties are summed, which is part of the bits."""


def make_terms(start: Start) -> list[Term]:
    """The terms that a trial's knobs turn on."""
    return [term for make in _MAKERS if (term := make(start)) is not None]
