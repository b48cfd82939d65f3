"""Data files that come with installed packages."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

from orca_core.errors import DataError


@lru_cache(maxsize=256)
def find_package_file(package: str, *parts: str) -> Path:
    """A file inside an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"{package}: must be installed, as {'/'.join(parts)} comes with it")
    return Path(spec.submodule_search_locations[0]).joinpath(*parts)
