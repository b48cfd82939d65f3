"""What `sweeper status` shows: planned trials by status, which process runs a sweep, what keeps it from going on, and the arms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orca_core.errors import ConfigError
from sweeper.analysis.candidates import Arm, read_arms
from sweeper.results.notes import no_results
from sweeper.results.store import ResultStore
from sweeper.results.views import shown_status
from sweeper.results.workspace import Workspace
from sweeper.running.driver import driver_of
from sweeper.show.tables import format_settings, terminal_width, text_table

if TYPE_CHECKING:
    import pyarrow as pa


def sweep_status(workspace: Workspace, name: str | None) -> pa.Table:
    """One line per sweep: planned trials by status, and which process runs the sweep.

    Raises:
        ConfigError: If the sweep is unknown, or there is none at all.
    """
    return lines_as_table(_status_lines(workspace, name)[0])


def arms_status(workspace: Workspace, name: str | None) -> pa.Table:
    """One line per arm: candidates by state, and the seconds of its trials.

    Raises:
        ConfigError: As `sweep_status`.
    """
    lines = []
    for sweep in _sweeps(workspace, name):
        known = read_arms(workspace.results, sweep)
        for arm in known.arms:
            lines.append({"sweep": sweep, "task": arm.task, "arm": arm.id, "variant": arm.variant} | arm.fixed(known.varied) | arm.counts())
    return lines_as_table(lines)


def describe_status(workspace: Workspace, name: str | None) -> str:
    """The status of sweeps as text; of a single sweep with its arms.

    Raises:
        ConfigError: As `sweep_status`.
    """
    lines, told = _status_lines(workspace, name)
    rare = {column for column in ("pruned", "paused", "interrupted") if not any(line[column] for line in lines)}  # room for long names
    columns = [column for column in lines[0] if column not in {"driver", *rare}]
    text = text_table(columns, ([line[column] for column in columns] for line in lines), terminal_width(), wrapped=0)
    text += "".join(f"{line['sweep']} is run by {line['driver']}.\n" for line in lines if line["driver"] != "none")
    text += "".join(f"{line['sweep']}: {reason}\n" for line, reasons in zip(lines, told, strict=True) for reason in reasons)
    if name is not None:
        known = read_arms(workspace.results, name)
        settings = describe_settings([arm.fixed(known.varied) for arm in known.arms], known.varied)
        rows = []
        for arm, settings_text in zip(known.arms, settings, strict=True):
            rows.append([f"{arm.task}: {name_arm(arm, settings_text)}", *arm.counts().values()])
        head = ["arm", "candidates", "completed", "pruned", "failed", "seconds"]
        text += "\n" + text_table(head, rows, terminal_width(), wrapped=0)
    return text


def describe_settings(cells: Sequence[Mapping[str, Any]], knobs: Iterable[str]) -> list[str]:
    """The settings of several arms as text, without knobs that nothing reads."""
    columns = {knob: format_settings([of_arm.get(knob) for of_arm in cells]) for knob in knobs}
    return [
        ", ".join(f"{knob} {texts[i]}" for knob, texts in columns.items() if of_arm.get(knob) is not None) for i, of_arm in enumerate(cells)
    ]


def name_arm(arm: Arm, settings: str) -> str:
    """The name of an arm's variant, and its settings."""
    return ": ".join(part for part in (arm.variant, settings) if part) or "the only arm"


def _sweeps(workspace: Workspace, name: str | None) -> list[str]:
    """The sweep of a name, or all sweeps."""
    if name is not None:
        workspace.results.check_sweep(name)
        return [name]
    sweeps = workspace.results.sweeps()
    if not sweeps:
        raise ConfigError([no_results(workspace.uri)])
    return sweeps


def _status_lines(workspace: Workspace, name: str | None) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """A line for each sweep, and for each what keeps it from going on now, as its driver says."""
    results, lines, told = workspace.results, [], []
    for sweep in _sweeps(workspace, name):
        rows = [row for row in results.live_trials(sweep, ["status", "cause", "in_plan"]) if row["in_plan"]]
        shown = [shown_status(row) for row in rows]
        counts = {status: shown.count(status) for status in ("COMPLETE", "PRUNED", "FAIL")}
        driver, begun, interrupted = driver_of(results, sweep), shown.count("RUNNING"), shown.count("INTERRUPTED")
        paused = min(driver.facts.get("paused", 0), begun) if driver else 0  # rows say RUNNING; only the driver knows
        planned = _count_planned(results, sweep)
        pending = None if planned is None else max(0, planned - len(rows))
        if driver and pending is not None:  # the driver starts again what was cut short, in an earlier run or with its machine
            pending, interrupted = pending + interrupted, 0
        told.append(describe_reasons(driver.facts) if driver else [])
        lines.append(
            {"sweep": sweep, "planned": planned, "pending": pending}
            | {status.lower(): count for status, count in counts.items()}
            | {"running": begun - paused if driver else 0, "paused": paused}
            | {"interrupted": interrupted + (0 if driver else begun), "driver": str(driver) if driver else "none"}
        )
    return lines, told


def describe_reasons(facts: Mapping[str, Any]) -> list[str]:
    """The reasons among the facts of a driver, which may be of another version."""
    reasons = facts.get("reasons")
    given = [reason for reason in reasons if isinstance(reason, dict)] if isinstance(reasons, list) else []
    return [f"{reason.get('text', '')} {reason.get('remedy', '')} (for {reason.get('for_s', 0)} s)" for reason in given]


def _count_planned(results: ResultStore, sweep: str) -> int | None:
    plan = results.latest_plan(sweep)
    return len(plan["trials"]) + plan["proposed_later"] if plan else None


def lines_as_table(lines: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Lines as a table with the columns of all of them."""
    import pyarrow as pa

    columns = list(dict.fromkeys(column for line in lines for column in line))
    return pa.Table.from_pylist([{column: line.get(column) for column in columns} for line in lines])
