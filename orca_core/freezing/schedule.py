"""Freezing schedules: what trains in fine-tuning, and when.

A schedule is a list of phases that partition the epochs. Named schedules are abbreviations of such lists:

    full                    everything trains
    frozen-embedder         body and predictor train
    frozen-body             embedder and predictor train
    frozen-both             the predictor trains
    NAME:N                  N epochs of one of the frozen-* above, then everything
    lp-ft:N                 N epochs of the predictor, then everything with a new optimiser and schedule (Kumar et al. 2022)
    layernorm               of the body, its LayerNorms (FPT, Lu et al. 2021, as ORCA's code has it) and GPT-2's position table
    bias                    of the body, its biases, those of LayerNorms too (BitFit, Ben Zaken et al. 2022)
    attention, non-attn     of the body, its attention (projections and position biases, no LayerNorms), or all but that
    qkv, non-qkv            of the body, its projections to queries, keys and values, or all but these (the reference's `non-attn`)
    top-layers:N            of the body, its top N layers
    surgical:N              of the body, the N layers of highest Fisher information (`orca_core.freezing.fisher`)
    gradual:N               of the body nothing for N epochs, then one more layer from the top every N epochs, then everything

Embedder and predictor train in all of the last seven rows, and in `gradual` from the start. Layers are the body's transformer blocks,
counted from the bottom (Swin: over all stages); modules outside them, such as the last LayerNorm, are not layers.

García-de-Herreros et al. 2024 (figure 4) freeze "before full fine-tuning"; whether for a first phase or throughout is not
settled by the caption, so both forms are here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from orca_core.errors import ConfigError, Fault, nearest

GROUPS = ("embedder", "body", "predictor", "layernorm", "bias", "attention", "non-attn", "qkv", "non-qkv")
"""Groups of parameters that a phase can train. Those after `predictor` are parts of the body, which `body` includes."""

LAYER_GROUPS = ("layers", "top-layers", "surgical")
"""Groups with a number: `layers:0` is the lowest layer, `top-layers:2` the top two, `surgical:2` two that are chosen by their gradients."""

_PATTERN = rf"({'|'.join(GROUPS)}|layers:\d+|(top-layers|surgical):[1-9]\d*)"
ALL = ("embedder", "body", "predictor")

_NAMED: dict[str, tuple[str, ...]] = {
    "full": ALL,
    "frozen-embedder": ("body", "predictor"),
    "frozen-body": ("embedder", "predictor"),
    "frozen-both": ("predictor",),
    **{part: ("embedder", "predictor", part) for part in GROUPS[3:]},
}
_NAMES = {train: name for name, train in _NAMED.items()}
_WITH_FIRST_PHASE = ("frozen-embedder", "frozen-body", "frozen-both", "lp-ft")
_WITH_LAYERS = ("top-layers", "surgical")

FREEZING_NAMES: tuple[str, ...] = (*_NAMED, *(f"{name}:N" for name in (*_WITH_FIRST_PHASE, *_WITH_LAYERS, "gradual")))
"""Every named schedule; N is a number of epochs or layers."""


class Phase(BaseModel):
    """One phase of a freezing schedule."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    train: tuple[Annotated[str, Field(pattern=f"^{_PATTERN}$")], ...] = Field(
        description="What trains: a list of embedder, body, predictor, layernorm, bias, attention, non-attn, qkv, non-qkv, "
        "layers:NUMBER (0 is the lowest), top-layers:COUNT, surgical:COUNT; or `all`."
    )
    epochs: Annotated[int, Field(ge=1)] | None = Field(None, description="Epochs of the phase; the last phase may leave it out.")
    lr_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(1.0, description="Factor on the learning rate in this phase.")
    restart: bool = Field(False, description="Start a new optimiser and a new schedule, instead of going on with the one that runs.")

    @field_validator("train", mode="before")
    @classmethod
    def _canonical(cls, value: Any) -> Any:
        """`all` spelled out, in a fixed order, without repeats or parts of the body beside `body`."""
        if value == "all":
            return ALL
        known = f"{', '.join(GROUPS)}, {', '.join(f'{name}:N' for name in LAYER_GROUPS)}"
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError(f"must be `all` or a list of {known}")
        if unknown := [name for name in value if not (isinstance(name, str) and re.fullmatch(_PATTERN, name))]:
            raise ValueError(f"must hold only {known}: {unknown[0]!r} is none of them")
        if not value:
            raise ValueError("must not be empty")
        names = {_without_zeros(name) for name in value if name in ALL or "body" not in value}
        return tuple(sorted(names, key=_position))

    @property
    def is_surgical(self) -> bool:
        """Whether its layers are chosen by their gradients."""
        return any(name.startswith("surgical:") for name in self.train)


def _without_zeros(name: str) -> str:
    base, colon, number = name.partition(":")
    return f"{base}:{int(number)}" if colon else name


def _position(name: str) -> tuple[int, int]:
    base, _, number = name.partition(":")
    return ((*GROUPS, *LAYER_GROUPS).index(base), int(number or 0))


