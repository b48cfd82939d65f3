"""Bottleneck adapters (Houlsby et al. 2019, arXiv 1902.00751, section 2.1 and figure 2).

Behind the projection that ends a sublayer, and before its sum with what went into the sublayer, stands

    h + W_up gelu(W_down h + b_down) + b_up          W_down: (r, d), W_up: (d, r)

so one costs 2 d r + d + r parameters, and a block has two: after the attention and after the feed-forward network. The authors draw both
matrices near zero, so that training starts near the body. Here W_up and b_up are zero, and it starts at the body to the bit; W_down is
drawn as torch draws a linear layer. The paper trains the LayerNorms, too: `norms: true`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from orca_core.adapters.base import Adapter, own_parameters
from orca_core.bodies.base import Body
from orca_core.errors import ConfigError, Fault


class Bottleneck(nn.Module):
    """(..., d) -> (..., d), the identity as it starts.

    Args:
        width: d.
        r: Width of the bottleneck.
    """

    def __init__(self, width: int, r: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, r), nn.Linear(r, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.up(F.gelu(self.down(h)))


class BottleneckAdapter(Adapter):
    """Bottlenecks in every block of a body, each kept in the linear layer whose output it changes.

    Args:
        body: The body.
        r: Width of the bottlenecks.
        place: `attention`, `ffn` or `both`.
        norms: Train the LayerNorms inside the blocks, too.

    Raises:
        ConfigError: If the body's sublayers are not to be found.
    """

    def __init__(self, body: Body, *, r: int, place: str, norms: bool) -> None:
        super().__init__("bottleneck", body)
        body.requires_grad_(False)
        for attention, feed_forward in sublayer_ends(body):
            for wanted, layer in (("attention", attention), ("ffn", feed_forward)):
                if place in (wanted, "both"):
                    bottleneck = Bottleneck(_output_width(layer), r)
                    layer.add_module("bottleneck", bottleneck)
                    layer.register_forward_hook(_through_bottleneck)
                    self.parameters += own_parameters(bottleneck)
        if norms:
            inside = [part for block in body.blocks for part in block.modules() if isinstance(part, body.norm_types)]
            self.parameters += [parameter.requires_grad_(True) for part in inside for parameter in part.parameters()]


def sublayer_ends(body: Body) -> list[tuple[nn.Module, nn.Module]]:
    """Of every block, the linear layers that end its attention and its feed-forward network, by type and place and never by name.

    The attention ends in its one linear layer that makes no queries, keys or values; the feed-forward network in the last linear layer
    outside the attention, which is as wide as that.

    Raises:
        ConfigError: If a block is made in another way.
    """
    from transformers.pytorch_utils import Conv1D

    try:
        projections = set(body.qkv)
    except ConfigError:
        raise _fault("that says which layers are its `qkv`", body) from None
    attentions = {part for module in body.attention for part in module.modules()}
    ends = []
    for block in body.blocks:
        linears = [part for part in block.modules() if isinstance(part, nn.Linear | Conv1D)]
        within = [part for part in linears if part in attentions and part not in projections]
        outside = [part for part in linears if part not in attentions]
        if len(within) != 1 or not outside or _output_width(outside[-1]) != _output_width(within[0]):
            raise _fault("whose blocks end attention and feed-forward network in a linear layer each", body)
        ends.append((within[0], outside[-1]))
    return ends


def _through_bottleneck(layer: Any, inputs: Any, output: Tensor) -> Tensor:
    changed: Tensor = layer.bottleneck(output)
    return changed


def _output_width(layer: Any) -> int:
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.nf)  # GPT-2's kind of linear layer has another name for it


def _fault(rule: str, body: Body) -> ConfigError:
    return ConfigError([Fault("adapter", f"must not be bottleneck but for a body {rule}", type(body).__name__)])
