"""The number format of the forward pass in fine-tuning."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from orca_core.settings import Settings


def autocast(settings: Settings, device: torch.device) -> AbstractContextManager[object]:
    """Within: the forward pass computes in the format of `precision`."""
    precision = settings["precision"]
    if precision == "fp32":
        return nullcontext()
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype)
