"""Faults of knobs that do not go with the device of a trial, which is no knob."""

from __future__ import annotations

from orca_core.config.knobs import TrialConfig
from orca_core.errors import ConfigError, Fault


def check_device(config: TrialConfig, device: str) -> None:
    """Refuse what a device cannot do, or has not been shown to do.

    Args:
        config: The trial.
        device: Device type, `cpu` or `cuda`.

    Raises:
        ConfigError: With all faults.
    """
    faults, tuning = [], config.finetune
    if device == "cpu" and tuning.compile == "reduce-overhead":
        remedy = "Only GPUs have CUDA graphs. Take default or none; or set resources.gpu, for a single trial --device cuda."
        faults.append(Fault("finetune.compile", "must be none or default on a CPU", tuning.compile, remedy))
    if device != "cpu" and tuning.fused:  # that bits do not depend on the trials beside has been shown for CPUs alone
        faults.append(Fault("finetune.fused", "must be 0 on a GPU", tuning.fused, "Set it to 0, or train on the CPU."))
    if faults:
        raise ConfigError(faults)
