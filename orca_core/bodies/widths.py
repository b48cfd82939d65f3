"""How wide a body's tokens are, without its modules: features that are read as such must be of that width."""

from __future__ import annotations

from orca_core.bodies.spec import BodySpec

PUBLISHED_WIDTH = 768
"""Of the features that the reference stored: RoBERTa-base's."""


def body_width(body: BodySpec) -> int | None:
    """Width of a body's embedding; None if that is not known before it is loaded."""
    return body.width
