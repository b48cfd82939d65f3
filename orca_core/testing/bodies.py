"""What a body promises."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from orca_core.alignment.source import source_features
from orca_core.bodies import BODY_CATALOGUE, BodySpec
from orca_core.bodies.loading import LoadedBody, checkpoint_body, random_body
from orca_core.bodies.promises import broken_promises
from orca_core.model.embedder import make_embedder
from orca_core.proxies import DEFAULT_PROXY, find_proxy

INPUT_SHAPES = ((3, 40), (1, 8, 8), (2, 16, 16))
"""A series, an image, a field: any body takes any of them."""


class BodyContract:
    """Checks of a `BodySpec` and the modules that it stands for. A bodiless arm is held to those that do not need pretrained weights,
    attention or an embedding of its own.

    Attributes:
        spec: The body; its files must be there.
        proxy: A proxy that the body can embed; empty for the default of its modality.
    """

    spec: BodySpec
    proxy: ClassVar[str] = ""

    def body(self, seed: int = 0, dropout: float = 0.0) -> LoadedBody:
        """The body with random weights."""
        return random_body(self.spec, seed=seed, dropout=dropout)

    def pretrained(self, attempt: str) -> LoadedBody:
        """The body with its pretrained weights, loaded anew for every other `attempt`."""
        return checkpoint_body(self.spec, attempt)

    def test_an_entry_point_can_register_it(self) -> None:
        BODY_CATALOGUE.check(self.spec)

    def test_its_modules_have_the_shapes_and_parts_that_they_promise(self) -> None:
        loaded = self.body()
        broken = broken_promises(self.spec, loaded.body, loaded.embedding)
        assert not broken, "\n".join(broken)
        attention = set(loaded.body.attention)
        without = [block for block in loaded.body.blocks if not attention & set(block.modules())]
        assert not without or self.spec.is_bodiless, "every block must have attention modules"

    def test_random_weights_are_drawn_by_the_seed_alone(self) -> None:
        torch.manual_seed(1)
        before, first = torch.get_rng_state(), _weights(self.body())
        assert torch.equal(torch.get_rng_state(), before), "building the body must leave torch's generator as it was"
        torch.manual_seed(2)
        again, other = _weights(self.body()), _weights(self.body(seed=1))
        assert _same(first, again), "random weights must not depend on anything but the seed"
        assert not first or not _same(first, other), "another seed must draw other weights"

    def test_pretrained_weights_are_the_same_each_time_and_not_random(self) -> None:
        if self.spec.pretrained_here or self.spec.is_bodiless:
            return  # they are the result of a stage, or there are none
        pretrained, again = _weights(self.pretrained("first")), _weights(self.pretrained("second"))
        assert _same(pretrained, again), "pretrained weights must be the same each time they are loaded"
        drawn = _weights(self.body())
        shapes, drawn_shapes = ({name: tuple(tensor.shape) for name, tensor in found.items()} for found in (pretrained, drawn))
        assert shapes == drawn_shapes, "random weights must have the names and shapes of the pretrained ones"
        assert not _same(pretrained, drawn), "random weights must not be the pretrained ones"

    def test_dropout_acts_in_train_mode_only(self) -> None:
        body = self.body(dropout=0.5).body
        length = body.geometry.side**2 if self.spec.modality == "images" else min(5, body.geometry.max_tokens)
        tokens = torch.randn(2, length, body.geometry.width, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert torch.equal(body(tokens), body(tokens)), "in eval mode the same tokens must come out each time"
            body.train()
            assert not body.blocks or not torch.equal(body(tokens), body(tokens)), "in train mode dropout must act"

    def test_any_input_passes_and_the_embedder_gets_a_gradient(self) -> None:
        for shape in INPUT_SHAPES:
            loaded = random_body(replace(self.spec, dims=len(shape) - 1), seed=0) if self.spec.is_bodiless else self.body()
            geometry = loaded.body.geometry
            embedder = make_embedder(shape, geometry, loaded.embedding, target_seq_len=512, pretrained=True)
            tokens = loaded.body(embedder(torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))))
            assert tokens.shape[::2] == (2, geometry.output_width), f"inputs of shape {shape} must come out in the output width"
            tokens.square().sum().backward()
            stuck = [
                name for name, parameter in embedder.named_parameters() if parameter.grad is None or not parameter.grad.abs().sum() > 0
            ]
            assert not stuck, f"a gradient must reach the embedder for inputs of shape {shape}, but none reaches {', '.join(stuck)}"

    def test_its_embedding_makes_features_of_a_proxy(self) -> None:
        if self.spec.is_bodiless:
            return
        proxy, loaded = find_proxy(self.proxy or DEFAULT_PROXY[self.spec.modality]), self.body()
        features, _ = source_features(proxy, loaded, samples=20, seed=0, device=torch.device("cpu"))
        expected = (20, loaded.body.geometry.width)
        assert tuple(features.shape) == expected, f"features must be of shape {expected}, but are of {tuple(features.shape)}"
        assert features.isfinite().all(), "features must be finite"

    def test_it_can_be_sent_to_a_worker(self) -> None:
        assert pickle.loads(pickle.dumps(self.spec)).digest() == self.spec.digest(), "the digest must survive pickling"


def _weights(loaded: LoadedBody) -> Mapping[str, Tensor]:
    parts = {"body": loaded.body, "embedding": loaded.embedding}
    return {f"{name}.{key}": tensor for name, part in parts.items() if part is not None for key, tensor in part.state_dict().items()}


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
