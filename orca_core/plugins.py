"""Tasks, proxies and bodies of other packages, through entry points."""

from __future__ import annotations

import warnings
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any


@lru_cache(maxsize=8)
def third_party(group: str) -> dict[str, Any]:
    """The specs that installed packages give for an entry-point group, by their names.

    One that cannot be loaded is named in a warning and left out: it must not take the others down.
    """
    found = {}
    for entry in entry_points(group=group):
        try:
            spec = entry.load()
            found[spec.name] = spec
        except Exception as error:  # the code of another package: anything may go wrong in it
            warnings.warn(f"entry point {entry.name} of {group} ({entry.value}) is left out: {type(error).__name__}: {error}", stacklevel=2)
    return found
