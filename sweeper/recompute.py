"""Computes trials again from the configs in the tables, in an empty store, and compares them with what the tables say."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import tempfile
import textwrap
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_core.config.knobs import TrialConfig
from orca_core.errors import ConfigError, Fault, OrcaError
from orca_core.floors.rows import FloorCase
from orca_core.numerics import check_pinned, is_pinned
from orca_core.rows import EpochRow
from orca_core.stages import result_key, stages_of
from sweeper.analysis.machines import COMPARED, select_compared
from sweeper.analysis.number import FLOOR, Number
from sweeper.analysis.recomputed import DIFFERS, EQUAL, NOT_CHECKED, TOLERANCE, WITHIN, beyond_tolerance, first_difference, tolerance
from sweeper.results.workspace import Workspace
from sweeper.running.configs_of_rows import config_of_row
from sweeper.running.job import TrialJob
from sweeper.show.tables import check_format, render, terminal_width, text_table
from sweeper.show.why import format_value, the_number

SAMPLE = 3
"""Number of trials that are computed again unless another one is asked for."""

_NOT_THE_TRIAL = ("data", "disk", "store", "import", "out-of-memory", "cuda", "other-data", "other-code")
"""Causes of failures that lie in this machine, not in the trial."""


_ELSEWHERE = "computed by another kind of machine"


@dataclass(frozen=True)
class Checked:
    """What came of one trial.

    Args:
        trial: Its id; of a floor the model.
        task: Its task.
        seed: Its seed; None for floors.
        verdict: `equal`, `within tolerance`, `differs` or `not checked`.
        detail: The first difference, or why it was not checked.
    """

    trial: str
    task: str
    seed: int | None
    verdict: str
    detail: str = ""


def check_results(workspace: Workspace, name: str | None, *, sample: int | None, number: str | None, format: str = "table") -> int:
    """Compute trials of a sweep again, and print what came of each.

    Args:
        workspace: Where the results are. Its stage store is neither read nor written.
        name: Name of the sweep; None = that of the number.
        sample: Number of trials; None = `SAMPLE`, or all trials behind a number.
        number: Id of a number: only the trials that it rests on.
        format: Of the table.

    Returns:
        Exit code: 0, or 1 if a trial differs, or none could be checked.

    Raises:
        ConfigError: If sweep or number are unknown. `UnpinnedError` if the trials need a process with portable bits.
    """
    check_format(format)
    found = None if number is None else the_number(workspace, number)
    if found is not None and name is not None and found.sweep not in (None, name):
        raise ConfigError([Fault("--number", f"must be a number of {name}", number, f"It is one of {found.sweep}.")])
    if found is not None and found.kind == FLOOR:
        return _report([_check_floor(workspace, found, case) for case in found.statement["cases"]], found, format)
    rows = _finished(workspace, str(name if found is None else found.sweep), None if found is None else found.trials)
    chosen = choose(rows, len(rows) if sample is None and found is not None else sample or SAMPLE)
    if any(row["bits"] == "portable" for row in chosen):
        with contextlib.suppress(ConfigError) if is_pinned() else contextlib.nullcontext():  # what else hinders is said of each trial
            check_pinned()
    seconds = sum((row["seconds"] or 0.0) + (row["saved_s"] or 0.0) for row in chosen)
    how = "" if len(chosen) == len(rows) else ", chosen by a hash of their ids, task by task"
    _tell(f"computing {len(chosen)} of {len(rows)} trials again{how}; they took {seconds:.0f} s when they were computed")
    checked = []
    with tempfile.TemporaryDirectory(prefix="sweeper-check-") as store:
        for place, row in enumerate(chosen, 1):
            _tell(f"{place} of {len(chosen)}: trial {row['trial']} of {row['task']}, seed {row['seed']}")
            checked.append(check_trial(workspace, row, Path(store), _tell))
            _tell(f"  {checked[-1].verdict}{f': {checked[-1].detail}' if checked[-1].detail else ''}")
    return _report(checked, found, format)


def _finished(workspace: Workspace, name: str, trials: Sequence[str] | None) -> list[dict[str, Any]]:
    """The finished trials of a sweep, or those among some."""
    workspace.results.check_sweep(name)
    quoted = name.replace("'", "''")
    rows = workspace.sql(f"from trials where sweep = '{quoted}' order by trial").rows()
    if trials is not None:
        rows = [row for row in rows if row["trial"] in set(trials)]
    if not rows:
        raise ConfigError([Fault("", f"{name} has no finished trials", Fault.ABSENT, f"See `sweeper status {name}`.")])
    return rows


def choose(rows: Sequence[Mapping[str, Any]], sample: int) -> list[Mapping[str, Any]]:
    """A sample of trials that depends on their ids alone: one task after another, in each by a hash of the id."""
    by_task: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: hashlib.sha256(row["trial"].encode()).digest()):
        by_task[row["task"]].append(row)
    turns = [(place, task, row) for task, of_task in by_task.items() for place, row in enumerate(of_task)]
    return [row for _, _, row in sorted(turns, key=lambda turn: turn[:2])[:sample]]


def check_trial(workspace: Workspace, row: Mapping[str, Any], store: Path, tell: Callable[[str], None]) -> Checked:
    """Compute one trial again and compare it.

    Args:
        workspace: Where the results are.
        row: Its row in `trials`.
        store: Folder of the stage store to compute it in.
        tell: Is told of progress.
    """

    def checked(verdict: str, detail: str = "") -> Checked:
        return Checked(row["trial"], row["task"], row["seed"], verdict, detail)

    try:
        config = config_of_row(row)
        if reason := _hindrance(row, config):
            return checked(NOT_CHECKED, reason)
        if config.bits == "portable":
            check_pinned(row["device"] or "cpu")
    except OrcaError as error:
        return checked(NOT_CHECKED, " ".join(str(error).split()))
    epochs, result = _compute(config, row["device"] or "cpu", store, tell)
    if result["status"] != "COMPLETE":
        verdict = NOT_CHECKED if result["cause"] in _NOT_THE_TRIAL else DIFFERS
        return checked(verdict, f"it fails here ({result['cause']}): {result['error']}")
    where = f"where sweep = '{row['sweep'].replace(chr(39), 2 * chr(39))}' and trial = '{row['trial']}'"
    recorded = workspace.sql(f"from metrics {where}").rows()
    difference = first_difference((recorded, row), (epochs, result))
    if difference is None:
        return checked(EQUAL)
    if not (other := _other_kind(row)):
        return checked(DIFFERS, str(difference))
    beyond = beyond_tolerance(row, result)
    return checked(WITHIN if beyond is None else DIFFERS, f"{beyond or difference}; {_ELSEWHERE}: {other}")


def _hindrance(row: Mapping[str, Any], config: TrialConfig) -> str:
    """Why a trial cannot be computed again here; empty if it can."""
    device = row["device"] or "cpu"
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            return "it was computed on a GPU, and there is none here"
    key = result_key(config, stages_of(config, device))
    if row["result_key"] and key != row["result_key"]:
        return "its data, its body or the definition of one of its stages have changed since, so it would be another computation"
    return ""


def _compute(config: TrialConfig, device: str, store: Path, tell: Callable[[str], None]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of its epochs, and how it ended."""
    from sweeper.running.execution import execute  # loads torch

    rows, stage = execute(TrialJob(config, str(store), device)), ""
    epochs: list[dict[str, Any]] = []
    while True:
        try:
            row = next(rows)
        except StopIteration as stop:
            return epochs, stop.value
        if isinstance(row, EpochRow):
            epochs.append(row.cells())
            if row.stage != stage:
                stage = row.stage
                tell(f"  {stage}{' as computed for the trial before' if row.is_reused else ''}")


