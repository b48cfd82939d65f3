"""Several models of one shape in one forward pass: members are folded into the batch, and each layer has the weights of all members.

Layers with weights are replaced in a copy of a model: one batched product for the linear layers of all members. What has no weights, as
attention's products and activations, runs on the folded batch as it is. So a pass has as many operations as that of a single model, and
one ordinary graph of gradients, where `vmap` adds the work of its batching rules to each operation. The mini bodies have forms of their own
(`folded_swin`, `folded_roberta`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from orca_core.finetuning.batched import Pair, layer_norm, linear
from orca_core.finetuning.fixed_features import PooledFeatures
from orca_core.finetuning.folded_roberta import FoldedRoberta, is_roberta
from orca_core.finetuning.folded_swin import FoldedSwin, is_foldable
from orca_core.finetuning.stacked import laid_out
from orca_core.model.cross_modal import CrossModalModel
from orca_core.model.embedder import Colouring
from orca_core.model.pooling import FixedPool

Weights = dict[str, Tensor]
"""Name of a parameter or buffer of the model -> (members, *shape)."""

MOST_MEMBERS = 2**10
"""Of one pass, where nothing speaks against it."""


READ_AT_ONCE = 128
"""Samples of which features are computed in one pass. For more of them results no longer stay in the processor's cache."""


