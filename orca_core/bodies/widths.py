"""How wide a body's tokens are, without its modules: features that are read as such must be of that width."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orca_core.bodies import BodySpec

PUBLISHED_WIDTH = 768
"""Of the features that the reference stored: RoBERTa-base's."""

_MINI = {"mini-roberta": 64, "mini-swin": 32}

_KEYS = ("embed_dim", "embedding_size", "n_embd", "dim", "hidden_size")
"""Where configs of Hugging Face say the width of the embedding, the more special first: a Swin's hidden_size is of its end."""


def body_width(body: BodySpec) -> int | None:
    """Width of a body's embedding; None if that is not known before it is loaded."""
    if body.name in _MINI:
        return _MINI[body.name]
    try:
        config = json.loads((body.folder / "config.json").read_text()) if body.folder is not None else {}
    except (OSError, ValueError):
        return None
    return next((config[key] for key in _KEYS if isinstance(config.get(key), int)), None)
