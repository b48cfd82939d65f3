"""What a distance promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from orca_core.distances import DISTANCE_CATALOGUE, Distance, DistanceSpec

STEPS, STEP_SIZE = 40, 0.05
"""Of the descent in which a distance must fall."""


class DistanceContract:
    """Checks of a `DistanceSpec` and the distance that it prepares.

    Attributes:
        spec: The distance.
        options: Values of its knobs other than their defaults.
    """

    spec: DistanceSpec
    options: ClassVar[Mapping[str, Any]] = {}

    def prepared(self, source_x: Tensor, source_y: Tensor) -> Distance:
        """The distance to a source, with `options`."""
        defaults = {name: field.get_default(call_default_factory=True) for name, (_, field) in self.spec.knobs.items()}
        return self.spec.prepared(source_x, source_y, {**defaults, **self.options})

    def test_an_entry_point_can_register_it(self) -> None:
        DISTANCE_CATALOGUE.check(self.spec)

    def test_it_is_a_finite_scalar_with_a_gradient(self) -> None:
        source_x, source_y, target = _clouds()
        features = target.requires_grad_()
        value, labels = self.prepared(source_x, source_y)(features, _draws())
        assert value.shape == (), f"the distance must be a scalar, but is of shape {tuple(value.shape)}"
        assert value.isfinite(), f"the distance must be finite, but is {value}"
        if labels is not None:
            assert labels.shape == (1, 3), f"label distances to 3 classes must be of shape (1, 3), but are of {tuple(labels.shape)}"
            assert not labels.requires_grad, "label distances must have no gradient"
        value.backward()
        gradient = features.grad
        assert gradient is not None, "the distance must have a gradient in the features"
        assert gradient.isfinite().all(), "the gradient in the features must be finite"
        assert gradient.abs().sum() > 0, "the gradient in the features must not be zero"

    def test_the_same_draws_give_the_same_bits_and_leave_everything_else_alone(self) -> None:
        source_x, source_y, target = _clouds()
        copies, state = (source_x.clone(), source_y.clone(), target.clone()), torch.get_rng_state()
        distance = self.prepared(source_x, source_y)
        first = distance(target, _draws())[0]
        assert torch.equal(first, distance(target, _draws())[0]), "the distance must depend on the features and the generator alone"
        assert torch.equal(first, self.prepared(source_x, source_y)(target, _draws())[0]), "preparing again must change nothing"
        assert torch.equal(torch.get_rng_state(), state), "torch's global generator must be left as it was"
        assert all(map(torch.equal, copies, (source_x, source_y, target))), "the features must be left as they were"

    def test_a_class_of_one_sample_has_a_distance(self) -> None:
        source_x, source_y, target = _clouds()
        value = self.prepared(source_x, source_y)(target[:1], _draws())[0]
        assert value.isfinite(), f"the distance of a class of one sample must be finite, but is {value}"

    def test_it_falls_when_features_follow_its_gradient(self) -> None:
        source_x, source_y, target = _clouds()
        distance, features = self.prepared(source_x, source_y), target.requires_grad_()
        optimizer, values = torch.optim.Adam([features], lr=STEP_SIZE), []
        for _ in range(STEPS):
            optimizer.zero_grad()
            value = distance(features, _draws())[0]
            value.backward()
            optimizer.step()
            values.append(value.item())
        assert values[-1] < 0.98 * values[0], (
            f"the distance must fall in {STEPS} steps along its gradient, but goes {values[0]} -> {values[-1]}"
        )


def _clouds() -> tuple[Tensor, Tensor, Tensor]:
    """(60, 4) source features of 3 classes with their (60,) labels, and (12, 4) features of a target class away from them."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    return torch.randn(60, 4, generator=draws) + labels.unsqueeze(1), labels, torch.randn(12, 4, generator=draws) + 4


def _draws() -> torch.Generator:
    return torch.Generator().manual_seed(1)
