"""Which search spaces there are by name. Imports nothing heavy: completion in the shell asks it with each TAB."""

from __future__ import annotations

from pathlib import Path


def available_spaces() -> dict[str, Path]:
    """Name -> file of every search space in `./search_spaces` and in the package; of equal names, the former."""
    shipped = Path(__file__).resolve().parents[2] / "search_spaces"
    found: dict[str, Path] = {}
    for folder in (Path("search_spaces"), shipped):
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found
