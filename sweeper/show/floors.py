"""What `sweeper floors` prints: a line for each model as it is computed, then a table of all."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orca_core.config.resolve import resolve_config
from orca_core.errors import Fault, nearest
from orca_core.floors.rows import COMPLETE, FAIL, SIMPLE_FIRST, FloorCase, FloorRow
from orca_core.tasks import TASK_CATALOGUE
from sweeper.analysis.floors import Floors
from sweeper.analysis.numbers import floor_number
from sweeper.faults import Faults
from sweeper.results.workspace import Workspace
from sweeper.running.floors import cases_of, compute_missing, find_missing
from sweeper.show.tables import check_format, terminal_width, text_table, write_table
from sweeper.show.task_data import is_ready

KNOBS = ("split_seed", "train_samples", "valid_share", "validation.folds", "validation.fold", "reference_data")
"""The knobs that decide which samples train, validate and test, and by which score."""


def compute_and_show(
    names: Sequence[str], settings: Mapping[str, Any], malformed: Iterable[Fault], workspace: Workspace, format: str
) -> int:
    """Compute the floors of tasks that the results lack, and print those of all of them.

    Args:
        names: Tasks; none = all whose data is here.
        settings: Knobs, of `KNOBS`.
        malformed: Faults of options `--set` that are no settings; they are raised together with all others.
        workspace: Where the results are.
        format: Of the table.

    Returns:
        Exit code: 0, or 1 if a floor failed.

    Raises:
        ConfigError: If there is no such task or knob.
    """
    check_format(format)
    cases = _cases(names, settings, malformed)
    missing = find_missing(workspace.results, cases, retry_failed=True)
    compute_missing(workspace.results, missing, _tell)
    wanted = {case: number for number, case in enumerate(cases)}
    rows = [row for row in workspace.results.floors() if FloorCase.of_row(row) in wanted]
    rows.sort(key=lambda row: (wanted[FloorCase.of_row(row)], SIMPLE_FIRST.index(row["model"])))
    if format == "table":
        sys.stdout.write(_describe(cases, rows))
    else:
        import pyarrow as pa

        from sweeper.results.records import schema

        numbers = [floor_number(Floors(rows), [FloorCase.of_row(row)], row["model"]) for row in rows]
        ids = pa.array([None if number is None else number.id for number in numbers], pa.string())
        write_table(pa.Table.from_pylist(rows, schema=schema("floors")).append_column("number", ids), format)
    return 1 if any(row["status"] == FAIL for row in rows) else 0


def _cases(names: Sequence[str], settings: Mapping[str, Any], malformed: Iterable[Fault]) -> list[FloorCase]:
    faults = Faults()
    faults.extend(malformed)
    for knob in settings:
        if knob not in KNOBS:
            faults.add(f"--set {knob}", "must be a knob that decides the samples; floors depend on no other", remedy=nearest(knob, KNOBS))
    settings = {knob: value for knob, value in settings.items() if knob in KNOBS}
    entries = TASK_CATALOGUE.entries()
    if not names and (absent := sum(not is_ready(spec) for spec in entries.values())):
        sys.stderr.write(f"{absent} tasks are left out, as their data is not here; `sweeper tasks` lists them\n")
    configs = []
    for name in dict.fromkeys(names or (name for name, spec in entries.items() if is_ready(spec))):
        with faults.collecting("task"):
            configs.append(resolve_config({"task": name, **settings}))
    faults.raise_if_any()
    return cases_of(configs)


def _tell(row: FloorRow) -> None:
    what = f"{row.test_error:.3g}" if row.test_error is not None else row.status.lower().replace("_", " ")
    sys.stderr.write(f"{row.task}: {row.model} {what} ({row.seconds or 0:.1f} s)\n")


def _describe(cases: Sequence[FloorCase], rows: Sequence[Mapping[str, Any]]) -> str:
    """The floors as text: a table for each task, the best one named."""
    known, parts = Floors(rows), []
    for case in cases:
        of_case = [row for row in rows if FloorCase.of_row(row) == case]
        sizes = next((row for row in of_case if row["status"] == COMPLETE), None)
        title = f"{case.task}{case.settings().replace(' --set ', ', ')}, by {of_case[0]['score']}" if of_case else case.task
        if sizes is not None:
            chosen = {"test": " on the test part, as the task validates on it", "folds": " by cross-validation"}.get(sizes["selection"], "")
            title += f": settings chosen{chosen or ' on validation'}, {sizes['test_samples']} test samples"
        text = f"{title}\n"
        if sizes is not None:
            lines = [[*(row[column] for column in _SHOWN), _settings(row)] for row in of_case]
            text += text_table([*_SHOWN.values(), "settings"], lines, terminal_width())
        text += "".join(f"{textwrap.fill(reason, terminal_width(), break_on_hyphens=False)}\n" for reason in _reasons(of_case))
        if (best := known.best([case])) is not None:
            text += f"best by validation: {best.model}, test error {best.test_error:.3g}\n"
        parts.append(text)
    return "\n".join(parts)


_SHOWN = {name: name for name in ("model", "valid_error", "test_error")} | {"fitted_samples": "fitted", "seconds": "seconds"}
"""Columns that people are shown of each model -> their heads."""


def _settings(row: Mapping[str, Any]) -> str:
    """`width: 1.0, C: 10.0`."""
    return str(row["settings"] or "").strip("{}").replace('"', "") or "-"


def _reasons(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why models have no error; one reason for several is said once."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["status"] != COMPLETE:
            by_reason.setdefault((row["status"].lower().replace("_", " "), row["cause"]), []).append(row["model"])
    return [f"{', '.join(models)}: {status}: {cause}" for (status, cause), models in by_reason.items()]