def parts_of(width: int, at_once: int) -> list[slice]:
    """The members of each pass, of a group of some width: as many in each, so that all have operations of one shape.

    Where the width has no such divisor, the last pass repeats members of the one before, with the same bits.

    >>> parts_of(24, 8), parts_of(5, 4)
    ([slice(0, 8, None), slice(8, 16, None), slice(16, 24, None)], [slice(0, 3, None), slice(2, 5, None)])
    """
    size = -(-width // -(-width // at_once))
    return [slice(min(begin, width - size), min(begin + size, width)) for begin in range(0, width, size)]


class FoldedModel:
    """A model of several members. `FoldedModel.of` makes it.

    Args:
        model: A copy whose layers have been replaced.
        weights: Where its layers look for weights.
        positions: Name of the embedder's positions, if it has any that are learned.

    Attributes:
        at_once: Most members of one pass.
    """

    def __init__(self, model: Any, weights: Weights, positions: str | None) -> None:
        self.model, self.weights, self.positions = model, weights, positions
        self.at_once = min((part.at_once for part in model.modules() if isinstance(part, FoldedSwin | FoldedRoberta)), default=MOST_MEMBERS)

    @classmethod
    def of(cls, model: nn.Module) -> Self | None:
        """The folded form of a model; None if some layer with weights has none.

        Args:
            model: Of one member; left as it is. It has no dropout.
        """
        weights: Weights = {}
        model = copy.deepcopy(model).eval()
        modules = list(model.named_modules())
        whole = tuple(f"{name}." for name, module in modules if is_foldable(module) or is_roberta(module))
        for name, module in modules:
            if name.startswith(whole):
                continue
            if (layer := _folded(name, module, weights)) is not None:
                parent, _, own = name.rpartition(".")
                setattr(model.get_submodule(parent), own, layer)
        positions = "embedder.positions"
        left = dict(model.named_parameters())
        has_positions = positions in left and left.pop(positions).dim() == 2
        buffers = [buffer for part in model.modules() if not isinstance(part, FixedPool) for buffer in part.buffers(recurse=False)]
        if left or any(buffer.is_floating_point() for buffer in buffers):
            return None
        if has_positions:
            del model.get_submodule("embedder")._parameters["positions"]
        return cls(model, weights, positions if has_positions else None)

    def __call__(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Outputs of all members.

        Args:
            weights: Name of a parameter or buffer -> (members, *shape).
            x: (members, n, ...) inputs.

        Returns:
            (members, n, ...).
        """
        return self._pass(self.model, weights, x)

    def features(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """What the predictors of all members read. Shapes as of a call."""
        return self._pass(self.model.features, weights, x)

    def _pass(self, of: Callable[[Tensor], Tensor], weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        self.weights.clear()
        self.weights.update(weights)
        members, samples = x.shape[:2]
        if self.positions is not None:
            of_members = weights[self.positions]
            every = of_members.unsqueeze(1).expand(members, samples, *of_members.shape[1:]).flatten(0, 1)
            self.model.get_submodule("embedder").positions = every
        outputs = of(x.flatten(0, 1))
        self.weights.clear()
        return outputs.unflatten(0, (members, samples))


class FoldedFeatures(PooledFeatures):
    """What the predictor of a mini body reads where nothing else trains, by the folded form of the model: it takes two thirds of the time.

    Args:
        model: The model.
        folded: Its folded form.
    """

    def __init__(self, model: CrossModalModel, folded: FoldedModel) -> None:
        super().__init__(model)
        self.folded = folded
        parts = (*model.named_parameters(), *model.named_buffers())
        self.weights = {name: tensor.detach().unsqueeze(0) for name, tensor in parts}

    def of(self, x: Tensor) -> Tensor:
        return torch.cat([self.folded.features(self.weights, part.unsqueeze(0)).squeeze(0) for part in x.split(READ_AT_ONCE)])


def _folded(name: str, module: nn.Module, weights: Weights) -> nn.Module | None:
    """What replaces a layer; None if it stays as it is."""
    if is_foldable(module):
        return FoldedSwin(name, weights, module)
    if is_roberta(module):
        return FoldedRoberta(name, weights, module)
    if type(module) is nn.Linear or isinstance(module, Colouring):
        return _Linear(name, weights)
    if type(module) is nn.LayerNorm and module.elementwise_affine and len(module.normalized_shape) == 1:
        return _LayerNorm(name, weights, module)
    if isinstance(module, nn.Conv1d | nn.Conv2d) and _cuts_patches(module):
        return _Patches(name, weights, module)
    return None


def _cuts_patches(convolution: nn.Conv1d | nn.Conv2d) -> bool:
    """Whether a convolution is a linear layer of patches that neither overlap nor leave gaps."""
    is_plain = convolution.groups == 1 and set(convolution.dilation) == {1} and set(convolution.padding) == {0}
    return is_plain and convolution.kernel_size == convolution.stride


class _Layer(nn.Module):
    """A layer that finds the weights of all members by its name.

    Args:
        name: Of the layer that it replaces.
        weights: Of the pass.
    """

    def __init__(self, name: str, weights: Weights) -> None:
        super().__init__()
        self.names, self.weights = (f"{name}.weight", f"{name}.bias"), weights

    def own(self) -> Pair:
        """Weight and bias, (members, *shape)."""
        weight, bias = self.names
        return self.weights[weight], self.weights.get(bias)


class _Linear(_Layer):
    """Linear layers, (members n, ..., d) -> (members n, ..., out)."""

    def forward(self, x: Tensor) -> Tensor:
        layer = self.own()
        return linear(x.reshape(len(layer[0]), -1, x.shape[-1]), layer).view(*x.shape[:-1], -1)


class _LayerNorm(_Layer):
    """LayerNorms over the last axis."""

    def __init__(self, name: str, weights: Weights, module: nn.LayerNorm) -> None:
        super().__init__(name, weights)
        self.eps = module.eps

    def forward(self, x: Tensor) -> Tensor:
        norm = self.own()
        return layer_norm(x.reshape(len(norm[0]), -1, x.shape[-1]), norm, self.eps).view(x.shape)


class _Patches(_Layer):
    """Convolutions of patches, (members n, channels, ...) -> (members n, out, ...)."""

    def __init__(self, name: str, weights: Weights, module: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__(name, weights)
        self.sizes = module.kernel_size

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.own()
        for axis, size in enumerate(self.sizes):
            x = x.unfold(2 + axis, size, size)
        axes = len(self.sizes)
        grid = x.shape[2 : 2 + axes]
        patches = x.movedim(1, 1 + axes).reshape(len(weight), -1, weight[0, 0].numel())  # (members, n patches, channels size)
        values = linear(laid_out(patches), (weight.flatten(2), bias))
        return values.view(len(x), *grid, -1).movedim(-1, 1)
