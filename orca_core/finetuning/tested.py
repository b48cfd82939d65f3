"""After which epochs of fine-tuning the test set is evaluated."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from orca_core.settings import Settings

_LOWEST = "tested.lowest"
"""Name, in a state, of the lowest validation error so far."""


class TestedEpochs:
    """The epochs whose test error `finetune.test` asks for.

    With `best-and-last` these are the epochs whose validation error is as low as that of any epoch before, which has the one that a trial
    selects on validation data among them, however ties are broken; and the last epoch of the schedule. Without validation samples, as
    in a final training after folds, every epoch is tested.

    Args:
        settings: `finetune.test`, and `finetune.epochs` where it is not `each-epoch`.
    """

    __test__ = False  # not a test case, whatever its name looks like to a collector

    def __init__(self, settings: Settings) -> None:
        self.last: int | None = None if settings["finetune.test"] == "each-epoch" else settings["finetune.epochs"]
        self.lowest: float | None = None

    def asks(self, epoch: int, valid_error: float | None) -> bool:
        """Whether the test error of an epoch is asked for. To be called once for every epoch, in order.

        Args:
            epoch: From 1.
            valid_error: Of the epoch; None without validation samples.
        """
        if self.last is None or valid_error is None:
            return True
        is_best = self.lowest is None or valid_error <= self.lowest
        if is_best:
            self.lowest = valid_error
        return is_best or epoch == self.last

    def state(self) -> dict[str, Tensor]:
        """What the next epoch depends on."""
        return {} if self.lowest is None else {_LOWEST: torch.tensor(self.lowest, dtype=torch.float64)}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a state of the whole trajectory."""
        self.lowest = tensors[_LOWEST].item() if _LOWEST in tensors else None
