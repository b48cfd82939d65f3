"""Methods by name: what `method: pare` is short for.

A method sets defaults, over the recipe's and under what a user writes. Its name is not part of a trial's id; the knobs it sets are. So
`method: orca` and the same knobs written out are one trial, and every knob of a method can be varied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from orca_core.distances import find_distance

if TYPE_CHECKING:
    from orca_core.config.knobs import TrialConfig

Method = Literal["naive", "orca", "pare", "mona", "recraft", "l2g"]

STEPS = 20
"""Steps of alignment of a method that aligns, where the recipe has none."""

_OFF = {"align.epochs": 0, "align.weight": 0.0, "mix.share": 0.0}


def method_defaults(name: str, dims: int, kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The knobs that a method sets.

    Args:
        name: One of `Method`.
        dims: 1 for series and tables, 2 for images and fields.
        kind: Of the task.
        values: Other knobs: a user's and the recipe's.
    """
    epochs = values.get("align.epochs") or STEPS
    if name == "naive":
        return dict(_OFF)
    if name == "pare":  # its code: src/configs, 32 of 64 tokens of a series, 2000 (of dense tasks 1000) to 500 of 3136 patches
        shares = (0.5, 0.0) if dims == 1 else (0.32, 0.16) if kind == "dense" else (0.64, 0.16)
        return _OFF | {
            "mix.share": shares[0],
            "mix.end_share": shares[1],
            "mix.epochs": float(values.get("finetune.epochs", 10)),
            "mix.weight": 0.1 if dims == 1 else 1.0,
            "mix.gate_epochs": 5 if dims == 1 else 10,
        }
    of_method = {
        "orca": {"align.objective": "otdd-exact"},
        "mona": {"align.objective": "bilevel", "align.task_weight": 1.0, "align.warmup_epochs": epochs // 4},
        "recraft": {"align.objective": "otdd-exact", "align.label_entropy": 1.0},
        "l2g": {"align.objective": "mmd", "align.task_weight": 1.0},
    }
    return _OFF | {"align.epochs": epochs} | of_method.get(name, {})


def method_of(config: TrialConfig) -> str | None:
    """The method that a trial is one of by its knobs, whoever set them; None for a mixture of several, and for a bodiless arm."""
    align, compares = config.align, find_distance(config.align.objective).compares
    if config.body_spec.is_bodiless or config.aligns_jointly:
        return None
    if not config.aligns:
        return "pare" if config.mixes else "naive"
    terms = (align.label_entropy > 0 and compares == "proxy", align.task_weight > 0 and compares == "proxy")
    if config.mixes or compares in ("classes", "nothing") or terms == (True, True):
        return None
    if compares == "body":
        return "mona"
    return "recraft" if terms[0] else "l2g" if terms[1] else "orca"
