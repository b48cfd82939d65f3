"""Earlier spellings of values that a knob takes, for configs, rows and plans of earlier versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COMPILE_BEFORE: Mapping[str, str] = {"false": "none", "true": "default"}
"""`finetune.compile` was a yes or no, written here as text, in version 0.1."""

BEFORE: Mapping[str, Mapping[str, str]] = {"finetune_compile": COMPILE_BEFORE}
"""Column of a knob -> earlier spellings as texts, and what they are now. Ids and keys have `default` as it was written then, as `true`."""


def in_present_spelling(cells: Mapping[str, Any]) -> dict[str, Any]:
    """Cells of a row or a plan, by column, in the spellings of today.

    >>> in_present_spelling({"seed": 0, "finetune_compile": False})
    {'seed': 0, 'finetune_compile': 'none'}
    """
    changed = {name: BEFORE[name].get(str(cells[name]).lower(), cells[name]) for name in BEFORE if name in cells}
    return {**cells, **changed}


def in_hash(knob: str, value: Any) -> Any:
    """The value of a knob as ids and keys have it: what was hashed before it got another spelling stays what it was.

    >>> in_hash("finetune.compile", "default"), in_hash("finetune.compile", "reduce-overhead")
    (True, 'reduce-overhead')
    """
    return True if (knob, value) == ("finetune.compile", "default") else value
