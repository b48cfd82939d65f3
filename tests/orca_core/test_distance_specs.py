"""What `align.objective` can name: every distance keeps the contract of its kind, and its knobs are those of its function."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError, create_model

from orca_core import alignment
from orca_core.config.alignment_knobs import AlignConfig
from orca_core.distances import ALIGN_KNOBS, DISTANCES, OtddSource, distance_knobs, find_distance, l2, mmd, otdd
from orca_core.distances.builtin import OF_BODY
from orca_core.errors import ConfigError
from orca_core.plugins import resolve
from orca_core.testing import DistanceContract


class TestDistances(DistanceContract):
    """Every built-in distance."""

    test_an_entry_point_can_register_it = None  # they are built in

    @pytest.fixture(autouse=True, params=DISTANCES)
    def _spec(self, request):
        self.spec = DISTANCES[request.param]


class TestAnnealedDistances(DistanceContract):
    """OTDD by the reference's solver."""

    test_an_entry_point_can_register_it = None
    options = {"solver": "annealed", "label_gradient": "reference"}  # noqa: RUF012

    @pytest.fixture(autouse=True, params=["otdd-exact", "otdd-gaussian"])
    def _spec(self, request):
        self.spec = DISTANCES[request.param]


OPTIONS = {"label_gradient": "true", "entropic_reg": 0.1, "solver": "converged", "l2_batches": "full", "projections": 100}


@pytest.mark.parametrize("name", DISTANCES)
def test_every_distance_is_prepared_from_its_own_knobs_alone(name: str) -> None:
    draws = torch.Generator().manual_seed(0)
    source_x, source_y, target = torch.randn(40, 3, generator=draws), torch.arange(40) % 4, torch.randn(9, 3, generator=draws)
    spec = find_distance(name)
    options = {knob: value for knob, value in OPTIONS.items() if knob in spec.knobs}
    value, labels = spec.prepared(source_x, source_y, OPTIONS)(target, torch.Generator().manual_seed(1))
    same, _ = resolve(spec.prepare)(source_x, source_y, options)(target, torch.Generator().manual_seed(1))
    assert value > 0
    assert torch.equal(value, same)
    assert (labels is None) == (not name.startswith("otdd-"))


def test_defaults_of_the_knobs_are_those_of_the_functions() -> None:
    defaults = {knob: field.default for knob, (_, field) in distance_knobs().items() if knob not in OF_BODY.knobs}
    assert defaults == OPTIONS


def test_every_other_knob_of_align_is_reserved() -> None:
    assert set(AlignConfig.model_fields) - set(distance_knobs()) == ALIGN_KNOBS


def test_yaml_true_is_a_label_gradient_and_a_regularisation_of_0_is_refused() -> None:
    model = create_model("Knobs", __config__={"strict": True, "extra": "forbid"}, **distance_knobs())
    assert model(label_gradient=True).label_gradient == "true"
    with pytest.raises(ValidationError, match="greater than 0"):
        model(entropic_reg=0.0)


def test_an_unknown_distance_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(
        ConfigError, match=r"align\.objective: must be the name of a distance, but got 'otdd_exact'\. Did you mean 'otdd-exact'"
    ):
        find_distance("otdd_exact")


def test_the_names_in_alignment_are_the_same_functions() -> None:
    assert (alignment.otdd, alignment.mmd, alignment.l2, alignment.OtddSource) == (otdd, mmd, l2, OtddSource)