def _other_kind(row: Mapping[str, Any]) -> str:
    """In what the machine that computed a trial, or a part of it, differs from this one; empty if their bits must be equal."""
    from orca_core.numerics import numerical_kind

    here = numerical_kind(row["device"] or "cpu").cells() | {"bits": row["bits"]}
    if row["cpu_capability"] is None:
        return "the row does not say which"
    differing = [
        f"{column} {one} there, {other} here"
        for column, one, other in zip(COMPARED, select_compared(row), select_compared(here), strict=True)
        if one != other
    ]
    if row["mixed_numerics"]:
        differing.append("part of it was taken over from another machine (mixed_numerics)")
    return ", ".join(differing)


def _check_floor(workspace: Workspace, number: Number, settings: Mapping[str, Any]) -> Checked:
    """Compute a model without a transformer again."""
    from orca_core.floors.compute import compute_floors

    model, metric = number.statement["model"], number.statement["metric"]
    case = FloorCase.of_row({"task": number.statement["task"], **settings})
    _tell(f"computing {model} on {case.task}{case.settings()} again")
    row = next(row for row in workspace.results.floors() if row["model"] == model and FloorCase.of_row(row) == case)
    now = next(iter(compute_floors(case, [model])))
    value = getattr(now, metric)
    if value is None:
        return Checked(model, case.task, None, NOT_CHECKED, str(now.cause))
    if now.task_digest != row["task_digest"] or now.version != row["version"]:
        return Checked(model, case.task, None, NOT_CHECKED, "the task's data or the model's definition have changed since")
    if value == row[metric]:
        return Checked(model, case.task, None, EQUAL)
    samples = row["test_samples" if metric == "test_error" else "valid_samples"]
    is_near = abs(value - row[metric]) <= tolerance((value + row[metric]) / 2, samples, row["score"])
    detail = f"{metric}: {row[metric]!r} recorded, {value!r} now; rows of floors do not say which processor computed them"
    return Checked(model, case.task, None, WITHIN if is_near else DIFFERS, detail)


def _report(checked: Sequence[Checked], number: Number | None, format: str) -> int:
    """Print what came of all trials; returns the exit code."""
    import pyarrow as pa

    counts = {verdict: sum(one.verdict == verdict for one in checked) for verdict in (EQUAL, WITHIN, DIFFERS, NOT_CHECKED)}
    if format != "table":
        sys.stdout.write(render(pa.Table.from_pylist([vars(one) for one in checked]), format))
    else:
        rows = [[one.trial, one.task, "-" if one.seed is None else one.seed, one.verdict, one.detail or "-"] for one in checked]
        sys.stdout.write(text_table(["trial", "task", "seed", "verdict", "detail"], rows, terminal_width()))
        sys.stdout.write(", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count) + "\n")
        if any(_ELSEWHERE in one.detail for one in checked):
            sys.stdout.write(_fill(f"Between kinds of machine, {TOLERANCE}."))
        if number is not None and counts[EQUAL] == len(checked) and (number.kind == FLOOR or len(checked) == len(number.trials)):
            sys.stdout.write(_fill(f"All that {number.id} rests on is the same again, so it is {format_value(number)} again."))
        if counts[NOT_CHECKED] == len(checked):
            sys.stdout.write("None could be checked.\n")
    return 1 if counts[DIFFERS] or counts[NOT_CHECKED] == len(checked) else 0


def _fill(text: str) -> str:
    return textwrap.fill(text, terminal_width(), break_on_hyphens=False, break_long_words=False) + "\n"


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
