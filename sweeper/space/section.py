"""What the sections of a search-space file have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of the file: known keys only, of the right type, and never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)
