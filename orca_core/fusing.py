"""Which trials may train as one batched model (`finetune.fused`): the rule by which a sweep hands out groups and fine-tuning forms them."""

from __future__ import annotations

from orca_core.config.knobs import TrialConfig
from orca_core.settings import Settings

OF_MEMBERS = frozenset(
    {
        "seed",
        "body.weights",
        "body.keep",
        "embedder.init",
        "embedder.weights",
        "finetune.lr",
        "finetune.weight_decay",
        "finetune.label_smoothing",
        "finetune.schedule",
        "finetune.warmup_epochs",
        "finetune.decay_epochs",
        "finetune.reinit_top",
    }
)
"""What members of a group may differ in: the weights they start with, their draws, and numbers that enter a step as numbers."""


def shared_settings(settings: Settings) -> tuple[tuple[str, str], ...]:
    """What members of a group have in common, of the settings of fine-tuning: name and value of each that no member has of its own."""
    return tuple((name, repr(value)) for name, value in settings.items() if name not in OF_MEMBERS)


def smooths_labels(settings: Settings) -> bool:
    """Whether labels are smoothed: all members of a group do, or none."""
    return bool(settings["finetune.label_smoothing"] > 0)


def group_of(config: TrialConfig) -> str | None:
    """What the trials have in common that can share a group from their first epoch of fine-tuning to the last; None if it trains alone.

    Fine-tuning may still part them: members whose models turn out to have other layers, or whose phases end elsewhere, train in groups of
    their own in the same process.
    """
    if not config.finetune.fused:
        return None
    settings = Settings.of(config, "finetune", len(config.phases) - 1)
    return repr((shared_settings(settings), smooths_labels(settings)))
