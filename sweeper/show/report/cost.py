"""What a sweep cost, what sharing stages saved, and which machines and versions computed it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sweeper.show.report.content import Block, Cell, Paragraph, Section, Table, count_cell, text_cell
from sweeper.show.report.material import Material

_ORDER = ("pretrain", "source", "align", "adapt", "finetune")
_STAGE_NAMES = {
    "pretrain": "pretraining",
    "source": "features of the proxy",
    "align": "alignment",
    "adapt": "adaptation to the target's inputs",
    "finetune": "fine-tuning",
}


def cost_section(material: Material) -> Section:
    """Hours by stage, computed here and saved by sharing."""
    own = [row for row in material.stages if not row["is_taken"]]
    if not own and not material.rows:
        return Section("cost", "What it took", [Paragraph("No trial has begun.")])
    blocks: list[Block] = [Paragraph(" ".join(_describe(material, own)))]
    if own:
        blocks.append(_stage_table(own))
        text = "Of a trial that was started again, the last attempt is counted. Hours are those of the worker that computed."
        blocks.append(Paragraph(text, "note"))
    return Section("cost", "What it took", blocks)


def _describe(material: Material, own: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    began = [row["started_at"] for row in material.rows if row["started_at"] is not None and row["reused_from"] is None]
    ended = [row["ended_at"] for row in material.rows if row["ended_at"] is not None and row["reused_from"] is None]
    ran = [row for row in material.rows if row["reused_from"] is None]
    if ran:
        seconds = math.fsum(row["seconds"] or 0.0 for row in ran)
        yield f"{len(ran)} trials took {duration(seconds)} of trial time, added up."
    if began and ended:
        yield f"The first began on {min(began):%Y-%m-%d at %H:%M}, the last ended on {max(ended):%Y-%m-%d at %H:%M} UTC."
    computed, saved = _sum(own, "seconds"), _sum(own, "saved_s")
    if computed + saved > 0 and own:
        yield (
            f"Stages took {duration(computed)}; reusing what others had computed saved {duration(saved)}, "
            f"{100 * saved / (computed + saved):.0f} % of what every trial by itself would have taken."
        )
    taken = Counter(row["reused_from"] for row in material.rows if row["reused_from"] is not None)
    if taken:
        sources = ", ".join(f"{count} from {sweep}" for sweep, count in sorted(taken.items()))
        yield f"{sum(taken.values())} trials were taken over from other sweeps ({sources}) and cost nothing here."
    floors = math.fsum(row["seconds"] or 0.0 for row in material.floors)
    if floors:
        yield f"The models without a transformer took {duration(floors)} of processor time."


def duration(seconds: float) -> str:
    """A time in the unit that people would take.

    >>> duration(42.4), duration(600), duration(9000)
    ('42 s', '10.0 min', '2.50 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.2f} h"


def _sum(rows: Sequence[Mapping[str, Any]], column: str) -> float:
    return math.fsum(row[column] or 0.0 for row in rows)


def _stage_table(own: Sequence[Mapping[str, Any]]) -> Table:
    devices = sorted({row["device"] for row in own})
    groups = defaultdict(list)
    for row in own:
        groups[row["stage"], row["device"]].append(row)

    def cells(head: Sequence[Cell], of_stage: Sequence[Mapping[str, Any]]) -> list[Cell]:
        hours, saved = _sum(of_stage, "seconds") / 3600, _sum(of_stage, "saved_s") / 3600
        share = Cell("", None) if hours + saved == 0 else Cell(f"{100 * saved / (hours + saved):.0f} %", saved / (hours + saved))
        computed, uses = (sum(row[key] for row in of_stage) for key in ("computed", "uses"))
        return [*head, count_cell(uses), count_cell(computed), _hours(hours), _hours(saved), share]

    rows = []
    for (stage, device), of_stage in sorted(groups.items(), key=lambda entry: (_place(entry[0][0]), entry[0])):
        rows.append(cells([text_cell(_STAGE_NAMES.get(stage, stage)), *([text_cell(device)] if len(devices) > 1 else [])], of_stage))
    rows.append(cells([text_cell("all stages"), *([text_cell("")] if len(devices) > 1 else [])], own))
    columns = ["stage", *(["device"] if len(devices) > 1 else []), "needed", "computed", "hours", "hours saved", "share saved"]
    return Table("hours", "Hours by stage; needed = by trials, computed = at least in part in this sweep", columns, rows)


def _place(stage: str) -> int:
    return _ORDER.index(stage) if stage in _ORDER else len(_ORDER)


def _hours(hours: float) -> Cell:
    return Cell(f"{hours:.3g}" if hours else "0", hours)


_MACHINE = {
    "device_name": "processor or GPU",
    "device": "device",
    "instance_type": "instance type",
    "cpu_capability": "instructions",
    "blas": "linear algebra",
    "threads": "threads",
}
_VERSIONS = {
    "code_version": "sweeper",
    "code_commit": "commit",
    "python_version": "Python",
    "torch_version": "torch",
    "cuda_version": "CUDA",
    "numpy_version": "numpy",
    "sklearn_version": "scikit-learn",
    "transformers_version": "transformers",
    "peft_version": "peft",
    "timm_version": "timm",
    "ray_version": "Ray",
}


def machines_section(material: Material) -> Section:
    """Which machines and which versions computed the trials, with the number of trials of each."""
    ran = [row for row in material.rows if row["host"] is not None or row["torch_version"] is not None]
    if not ran:
        return Section("machines", "Machines and versions", [Paragraph("The tables do not say what computed the trials.")])
    machines = _grouped("machines-used", "Machines that computed the trials", _MACHINE, ran, with_hosts=True)
    versions = _grouped("versions", "Versions of what computed the trials", _VERSIONS, ran)
    return Section("machines", "Machines and versions", [machines, versions])


def _grouped(name: str, caption: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]], with_hosts: bool = False) -> Table:
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[column] for column in columns)].append(row)
    kept = [number for number in range(len(columns)) if any(key[number] is not None for key in groups)]
    heads = list(columns.values())
    table = [
        [
            *(text_cell(key[number]) for number in kept),
            *([count_cell(len({row["host"] for row in of_key}))] if with_hosts else []),
            count_cell(len(of_key)),
        ]
        for key, of_key in sorted(groups.items(), key=lambda entry: (-len(entry[1]), str(entry[0])))
    ]
    return Table(name, caption, [*(heads[number] for number in kept), *(["hosts"] if with_hosts else []), "trials"], table)


def describe_machines(rows: Sequence[Mapping[str, Any]]) -> str:
    """The machines in words: `AMD EPYC (cpu), 12 trials`; empty if they are unknown."""
    kinds = Counter((row["device_name"], row["device"]) for row in rows if row["device_name"] is not None)
    counts = [f", {count} trials" if len(kinds) > 1 else "" for _, count in kinds.most_common()]
    return "; ".join(f"{name} ({device}){count}" for ((name, device), _), count in zip(kinds.most_common(), counts, strict=True))
