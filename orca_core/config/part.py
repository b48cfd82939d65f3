"""What the parts of a config are made of: their base class, and the ranges of numbers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
Below1 = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Epochs = Annotated[int, Field(ge=0, le=10**6)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Optimizer = Literal["sgd", "adam", "adamw"]

FROM_LIST = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
"""YAML has lists, a frozen model has tuples."""


class Part(BaseModel):
    """Some knobs that stand together: frozen, strict, and without others."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
