"""Which parts of a body start pretrained (`body.keep`): their names, and how a config spells them. No torch here.

    layernorm     every LayerNorm, RMSNorm and the like, wherever it stands
    attention     of what is left: the attention modules, with all that is in them
    embeddings    of what is left: the body's own embedding, and what a family keeps in it though it stays in the body here
    ffn           of what is left: all else in the transformer blocks
    other         the rest: Swin's patch merging, say

The five partition the tensors of a body, so keeping all of them is keeping `all`. `layers:N` is the lowest N blocks whole, across the
five. A list is the union of what it names. `orca_core.bodies.parts` applies this to modules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from orca_core.errors import nearest

PARTS = ("attention", "ffn", "layernorm", "embeddings", "other")
"""The parts that partition a body, in the order in which they are spelled."""

ALL, NOTHING = "all", "none"

OF_EMBEDDING = ("layernorm", "embeddings")
"""The parts that a body's own embedding consists of."""

RULE = f"must be {ALL} or a list of {', '.join(PARTS)} and layers:N with N from 1"
"""What `body.keep` must be, as a clause."""

_LAYERS = re.compile(r"layers:([1-9][0-9]{0,3})")


class KeepError(ValueError):
    """What is written breaks `RULE`; the message says which names are none, if any."""


def spell_keep(value: Any) -> str:
    """The canonical spelling of what is kept: `all`, `none`, or names joined by `+`, each once and in a fixed order.

    >>> spell_keep(["ffn", "attention"]), spell_keep("layers:2+layers:1"), spell_keep([])
    ('attention+ffn', 'layers:2', 'none')
    >>> spell_keep(["other", "ffn", "attention", "layernorm", "embeddings"])
    'all'

    Raises:
        KeepError: If it is neither `all` nor a list of parts; it names all that are none.
    """
    if isinstance(value, str):
        value = [] if value == NOTHING else value.split("+")
    if not isinstance(value, list | tuple):
        raise KeepError("")
    layers, named, unknown = 0, set(), []
    for name in value:
        if isinstance(name, str) and (found := _LAYERS.fullmatch(name)):
            layers = max(layers, int(found[1]))
        elif name in (ALL, *PARTS):
            named.add(name)
        else:
            hint = nearest(name, (ALL, *PARTS)).partition("Known:")[0] if isinstance(name, str) else ""
            unknown.append(f"{name!r} is no part. {hint}".strip())
    if unknown:
        raise KeepError(" ".join(unknown))
    if ALL in named or named.issuperset(PARTS):
        return ALL
    return _join([*(part for part in PARTS if part in named), *([f"layers:{layers}"] if layers else [])])


def kept_parts(keep: str) -> frozenset[str]:
    """The parts of the partition that a canonical spelling names."""
    return frozenset(PARTS) if keep == ALL else frozenset(keep.split("+")) & set(PARTS)


def kept_layers(keep: str) -> int:
    """How many of the lowest blocks a canonical spelling keeps whole, beside the parts."""
    return next((int(name.partition(":")[2]) for name in keep.split("+") if name.startswith("layers:")), 0)


def without_repetition(keep: str, num_layers: int | None) -> str:
    """The spelling without `ffn` where all blocks are kept whole, as nothing of it is outside them.

    >>> without_repetition("ffn+other+layers:2", 2), without_repetition("ffn+layers:1", 2)
    ('other+layers:2', 'ffn+layers:1')
    """
    if not num_layers or kept_layers(keep) < num_layers:
        return keep
    return _join(name for name in keep.split("+") if name != "ffn")


@lru_cache  # every config of a plan asks
def kept_of_embedding(keep: str) -> str:
    """What is kept of the body's own embedding, on which its features and the embedder's start depend: `all` if that is all of it."""
    kept = [part for part in PARTS if part in OF_EMBEDDING and part in kept_parts(keep)]
    return ALL if len(kept) == len(OF_EMBEDDING) else _join(kept)


def _join(names: Iterable[str]) -> str:
    return "+".join(names) or NOTHING
