"""What goes through the model of one trial: batches in training, perturbed tokens, and whole sets to be scored."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from orca_core.finetuning.compiling import forward_of
from orca_core.finetuning.fixed_features import FixedFeatures
from orca_core.finetuning.precision import autocast
from orca_core.finetuning.regularisers import Mixout
from orca_core.model.cross_modal import CrossModalModel
from orca_core.settings import Settings
from orca_core.tasks import TaskData


class Passes:
    """Passes through a model, in the precision of the trial. Outputs are in float32.

    What passes is rows as `inputs` has them: samples or, where what is frozen gives features that are computed once, these.

    Args:
        settings: Of fine-tuning, in any of its phases.
        model: Embedder, body and predictor.
        data: The task's data.
        device: Where the model is.

    Attributes:
        forward: The model's forward function, compiled if the settings say so.
        fixed: What the present phase computes once; None if that is nothing.
    """

    def __init__(self, settings: Settings, model: CrossModalModel, data: TaskData, device: torch.device) -> None:
        self.settings, self.model, self.data, self.device = settings, model, data, device
        self.forward = forward_of(model, settings["finetune.compile"], settings["finetune.batch_size"])
        self.mixout = Mixout(model, settings["finetune.mixout"]) if settings["finetune.mixout"] else None
        self.fixed: FixedFeatures | None = None

    def inputs(self, splits: Sequence[Tensor], fixed: FixedFeatures | None) -> Sequence[Tensor]:
        """What passes instead of the samples of some splits: their features, which become `fixed` if they fit; else the samples.

        Args:
            splits: The samples.
            fixed: What computes the features; None if the phase has none that are computed once.
        """
        self.fixed = fixed
        self.model.eval()
        size = self.settings["finetune.eval_batch_size"]
        with torch.no_grad(), self.autocast():
            if fixed is not None and not fixed.fit(self.data.inputs(splits[0][:1].to(self.device)), sum(map(len, splits))):
                self.fixed = fixed = None
            if fixed is None:
                return splits
            return [
                torch.cat([fixed.kept(fixed.of(self.data.inputs(part.to(self.device))).float()) for part in x.split(size)]) if len(x) else x
                for x in splits
            ]

    def outputs(self, x: Tensor) -> Tensor:
        """The predictor's outputs."""
        with self.autocast():
            inputs = self.data.inputs(x) if self.fixed is None else x
        return self.with_tokens(inputs)[0]

    def inferred(self, x: Tensor) -> Tensor:
        """`outputs` in eval mode and without gradients."""
        if self.settings["finetune.compile"] == "default" and self.fixed is None:
            return self.outputs(x)
        with self.autocast():
            if self.fixed is not None:
                return self.fixed.inferred(x).float()
            return self.model.infer(self.data.inputs(x)).float()

    def with_tokens(self, x: Tensor, **options: Any) -> tuple[Tensor, ...]:
        """The predictor's outputs, and the embedder's; for fixed features, the features themselves.

        Args:
            x: Rows, as the embedder reads them.
            options: As of `CrossModalModel`.
        """
        with self.autocast():
            if self.fixed is not None:
                return self.fixed.outputs(x).float(), x
            outputs, *others = self._forward(x, with_tokens=True, **options)
        return outputs.float(), *others

    def from_tokens(self, tokens: Tensor) -> Tensor:
        """Outputs of what the body is given to read."""
        with self.autocast():
            outputs: Tensor = self._forward(tokens, from_tokens=True)
        return outputs.float()

    def decoded(self, values: Tensor) -> Tensor:
        """Outputs or targets in the unit of loss and score."""
        return values if self.data.decode is None else self.data.decode(values)

    def autocast(self) -> AbstractContextManager[object]:
        return autocast(self.settings, self.device)

    def _forward(self, x: Tensor, **options: Any) -> Any:
        if self.mixout is not None and self.model.body.training:
            return torch.func.functional_call(self.model, dict(self.mixout.weights(self.model)), (x,), options)
        return self.forward(x, **options)
