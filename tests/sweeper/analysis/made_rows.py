"""Rows of `trials` that are written down rather than run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def cross(knobs: Mapping[str, Sequence[Any]], error: Callable[[Mapping[str, Any]], float | None], **shared: Any) -> list[dict[str, Any]]:
    """A row for each combination of values, whose error is a function of its cells; None leaves the trial out.

    As in a sweep, the proxy of a trial that is not aligned is null, and trials that then are the same are one.
    """
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for values in itertools.product(*knobs.values()):
        cells: dict[str, Any] = {"task": "digits", "seed": 0, **dict(zip(knobs, values, strict=True))}
        if cells.get("align_epochs") == 0 and "proxy" in cells:
            cells["proxy"] = None
        key = tuple(cells.values())
        if key not in rows and (value := error(cells)) is not None:
            rows[key] = {"trial": f"t{len(rows)}", "status": "COMPLETE", "test_error": value, **cells, **shared}
    return list(rows.values())
