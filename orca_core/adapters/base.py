"""What an adapter is to a model and to fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from orca_core.bodies.base import Body


class Adapter:
    """A few new weights in a body. The body is changed in place; new weights are drawn from torch's global generator.

    Attributes:
        name: As in a config.
        body: The body; its own weights are left as they are.
        parameters: What trains where a freezing schedule says `body`.
        num_shared: Numbers that are drawn and never change, used by several layers at once: no parameters, but part of the model.
    """

    num_shared: int = 0

    def __init__(self, name: str, body: Body) -> None:
        self.name, self.body = name, body
        self.parameters: list[nn.Parameter] = []

    def train_mode(self) -> None:
        """Put parts into train or eval mode that the model would put into another one; called after the model has done so."""

    def penalty(self) -> Tensor | float:
        """What is added to the loss."""
        return 0.0

    def after_step(self, step: int) -> None:
        """Act after an optimiser step and before the next `zero_grad`; `step` counts through fine-tuning, from 1."""

    def state(self) -> dict[str, Tensor]:
        """What the next step depends on besides the weights."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a state."""


def own_parameters(*modules: nn.Module) -> list[nn.Parameter]:
    """The parameters of new modules, which start out trainable in a body that is frozen."""
    return [parameter for module in modules for parameter in module.parameters()]
