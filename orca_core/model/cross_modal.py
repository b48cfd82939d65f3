"""The cross-modal model: embedder, body and predictor in a row."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from orca_core.adapters.inserted import Adapter
from orca_core.adapters.names import NONE
from orca_core.bodies.base import Body, rows_before_third
from orca_core.bodies.families.decoders import DecoderBody
from orca_core.bodies.loading import LoadedBody, random_body
from orca_core.config.knobs import TrialConfig
from orca_core.errors import ConfigError, Fault
from orca_core.freezing.groups import body_group
from orca_core.model.embedder import make_embedder
from orca_core.model.predictor import make_predictor
from orca_core.seeding import seeded


class CrossModalModel(nn.Module):
    """Target inputs -> tokens -> tokens -> task outputs.

    Args:
        config: The trial: its seed draws embedder and predictor.
        loaded: The body; copied, so that trials of one process do not share weights.
        input_shape: (channels, length) or (channels, height, width).
        output_shape: (num_classes,) or the shape of a dense target.
    """

    def __init__(self, config: TrialConfig, loaded: LoadedBody, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.input_shape, self.output_shape = input_shape, output_shape
        geometry = loaded.body.geometry
        if config.body.double and loaded.spec.is_decoder:
            geometry = replace(geometry, max_tokens=geometry.max_tokens // 2)
        init = config.embedder.init if config.body.weights == "pretrained" else "random"
        positions_from: int | None = None
        if init == "reference":
            # Which copies positions with either initialisation (`utils.py:678-717`), and counts them as RoBERTa does for every text body.
            positions_from = rows_before_third(loaded.embedding)
            geometry = replace(geometry, max_tokens=geometry.max_tokens - positions_from)
        with seeded(config.seed, "embedder-init"):
            self.embedder = make_embedder(
                input_shape,
                geometry,
                loaded.embedding,
                target_seq_len=config.embedder.target_seq_len,
                pretrained=init == "pretrained" or (init == "reference" and config.align.epochs > 0),
                positions_from=positions_from,
            )
        self.body = copy.deepcopy(loaded.body)
        if config.finetune.reinit_top and config.body.weights == "pretrained":
            _reinitialise_top(self.body, random_body(loaded.spec, seed=config.seed).body, config.finetune.reinit_top)
        if isinstance(self.body, DecoderBody):
            self.body.flipped, self.body.doubled = config.body.flip, config.body.double
        self.adapter: Adapter | None = None
        if config.adapter != NONE:
            with seeded(config.seed, "adapter-init"):
                self.adapter = Adapter(config.adapter, self.body)
        with seeded(config.seed, "predictor-init"):
            self.predictor = make_predictor(output_shape, geometry, self.embedder)

    def features(self, x: Tensor) -> Tensor:
        """What the predictor reads: the body's tokens, pooled."""
        return self.predictor.pool(self.body(self.embedder(x)))

    def forward(self, x: Tensor, *, with_tokens: bool = False) -> Any:
        """(n, channels, ...) inputs -> (n, num_classes) logits or (n, channels, ...) values; on demand the embedder's tokens, too."""
        tokens = self.embedder(x)
        outputs = self.predictor(self.predictor.pool(self.body(tokens)))
        return (outputs, tokens) if with_tokens else outputs

    def group(self, name: str, scores: Tensor | None = None) -> list[nn.Parameter]:
        """The parameters of a group that a freezing phase can name; `scores` are for `surgical`, see `body_group`."""
        if name in ("embedder", "predictor"):
            return list(self.get_submodule(name).parameters())
        if self.adapter is not None:
            return self.adapter.parameters  # what `body` stands for; config takes no other group beside an adapter
        return body_group(self.body, name, scores)

    def train_only(self, groups: tuple[str, ...], scores: Tensor | None = None) -> None:
        """Let the named groups train and freeze the rest. A part in which nothing trains stays in eval mode, see `train_mode`."""
        self.requires_grad_(False)
        for name in groups:
            for parameter in self.group(name, scores):
                parameter.requires_grad_(True)

    def train_mode(self) -> None:
        """Train mode (dropout) for the parts and layers in which something trains, eval mode for frozen ones."""
        for part in (self.embedder, self.body, self.predictor, *self.body.blocks):
            part.train(any(parameter.requires_grad for parameter in part.parameters()))

    def num_trained(self) -> int:
        """Number of scalars that train now."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)


def _reinitialise_top(body: Body, drawn: Body, count: int) -> None:
    """Give the top layers the weights of another body of the same shape (Zhang et al. 2021, "Revisiting few-sample BERT fine-tuning")."""
    if count > len(body.blocks):
        raise ConfigError([Fault("finetune.reinit_top", f"must be at most the {len(body.blocks)} layers of the body", count)])
    for block, other in zip(body.blocks[-count:], drawn.blocks[-count:], strict=True):
        block.load_state_dict(other.state_dict())
