"""Freezing schedules: what trains in fine-tuning, and when.

A schedule is a list of phases that partition the epochs. Named schedules are short for such lists:

    full                    everything trains
    frozen-embedder         body and predictor train
    frozen-body             embedder and predictor train
    frozen-both             the predictor trains
    layernorm               embedder, predictor and the body's LayerNorms train (FPT, Lu et al. 2021, as ORCA's code has it)
    NAME:N                  N epochs of one of the frozen-* above, then everything

García-de-Herreros et al. 2024 (figure 4) freeze "before full fine-tuning"; whether for a first phase or throughout is not
settled by the caption, so both forms are here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from orca_core.errors import ConfigError, Fault, nearest

Group = Literal["embedder", "body", "predictor", "layernorm"]
GROUPS: tuple[Group, ...] = ("embedder", "body", "predictor", "layernorm")
"""Groups of parameters that a phase can train. `layernorm` is those of the body; `body` holds them too."""

ALL: tuple[Group, ...] = ("embedder", "body", "predictor")

_NAMED: dict[str, tuple[Group, ...]] = {
    "full": ALL,
    "frozen-embedder": ("body", "predictor"),
    "frozen-body": ("embedder", "predictor"),
    "frozen-both": ("predictor",),
    "layernorm": ("embedder", "predictor", "layernorm"),
}
_WITH_FIRST_PHASE = ("frozen-embedder", "frozen-body", "frozen-both")

FREEZING_NAMES: tuple[str, ...] = (*_NAMED, *(f"{name}:N" for name in _WITH_FIRST_PHASE))
"""Every named schedule, N standing for a number of epochs."""


class Phase(BaseModel):
    """One phase of a freezing schedule."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    train: tuple[Group, ...] = Field(description="What trains: a list of embedder, body, predictor, layernorm; or `all`.")
    epochs: Annotated[int, Field(ge=1)] | None = Field(None, description="Epochs of the phase; the last phase may leave it out.")
    lr_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(1.0, description="Factor on the learning rate in this phase.")
    restart: bool = Field(False, description="Start a new optimiser and a new schedule, instead of going on with the one that runs.")

    @field_validator("train", mode="before")
    @classmethod
    def _canonical(cls, value: Any) -> Any:
        """`all` spelled out, in a fixed order, without repeats or what `body` holds anyway."""
        if value == "all":
            return ALL
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError(f"must be `all` or a list of {', '.join(GROUPS)}")
        names = set(value)
        if unknown := [name for name in value if name not in GROUPS]:
            raise ValueError(f"must hold only {', '.join(GROUPS)}: {unknown[0]!r} is none of them")
        if not names:
            raise ValueError("must not be empty")
        return tuple(group for group in GROUPS if group in names and not (group == "layernorm" and "body" in names))


def parse_freezing(freezing: str | Sequence[Phase], epochs: int) -> tuple[Phase, ...]:
    """A schedule as phases, each with its epochs, that add up to `epochs`.

    Raises:
        ConfigError: If the name is unknown or the phases do not partition the epochs.
    """
    if isinstance(freezing, str):
        return _parse_name(freezing, epochs)
    if not freezing:
        raise _fault("must have at least one phase", [])
    *first, last = freezing
    for number, phase in enumerate(first):
        if phase.epochs is None:
            raise ConfigError([Fault(f"freezing.{number}.epochs", "must be given in every phase but the last", Fault.ABSENT)])
    left = epochs - sum(phase.epochs or 0 for phase in first)
    if left < 1:
        raise _fault(f"must leave at least one of the {epochs} epochs of finetune.epochs to the last phase", epochs - left)
    if last.epochs not in (None, left):
        raise _fault(f"must have phases that add up to finetune.epochs = {epochs}", epochs - left + (last.epochs or 0))
    return merge_equal((*first, last.model_copy(update={"epochs": left})))


def merge_equal(phases: Sequence[Phase]) -> tuple[Phase, ...]:
    """Neighbouring phases that train the same, at the same rate and without a restart, as one."""
    merged = [phases[0]]
    for phase in phases[1:]:
        before = merged[-1]
        if (phase.train, phase.lr_scale, phase.restart) == (before.train, before.lr_scale, False):
            merged[-1] = before.model_copy(update={"epochs": (before.epochs or 0) + (phase.epochs or 0)})
        else:
            merged.append(phase)
    # The first phase always starts the optimiser: whether it says so changes nothing.
    return (merged[0].model_copy(update={"restart": False}), *merged[1:])


def freezing_label(phases: Sequence[Phase]) -> str:
    """The shortest spelling of a schedule: its name where it has one, else the phases one after the other."""
    for name, train in _NAMED.items():
        if len(phases) == 1 and phases[0] == Phase(train=train, epochs=phases[0].epochs):
            return name
        if name in _WITH_FIRST_PHASE and list(phases) == [
            Phase(train=train, epochs=phases[0].epochs),
            Phase(train=ALL, epochs=phases[-1].epochs),
        ]:
            return f"{name}:{phases[0].epochs}"
    return " > ".join(_describe(phase) for phase in phases)


def _describe(phase: Phase) -> str:
    scale = f" lr*{phase.lr_scale:g}" if phase.lr_scale != 1 else ""
    return f"{'+'.join(phase.train)}:{phase.epochs}{scale}{' restart' if phase.restart else ''}"


def _parse_name(name: str, epochs: int) -> tuple[Phase, ...]:
    base, colon, number = name.partition(":")
    if base not in _NAMED or (colon and base not in _WITH_FIRST_PHASE):
        raise _fault("must be a freezing schedule", name, nearest(name, FREEZING_NAMES))
    if not colon:
        return (Phase(train=_NAMED[base], epochs=epochs),)
    if not number.isdecimal() or not 1 <= int(number) <= epochs:
        raise _fault(f"must name 1 to {epochs} epochs (finetune.epochs) after the colon", name)
    if int(number) == epochs:
        return (Phase(train=_NAMED[base], epochs=epochs),)
    return (Phase(train=_NAMED[base], epochs=int(number)), Phase(train=ALL, epochs=epochs - int(number)))


def _fault(rule: str, value: object, remedy: str = "") -> ConfigError:
    return ConfigError([Fault("freezing", rule, value, remedy)])


def phases_as_data(phases: Sequence[Phase]) -> list[Mapping[str, Any]]:
    """Phases as plain lists and dicts, for hashing; what is at its default stays out."""
    return [phase.model_dump(mode="json", exclude_defaults=True) for phase in phases]
