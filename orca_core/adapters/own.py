"""Adapters of our own: their options, defaults and ranges, and the bodies they fit. `orca_core.adapters.inserted` builds them.

    adapter: {name: bottleneck, r: 64, place: both, norms: false}    Houlsby et al. 2019, arXiv 1902.00751
    adapter: {name: side, taps: 4, width: null}                      ladder side-tuning, Sung et al. 2022, arXiv 2206.06522
    adapter: {name: vpt, tokens: 10, deep: true}                     visual prompt tuning, Jia et al. 2022, arXiv 2203.12119
    adapter: {name: prefix, tokens: 10}                              Li & Liang 2021, arXiv 2101.00190

An option at its default is left out of the spelling, so it is the same trial with and without it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orca_core.errors import Fault, nearest

if TYPE_CHECKING:
    from orca_core.bodies import BodySpec


@dataclass(frozen=True)
class Option:
    """One option of an adapter.

    Args:
        default: Taken where it is left out.
        rule: What its values must be, to follow "must be".
        holds: Whether a value is one.
    """

    default: Any
    rule: str
    holds: Callable[[Any], bool]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10**6


def _is_taps(value: Any) -> bool:
    if not isinstance(value, list):
        return _is_count(value)
    whole = all(isinstance(layer, int) and not isinstance(layer, bool) and layer >= 0 for layer in value)
    return bool(value) and whole and value == sorted(set(value))


def _count(default: int) -> Option:
    return Option(default, "a whole number of at least 1", _is_count)


def _switch(default: bool) -> Option:
    return Option(default, "true or false", lambda value: isinstance(value, bool))


PLACES = ("attention", "ffn", "both")

OWN: Mapping[str, Mapping[str, Option]] = {
    "bottleneck": {
        "r": _count(64),
        "place": Option("both", f"one of {', '.join(PLACES)}", lambda value: value in PLACES),
        "norms": _switch(False),
    },
    "side": {
        "taps": Option(4, "a number of layers, or a rising list of layers counted from 0", _is_taps),
        "width": Option(None, "a whole number of at least 1, or null for an eighth of the body's", lambda v: v is None or _is_count(v)),
    },
    "vpt": {"tokens": _count(10), "deep": _switch(True)},
    "prefix": {"tokens": _count(10)},
}
"""Adapter -> its options."""


def without_defaults(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options without those that are at their defaults; all of them for an adapter that is not ours."""
    known = OWN.get(name, {})
    return {key: value for key, value in options.items() if key not in known or _differs(value, known[key].default)}


def with_defaults(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of an adapter of ours."""
    return {key: option.default for key, option in OWN[name].items()} | dict(options)


def tapped_layers(taps: int | list[int], layers: int) -> list[int]:
    """The layers that a ladder reads, from 0 at the bottom: a number of them lies as evenly as may be, the top one always among them.

    >>> tapped_layers(4, 12), tapped_layers(4, 2), tapped_layers([0, 5], 12)
    ([2, 5, 8, 11], [0, 1], [0, 5])
    """
    if isinstance(taps, list):
        return taps
    count = min(taps, layers)
    return [(number + 1) * layers // count - 1 for number in range(count)]


def canonical(adapter: str, layers: int | None) -> str:
    """The spelling that stands for all of the same ladder in a body of so many layers: its list of layers, or its default.

    >>> canonical('{"name":"side","taps":9}', 2), canonical('{"name":"side","taps":[2,5,8,11]}', 12)
    ('side', 'side')
    """
    if not adapter.startswith("{") or layers is None:
        return adapter
    options = json.loads(adapter)
    if options.get("name") != "side" or not _is_taps(options.get("taps", 1)):
        return adapter
    default = OWN["side"]["taps"].default
    taps = tapped_layers(options.pop("taps", default), layers)
    if taps != tapped_layers(default, layers):
        options["taps"] = taps
    return spelled(options.pop("name"), options)


def spelled(name: str, options: Mapping[str, Any]) -> str:
    """An adapter as a config spells it: its name, or JSON with sorted keys if it has options."""
    return json.dumps({"name": name, **options}, sort_keys=True, separators=(",", ":"), allow_nan=False) if options else name


def option_faults(name: str, options: Mapping[str, Any]) -> Iterator[Fault]:
    """Faults of the options of an adapter of ours; none for others, whose options peft checks."""
    known = OWN.get(name, {})
    for key, value in options.items() if known else ():
        if key not in known:
            yield Fault(f"adapter.{key}", f"must be an option of {name}", value, nearest(key, known))
        elif not known[key].holds(value):
            yield Fault(f"adapter.{key}", f"must be {known[key].rule}", value)


def body_faults(name: str, options: Mapping[str, Any], body: BodySpec) -> Iterator[Fault]:
    """Faults of an adapter of ours with a body, as far as its description shows them. A bodiless arm does not read the adapter."""
    if body.is_bodiless:
        return
    if name == "vpt" and body.modality != "images":
        yield Fault("adapter", f"must not be vpt for {body.name}, which reads text", name, "prefix gives such a body learned tokens.")
    if name == "vpt" and body.modality == "images" and not body.takes_tokens:
        remedy = "Take a ViT, DeiT, DINOv2, CLIP or SigLIP."
        rule = f"must not be vpt for {body.name}, whose blocks relate places of a grid, where a learned token has none"
        yield Fault("adapter", rule, name, remedy)
    if name == "prefix" and body.modality != "text":
        yield Fault("adapter", f"must not be prefix for {body.name}, which reads images", name, "vpt gives such a body learned tokens.")
    layers = body.num_layers
    if name == "side" and layers is not None and (beyond := [tap for tap in _listed(options) if tap >= layers]):
        yield Fault("adapter.taps", f"must name layers 0 to {layers - 1} of {body.name}", beyond[0])


def _listed(options: Mapping[str, Any]) -> list[int]:
    taps = options.get("taps")
    return taps if isinstance(taps, list) and _is_taps(taps) else []


def _differs(value: Any, default: Any) -> bool:
    return value != default or isinstance(value, bool) != isinstance(default, bool)
