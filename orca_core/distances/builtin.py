"""The objectives that are always there: distances to the proxy, by what they compare, and the controls that read no proxy."""

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

_SLICED: Mapping[str, tuple[Any, Any]] = {
    "projections": (
        Annotated[int, Field(ge=1, le=10**6)],
        Field(100, description="Number of random directions of sliced-wasserstein, drawn anew for each class in each epoch."),
    ),
}

BUILTIN_DISTANCES: tuple[DistanceSpec, ...] = (
    DistanceSpec(
        "otdd-exact",
        "optimal transport dataset distance, classes compared as clouds of samples",
        "orca_core.distances.otdd_distance:prepare_exact",
        _OTDD,
        version=4,
    ),
    DistanceSpec(
        "otdd-gaussian",
        "optimal transport dataset distance, classes compared as Gaussians",
        "orca_core.distances.otdd_distance:prepare_gaussian",
        _OTDD,
        version=4,
    ),
    DistanceSpec("mmd", "maximum mean discrepancy, labels not read", "orca_core.distances.mmd_distance:prepare"),
    DistanceSpec("coral", "difference of means and covariances, labels not read", "orca_core.distances.coral_distance:prepare"),
    DistanceSpec(
        "sliced-wasserstein",
        "mean Wasserstein distance over random directions, labels not read",
        "orca_core.distances.sliced_wasserstein:prepare",
        _SLICED,
    ),
    DistanceSpec("l2", "mean L2 distance to random source batches, labels not read", "orca_core.distances.l2_distance:prepare", _L2),
)

_BILEVEL: Mapping[str, tuple[Any, Any]] = {
    "inner_lr": (
        Annotated[float, Field(gt=0, allow_inf_nan=False)],
        Field(1e-3, description="Rate of the inner steps of bilevel, plain gradient steps of body and predictor on the task."),
    ),
    "inner_steps": (Annotated[int, Field(ge=1, le=100)], Field(1, description="Number of inner steps of bilevel.")),
    "inner_samples": (
        Annotated[int, Field(ge=2, le=10**6)],
        Field(64, description="Target samples of the inner steps of bilevel, and proxy samples that the stepped body is judged by."),
    ),
    "warmup_epochs": (
        Annotated[int, Field(ge=0, le=10**6)],
        Field(0, description="First epochs of bilevel, which minimise the task's loss alone, through the frozen body: a warm-up."),
    ),
}

OF_BODY = DistanceSpec(
    "bilevel",
    "keeps what the body knows of the proxy through a step on the task (MoNA)",
    "",
    _BILEVEL,
    compares="body",
)
"""The bi-level objective, which has its code in `orca_core.alignment.bilevel`."""

WITHOUT_PROXY: tuple[DistanceSpec, ...] = (
    DistanceSpec(
        "dispersion",
        "share of the features' variance that is within the target's classes; no proxy is read",
        "orca_core.distances.dispersion:prepare",
        compares="classes",
    ),
    DistanceSpec("none", "no distance: the same steps on the task's own loss; no proxy is read", "", compares="nothing"),
)
"""Objectives of alignment that are controls of it: they compare with no proxy."""
