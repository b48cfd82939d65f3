"""Knobs by dotted path: the table of all of them, and nested settings made flat."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import Any

from pydantic import BaseModel

from orca_core.config.knobs import TrialConfig
from orca_core.errors import ConfigError, Fault, nearest


def knob_fields(model: type[BaseModel] = TrialConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every knob as (dotted path, pydantic field), in the order of the models."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from knob_fields(field.annotation, f"{path}.")
        else:
            yield path, field


KNOBS: dict[str, Any] = dict(knob_fields())
"""Dotted path -> pydantic field, for every knob of a trial."""


def sections_of(path: str) -> Iterator[str]:
    """The sections that a knob lies in, the inmost first.

    >>> list(sections_of("finetune.mixup.alpha"))
    ['finetune.mixup', 'finetune']
    """
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


SECTIONS = frozenset(section for path in KNOBS for section in sections_of(path))
"""The inner nodes of the knob tree: `align`, `body`, `finetune.mixup`, ..."""

SHORTHAND = {"body": "body.name", "finetune.smooth": "finetune.smooth.kind"}
"""A section that may be given as one value, and the knob that value is for."""


VALUES_OF: Mapping[str, Callable[[TrialConfig], Any]] = {path: attrgetter(path) for path in KNOBS}
"""Knob -> what takes its value from a config."""


def value_of(config: TrialConfig, path: str) -> Any:
    """The value of a knob."""
    return VALUES_OF[path](config)


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested or dotted keys as a flat dict of dotted paths. Lists, and mappings below a knob, stay values.

    >>> flatten({"align": {"epochs": 5}, "finetune.lr": 0.1, "body": "mini-swin"})
    {'align.epochs': 5, 'finetune.lr': 0.1, 'body.name': 'mini-swin'}

    Raises:
        ConfigError: If a knob is given twice, nested and dotted.
    """
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        path = f"{prefix}{key}"
        is_section = path not in KNOBS and isinstance(value, Mapping)
        for name, inner in flatten(value, f"{path}.").items() if is_section else ((SHORTHAND.get(path, path), value),):
            if name in flat:
                raise ConfigError([Fault(name, "must be given once", inner, f"It is also given as {flat[name]!r}.")])
            flat[name] = inner
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A flat dict of dotted paths as nested dicts."""
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *sections, name = path.split(".")
        node = nested
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return nested


def unknown_knobs(paths: Mapping[str, Any]) -> list[Fault]:
    """A fault for each path that is not a knob, with the nearest known one."""
    faults = []
    for path, value in [(path, value) for path, value in paths.items() if path not in KNOBS]:
        if path in SECTIONS:
            inside = [knob for knob in KNOBS if knob.startswith(f"{path}.")]
            faults.append(Fault(path, f"must be a mapping of {', '.join(inside)}", value))
        else:
            faults.append(Fault(path, "must be a known knob", Fault.ABSENT, nearest_knob(path)))
    return faults


def nearest_knob(path: str) -> str:
    """A sentence that suggests known knobs: the nearest, or those of the same last part, `finetune.lr` for `lr`.

    >>> nearest_knob("lr")
    "Did you mean 'finetune.lr' or 'align.lr'?"
    """
    last = path.rpartition(".")[2]
    if "." in path and (close := difflib.get_close_matches(path, KNOBS, n=1)):
        return f"Did you mean {close[0]!r}?"
    alike = sorted((knob for knob in KNOBS if knob.rpartition(".")[2] == last), key=lambda knob: not knob.startswith("finetune."))
    return f"Did you mean {' or '.join(map(repr, alike[:2]))}?" if alike else nearest(path, KNOBS)