def parse_freezing(freezing: str | Sequence[Phase], epochs: int, layers: int | None = None) -> tuple[Phase, ...]:
    """Parse a schedule into phases whose epochs add up to `epochs`.

    Args:
        freezing: A name or a list of phases.
        epochs: `finetune.epochs`.
        layers: Layers of the body; None if they are not known, then layers are not checked, and `gradual` is refused.

    Raises:
        ConfigError: If the name is unknown, the phases do not partition the epochs, or the body has no such layers.
    """
    phases = _parse_name(freezing, epochs, layers) if isinstance(freezing, str) else _fill(freezing, epochs)
    for name in (name for phase in phases for name in phase.train):
        check_layers(name, layers)
    return phases


def check_layers(name: str, layers: int | None) -> None:
    """Check that a body of `layers` layers has those that a group names.

    Raises:
        ConfigError: If not.
    """
    base, colon, number = name.partition(":")
    if colon and layers is not None:
        low, high = (0, layers - 1) if base == "layers" else (1, layers)
        if not low <= int(number) <= high:
            raise _fault(f"must name {low} to {high} after {base}: for a body of {layers} layers", name)


def bodiless_faults(body: str, phases: Sequence[Phase]) -> list[Fault]:
    """Faults of a schedule for a bodiless arm: without pretrained layers to keep, what takes the body's place belongs to the embedder.

    So a phase trains both or neither, and no part of them: `full`, `frozen-both`, `lp-ft:N` and lists of such phases are left.

    Args:
        body: Its name.
        phases: The schedule.
    """
    if all(("embedder" in phase.train) == ("body" in phase.train) and set(phase.train) <= set(ALL) for phase in phases):
        return []
    remedy = "Take full, frozen-both or lp-ft:N. In a space, `when: {body.modality: [text, images]}` limits an axis to arms with a body."
    return [Fault("freezing", f"must train embedder and body together for {body}, which has no pretrained layers", Fault.ABSENT, remedy)]


def _fill(freezing: Sequence[Phase], epochs: int) -> tuple[Phase, ...]:
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
    """Merge neighbouring phases that train the same groups at the same rate without a restart."""
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
    """The shortest spelling of a schedule: its name if it has one, otherwise its phases in a row."""
    first = phases[0]
    if len(phases) == 1 and first.train in _NAMES and first.lr_scale == 1 and not first.restart:
        return _NAMES[first.train]
    epochs = sum(phase.epochs or 0 for phase in phases)
    # A gradual schedule that has come to its last phase had a phase for every layer and one before them.
    layers = len(phases) - 1 if phases[-1].train == ALL else len(phases)
    for name in _candidates(phases):
        if _parse_name(name, epochs, layers if name.startswith("gradual:") else None) == tuple(phases):
            return name
    return " > ".join(_describe(phase) for phase in phases)


def _candidates(phases: Sequence[Phase]) -> Iterator[str]:
    """Names that may fit a schedule."""
    yield from _NAMED
    yield from (name for name in phases[0].train if name.partition(":")[0] in _WITH_LAYERS)
    if len(phases) > 1:
        yield from (f"{name}:{phases[0].epochs}" for name in (*_WITH_FIRST_PHASE, "gradual"))


def _describe(phase: Phase) -> str:
    scale = f" lr*{phase.lr_scale:g}" if phase.lr_scale != 1 else ""
    return f"{'+'.join(phase.train)}:{phase.epochs}{scale}{' restart' if phase.restart else ''}"


@lru_cache(maxsize=1024)  # phases do not change, and the trials of a plan have few schedules
def _parse_name(name: str, epochs: int, layers: int | None) -> tuple[Phase, ...]:
    base, colon, text = name.partition(":")
    if not colon and base in _NAMED:
        return (Phase(train=_NAMED[base], epochs=epochs),)
    if not colon or base not in (*_WITH_FIRST_PHASE, *_WITH_LAYERS, "gradual"):
        raise _fault("must be a freezing schedule", name, nearest(name, FREEZING_NAMES))
    number = int(text) if text.isdecimal() else 0
    if base in _WITH_LAYERS:
        if number < 1:
            raise _fault("must name a number of layers, 1 or more, after the colon", name)
        return (Phase(train=("embedder", "predictor", f"{base}:{number}"), epochs=epochs),)
    if not 1 <= number <= epochs:
        raise _fault(f"must name 1 to {epochs} epochs (finetune.epochs) after the colon", name)
    if base == "gradual":
        if layers is None:
            raise _fault("must not be gradual for a body whose number of layers is unknown before it is loaded", name, "List the phases.")
        return tuple(_gradual(number, epochs, layers))
    first, restart = (("predictor",), True) if base == "lp-ft" else (_NAMED[base], False)
    if number == epochs:
        return (Phase(train=first, epochs=epochs),)
    return (Phase(train=first, epochs=number), Phase(train=ALL, epochs=epochs - number, restart=restart))


def _gradual(each: int, epochs: int, layers: int) -> Iterator[Phase]:
    for unfrozen in range(layers + 1):
        if (left := epochs - unfrozen * each) < 1:
            return
        top = (f"top-layers:{unfrozen}",) if unfrozen else ()
        if unfrozen == layers:
            yield Phase(train=ALL, epochs=left)
        else:
            yield Phase(train=("embedder", "predictor", *top), epochs=min(each, left))


def _fault(rule: str, value: object, remedy: str = "") -> ConfigError:
    return ConfigError([Fault("freezing", rule, value, remedy)])


def phases_as_data(phases: Sequence[Phase]) -> list[Mapping[str, Any]]:
    """Phases as plain lists and dicts, for hashing; defaults are left out."""
    return [phase.model_dump(mode="json", exclude_defaults=True) for phase in phases]
