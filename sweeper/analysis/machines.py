"""Whether the trials of a sweep were computed by machines whose bits may differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from orca_core.numerics import NumericalKind, vendor

COMPARED = tuple(column.name for column in fields(NumericalKind) if column.compare)
"""Columns of `trials` that say what computed a trial; where one of them differs, bits may."""

COLUMNS = ("status", "bits", "mixed_numerics", *COMPARED)
"""What `machines_note` reads of a row."""


def machines_note(rows: Iterable[Mapping[str, Any]]) -> str:
    """In a sentence or two, what differs between the machines that computed trials; empty if nothing is known to.

    Args:
        rows: Of `trials`; those that did not come to their end, and those of version 0.1, which do not say what computed them, are passed
            over.
    """
    ended = [row for row in rows if row["status"] in ("COMPLETE", "PRUNED")]
    kinds = Counter(_compared(row) for row in ended if row["cpu_capability"] is not None)
    differing = [number for number in range(len(COMPARED)) if len({kind[number] for kind in kinds}) > 1]
    parts = []
    if differing:
        groups = Counter[str]()
        for kind, count in kinds.items():
            groups[", ".join(f"{COMPARED[number]} {kind[number]}" for number in differing)] += count
        listed = "; ".join(f"{count} by {text}" for text, count in groups.most_common())
        parts.append(f"trials were computed by machines whose bits may differ: {listed}.")
    if mixed := sum(row["mixed_numerics"] is True for row in ended):
        parts.append(f"{mixed} trials reused stages from such a machine (mixed_numerics).")
    if parts and any(row["bits"] != "portable" for row in ended):
        parts.append("On CPUs, `bits: portable` makes processors alike; see docs/running.md.")
    return " ".join(parts)


def _compared(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What must be equal for equal bits: of portable trials the vendor of the processor, but not its model."""
    values = {name: row[name] for name in COMPARED}
    if row["bits"] == "portable":
        values["device_name"] = vendor(values["device_name"])
    return tuple(values.values())
