"""Reports whether the trials of a sweep were computed by machines whose bits may differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from orca_core.numerics import NumericalKind, vendor

COMPARED = tuple(column.name for column in fields(NumericalKind) if column.compare)
"""Columns of `trials` that identify what computed a trial. If one of them differs, bits may differ."""

COLUMNS = ("status", "bits", "mixed_numerics", *COMPARED)
"""The columns of a row that `describe_differences` reads."""


def describe_differences(rows: Iterable[Mapping[str, Any]]) -> str:
    """Describe in a sentence or two how the machines that computed trials differ; empty if no difference is known.

    Args:
        rows: Rows of `trials`. Trials that are not finished are skipped, and those of version 0.1, which do not record what computed them.
    """
    ended = [row for row in rows if row["status"] in ("COMPLETE", "PRUNED")]
    kinds = Counter(select_compared(row) for row in ended if row["cpu_capability"] is not None)
    differing = [number for number in range(len(COMPARED)) if len({kind[number] for kind in kinds}) > 1]
    parts = []
    if differing:
        groups = Counter[str]()
        for kind, count in kinds.items():
            groups[", ".join(f"{COMPARED[number]} {kind[number]}" for number in differing)] += count
        counts = "; ".join(f"{count} by {text}" for text, count in groups.most_common())
        parts.append(f"trials were computed by machines whose bits may differ: {counts}.")
    if mixed := sum(row["mixed_numerics"] is True for row in ended):
        parts.append(f"{mixed} trials reused stages from such a machine (mixed_numerics).")
    if parts and any(row["bits"] != "portable" for row in ended):
        parts.append("On CPUs, `bits: portable` makes processors agree; see docs/running.md.")
    return " ".join(parts)


def select_compared(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """The values that must be equal for equal bits, by `COMPARED`; columns that a row lacks count as null.

    For portable trials the vendor of the processor counts, but not its model.
    """
    values = {name: row.get(name) for name in COMPARED}
    if row.get("bits") == "portable" and values["device_name"] is not None:
        values["device_name"] = vendor(values["device_name"])
    return tuple(values.values())
