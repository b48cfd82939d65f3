"""The distances that are always there: optimal transport in two forms, maximum mean discrepancy, mean L2 distance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from orca_core.distances.spec import DistanceSpec


def _true_as_text(value: Any) -> Any:
    """YAML reads the choice `true` as a boolean."""
    return "true" if value is True else value


_OTDD: Mapping[str, tuple[Any, Any]] = {
    "label_gradient": (
        Annotated[Literal["true", "none", "reference"], BeforeValidator(_true_as_text)],
        Field(
            "true",
            description="Gradient that the label term of OTDD passes to the embedder; `reference`: none for exact, twice for Gaussian.",
        ),
    ),
    "entropic_reg": (
        Annotated[float, Field(gt=0, allow_inf_nan=False)],
        Field(0.1, description="Entropic regularisation of OTDD, in squared feature units."),
    ),
    "solver": (
        Literal["converged", "annealed"],
        Field(
            "converged",
            description="How OTDD's transport problems are solved: to convergence in float64, or by the reference's single annealing "
            "in float32.",
        ),
    ),
}

_L2: Mapping[str, tuple[Any, Any]] = {
    "l2_batches": (
        Literal["full", "all"],
        Field(
            "full",
            description="Batches that l2 is averaged over: the full ones or, as in the reference, also the incomplete last one, as 0.",
        ),
    ),
}

BUILTIN_DISTANCES: tuple[DistanceSpec, ...] = (
    DistanceSpec(
        "otdd-exact",
        "optimal transport dataset distance, classes compared as clouds of samples",
        "orca_core.distances.otdd_distance:prepare_exact",
        _OTDD,
    ),
    DistanceSpec(
        "otdd-gaussian",
        "optimal transport dataset distance, classes compared as Gaussians",
        "orca_core.distances.otdd_distance:prepare_gaussian",
        _OTDD,
    ),
    DistanceSpec("mmd", "maximum mean discrepancy, labels not read", "orca_core.distances.mmd_distance:prepare"),
    DistanceSpec("l2", "mean L2 distance to random source batches, labels not read", "orca_core.distances.l2_distance:prepare", _L2),
)
