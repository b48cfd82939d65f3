"""What a path that was given as the name of a task or proxy probably stands for: `csv:mine.csv` for `mine.csv`."""

from __future__ import annotations

from collections.abc import Container
from itertools import islice
from pathlib import Path

_BY_SUFFIX = {
    "csv": (".csv", ".tsv", ".arff", ".parquet", ".pq"),
    "npz": (".npz",),
    "text": (".csv", ".tsv", ".jsonl", ".txt", ".conll", ".npz"),
}

_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")

MAX_LOOKED_AT = 2000
"""Maximum number of files of a folder that are looked at."""


def suggest_form(name: str, forms: Container[str]) -> str:
    """A sentence that suggests a name with a form, by what the path is; empty if it is none.

    Args:
        name: What was given, `mine.csv`.
        forms: What may come before a path in this catalogue: `csv`, `npz`, `images`, `text`.
    """
    path = Path(name.partition("?")[0]).expanduser()
    form = next((form for form in _forms_of(path) if form in forms), "")
    if not form:
        return "It is a path that exists, but nothing here reads such a file or folder." if "/" in name and path.exists() else ""
    absent = "" if path.exists() else f" There is no file or folder {path} yet."
    return f"Did you mean '{form}:{name}'?{absent}"


def _forms_of(path: Path) -> list[str]:
    """The forms that could read a path, the likeliest first."""
    if path.is_dir():
        suffixes = {file.suffix.lower() for file in islice(path.rglob("*"), MAX_LOOKED_AT)}
        return [*(["images"] if suffixes & set(_PICTURES) else []), *(["text"] if ".txt" in suffixes else [])]
    return [form for form, suffixes in _BY_SUFFIX.items() if path.suffix.lower() in suffixes]
