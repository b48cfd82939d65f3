"""Labels of nodes, and the selectors by which a sweep chooses among them, in the spelling of Ray's label selectors.

A selector is `spot`, `!spot`, `in(A100, H100)` or `!in(A10G, T4)`; a list stands for `in(...)`. A node without the label satisfies the
negative ones alone, as in Ray.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from orca_core.config.faults import broken_rule
from orca_core.errors import nearest

RAY_PREFIX = "ray.io/"
"""Prefix of the keys that Ray and its deployments set."""

RAY_KEYS = tuple(RAY_PREFIX + name for name in ("accelerator-type", "availability-zone", "market-type", "node-group", "node-id", "region"))
"""Keys that Ray documents for every kind of node."""

_NAME = r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_KEY = re.compile(rf"(?:(?=[^/]{{1,253}}/)[a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)*/)?{_NAME}")
_SELECTOR = re.compile(rf"(!?)(?:({_NAME})|in\(({_NAME}(?:, ?{_NAME})*)\))")
_LETTERS = "letters, digits, dots, dashes and underscores, at most 63, the first and the last a letter or digit"


def check_label_key(key: str) -> str:
    """The key of a label, as it is.

    Raises:
        PydanticCustomError: If it is no key, or a misspelled one of Ray's.
    """
    if not _KEY.fullmatch(key):
        raise broken_rule("", f"must be the key of a node label: {_LETTERS}; before it, if any, a domain and a slash", key)
    if key not in RAY_KEYS and difflib.get_close_matches(key.lower().replace("_", "-"), RAY_KEYS, n=1, cutoff=0.9):
        raise broken_rule("", "must be a label that nodes can have", key, nearest(key.lower(), RAY_KEYS))
    return key


def check_selector(value: Any) -> Any:
    """A selector as it is given: a text, or a list of values.

    Raises:
        PydanticCustomError: If it is no selector.
    """
    if isinstance(value, list):
        if not value or not all(isinstance(each, str) and re.fullmatch(_NAME, each) for each in value):
            raise broken_rule("", f"must be a list of values of a node label, at least one: {_LETTERS}", value)
    elif not isinstance(value, str) or not _SELECTOR.fullmatch(value):
        remedy = 'Write a value, "!value", a list of values, or "!in(value, value)"; what begins with ! needs quotes in YAML.'
        raise broken_rule("", f"must be a value of a node label or a selector of some ({_LETTERS})", value, remedy)
    return value


def selector_text(value: str | list[str]) -> str:
    """A checked selector in Ray's spelling."""
    return value if isinstance(value, str) else f"in({', '.join(value)})"


def select(selectors: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels satisfies all selectors, each in Ray's spelling."""
    return all(_accepts(selector, labels.get(key)) for key, selector in selectors.items())


def _accepts(selector: str, label: str | None) -> bool:
    match = _SELECTOR.fullmatch(selector)
    assert match is not None, selector
    negation, one, several = match.groups()
    values = [one] if one else re.split(", ?", several)
    return (label in values) != bool(negation)
