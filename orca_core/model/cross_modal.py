"""The cross-modal model: embedder, body and predictor in a row."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from orca_core.adapters.base import Adapter
from orca_core.adapters.inserted import insert_adapter
from orca_core.adapters.names import NONE
from orca_core.bodies.base import Body, rows_before_third
from orca_core.bodies.bodiless import ConvolutionalNetwork
from orca_core.bodies.families.decoders import DecoderBody
from orca_core.bodies.keep import kept_parts
from orca_core.bodies.loading import LoadedBody, random_body
from orca_core.errors import ConfigError, Fault
from orca_core.freezing.groups import body_group
from orca_core.model.embedder import Embedder, ImageEmbedder, load_weights, make_embedder
from orca_core.model.matching import prepare_matching
from orca_core.model.predictor import Predictor, make_predictor
from orca_core.seeding import seeded
from orca_core.settings import Settings


def build_embedder(settings: Settings, loaded: LoadedBody, input_shape: tuple[int, ...]) -> Embedder:
    """The embedder of a trial as it starts, before any alignment; drawn by the seed, or read from a file.

    With `embedder.init: matched` it is the embedder before `match_moments`, which needs data.

    Args:
        settings: Of alignment or of fine-tuning.
        loaded: The body, whose own embedding it may copy.
        input_shape: (channels, length) or (channels, height, width).
    """
    geometry, init = loaded.body.geometry, settings["embedder.init"]
    copies_all = init.startswith("pretrained") or (init == "matched" and settings["body.weights"] != "random")
    if settings["body.double"]:
        geometry = replace(geometry, max_tokens=geometry.max_tokens // 2)
    positions_from: int | None = None
    if init in ("reference", "pretrained-third-row"):
        # The reference copies positions with either initialisation (`utils.py:678-717`), and counts them as RoBERTa does for any text body.
        positions_from = rows_before_third(loaded.embedding)
        geometry = replace(geometry, max_tokens=geometry.max_tokens - positions_from)
    with seeded(settings["seed"], "embedder-init"):
        embedder = make_embedder(
            input_shape,
            geometry,
            loaded.embedding,
            target_seq_len=settings["embedder.target_seq_len"],
            pretrained=copies_all or (init == "reference" and settings.aligned),
            positions_from=positions_from,
            kept=kept_parts(settings["body.keep"]),
        )
    if init == "matched":
        prepare_matching(embedder)
    if settings["embedder.weights"] is not None:
        load_weights(embedder, settings["embedder.weights"])
    return embedder


def build_body(settings: Settings, loaded: LoadedBody, *, is_adapted: bool = False) -> Body:
    """The body of a trial as it starts, a copy, so that trials of one process do not share weights.

    Args:
        settings: Of a stage that computes with the body.
        loaded: The body.
        is_adapted: Whether `loaded` has the weights of the stage before, in which layers have been reinitialised already.
    """
    body = copy.deepcopy(loaded.body)
    if settings["finetune.reinit_top"] and not is_adapted:
        _reinitialise_top(body, random_body(loaded.spec, seed=settings["seed"]).body, settings["finetune.reinit_top"])
    if isinstance(body, DecoderBody):
        body.flipped, body.doubled = settings["body.flip"], settings["body.double"]
    return body


_SHARED: WeakKeyDictionary[Body, ref[Body]] = WeakKeyDictionary()
"""Loaded body -> its copy for models of which it does not train, as long as there is one."""


def shared_body(loaded: LoadedBody) -> Body:
    """The body of a model of which only the predictor ever trains: one copy for all such models that there are at a time."""
    found = _SHARED.get(loaded.body)
    body = None if found is None else found()
    if body is None:
        body = copy.deepcopy(loaded.body).requires_grad_(False).eval()
        _SHARED[loaded.body] = ref(body)
    return body


MOST_IN_CACHE = 2**21
"""Numbers of tokens that a body reads at once without gradients on a CPU: 42 samples of 64 tokens at RoBERTa-base's width. For more, a pass
takes up to a third longer where the system clears the memory of results each time, as it does unless `keep_freed_memory` has seen to it. A
constant, not what the machine has, as the bits of a product could depend on the size of its batch (for no body that was tried did they)."""


class CrossModalModel(nn.Module):
    """Target inputs -> tokens -> tokens -> task outputs.

    Args:
        settings: Of fine-tuning, or of alignment; its seed draws embedder and predictor.
        loaded: The body; copied, so that trials of one process do not share weights.
        input_shape: (channels, length) or (channels, height, width).
        output_shape: (num_classes,) or the shape of a dense target.
        body_is_adapted: Whether `loaded` has the weights of the stage before, in which layers have been reinitialised already.
        with_adapter: Whether the adapter is inserted; the stages before fine-tuning have none.
        shares_body: Whether the body is one that models share, see `shared_body`.
    """

    predictor: Predictor

    def __init__(
        self,
        settings: Settings,
        loaded: LoadedBody,
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        *,
        body_is_adapted: bool = False,
        with_adapter: bool = True,
        shares_body: bool = False,
    ) -> None:
        super().__init__()
        self.input_shape, self.output_shape = input_shape, output_shape
        seed = settings["seed"]
        self.embedder = build_embedder(settings, loaded, input_shape)
        self.body = shared_body(loaded) if shares_body else build_body(settings, loaded, is_adapted=body_is_adapted)
        if isinstance(self.body, ConvolutionalNetwork):
            assert not isinstance(self.embedder, ImageEmbedder)
            self.body.grid = self.embedder.grid
        self.adapter: Adapter | None = None
        if with_adapter and settings["adapter"] != NONE:
            with seeded(seed, "adapter-init"):
                self.adapter = insert_adapter(settings["adapter"], self.body)
        with seeded(seed, "predictor-init"):
            pool, head = settings["predictor.pool"], settings["predictor.head"]
            self.predictor = make_predictor(output_shape, loaded.body.geometry, self.embedder, pool, head)

    def features(self, x: Tensor) -> Tensor:
        """What the predictor reads: the body's tokens, pooled."""
        return self.predictor.pool(self.body(self.embedder(x)))

    def inferred_features(self, x: Tensor) -> Tensor:
        """`features` without gradients; on a CPU the body reads few samples at a time, see `MOST_IN_CACHE`."""
        with torch.no_grad():
            tokens = self.embedder(x)
            pieces = self.pieces(tokens, tokens[:1].numel())
            if len(pieces) == 1:
                return self.predictor.pool(self.body(tokens))
            return torch.cat([self.predictor.pool(self.body(piece)) for piece in pieces])

    def pieces(self, values: Tensor, numbers: int) -> Sequence[Tensor]:
        """(n, ...) values by so many samples as a body reads at once without gradients, of which each has this many numbers of tokens."""
        count = 1
        if values.device.type == "cpu" and self.body.geometry.modality != "none":  # a convolution's sums depend on the batch's size
            count = math.ceil(len(values) / max(1, MOST_IN_CACHE // max(1, numbers)))
        return values.tensor_split(count) if count > 1 else (values,)

    def infer(self, x: Tensor) -> Tensor:
        """(n, channels, ...) inputs -> outputs without gradients. Embedder and predictor take all samples at once."""
        with torch.no_grad():
            outputs: Tensor = self.predictor(self.inferred_features(x))
        return outputs

    def forward(
        self,
        x: Tensor,
        *,
        with_tokens: bool = False,
        with_body: bool = False,
        from_tokens: bool = False,
        between: Callable[[Tensor], Tensor] | None = None,
    ) -> Any:
        """(n, channels, ...) inputs -> (n, num_classes) logits or (n, channels, ...) values.

        Args:
            x: Inputs.
            with_tokens: Return the embedder's tokens, too, after the outputs.
            with_body: And the body's.
            from_tokens: `x` is (n, l, d) tokens for the body instead.
            between: What the embedder's tokens pass before the body reads them; those that are returned have not passed it.
        """
        tokens = x if from_tokens else self.embedder(x)
        read = self.body(tokens if between is None else between(tokens))
        outputs = self.predictor(self.predictor.pool(read))
        further = ((tokens,) if with_tokens else ()) + ((read,) if with_body else ())
        return (outputs, *further) if further else outputs

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
        if self.adapter is not None:
            self.adapter.train_mode()

    def num_parameters(self) -> int:
        """Number of scalars that the model is made of, what an adapter's layers share counted once."""
        return sum(parameter.numel() for parameter in self.parameters()) + (0 if self.adapter is None else self.adapter.num_shared)

    def num_trained(self) -> int:
        """Number of scalars that train now."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)


def _reinitialise_top(body: Body, drawn: Body, count: int) -> None:
    """Give the top layers the weights of another body of the same shape (Zhang et al. 2021, "Revisiting few-sample BERT fine-tuning")."""
    if count > len(body.blocks):
        raise ConfigError([Fault("finetune.reinit_top", f"must be at most the {len(body.blocks)} layers of the body", count)])
    for block, other in zip(body.blocks[-count:], drawn.blocks[-count:], strict=True):
        block.load_state_dict(other.state_dict())
