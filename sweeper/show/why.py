"""What `sweeper why` prints: what a number states, the SQL that yields it, and the trials, configs and machines behind it."""

from __future__ import annotations

import json
import shlex
import textwrap
from collections import Counter
from collections.abc import Mapping
from typing import Any

import yaml

from orca_core.config.paths import nest
from orca_core.errors import ConfigError, Fault
from sweeper.analysis.factors import KNOB_OF
from sweeper.analysis.number import FLOOR, Number
from sweeper.analysis.number_ids import find_number
from sweeper.analysis.numbers import numbers_of
from sweeper.results.store import results_option
from sweeper.results.workspace import Workspace
from sweeper.show.tables import check_format, render, terminal_width, text_table

MAX_TRIALS = 40
"""Maximum number of trials of which a table and the configs are printed; JSON has all."""

_MACHINE = ("device_name", "cpu_capability", "torch_version", "numpy_version", "python_version", "code_version", "code_commit")
"""Columns that say what computed a trial."""

_SHOWN = ("trial", "task", "seed", "valid_error", "test_error", "best_epoch", "seconds", "reused_from")
"""Columns of a trial that are always printed."""


def explain(workspace: Workspace, id: str, format: str = "text") -> str:
    """Explain the number of an id.

    Args:
        workspace: Where the results are.
        id: The id, or more digits of it.
        format: `text` or `json`.

    Raises:
        ConfigError: If no number of these results has the id, with what is known of it; or if several have.
    """
    if format not in ("text", "json"):
        raise ConfigError([Fault("--format", "must be text or json", format)])
    number = the_number(workspace, id)
    known = _read(workspace, number)
    if format == "json":
        return json.dumps(known, indent=1, default=str) + "\n"
    return _text(workspace, number, known)


def the_number(workspace: Workspace, id: str) -> Number:
    """The number of an id.

    Raises:
        ConfigError: As `explain`.
    """
    found = find_number(workspace.results, id)
    if len(found.numbers) == 1:
        return found.numbers[0]
    if found.numbers:
        which = "; ".join(f"{number.long_id}: {number.words}" for number in found.numbers)
        raise ConfigError([Fault("ID", "must say which of several numbers is meant", id, f"Give more digits. {which}")])
    if found.moved:
        now = " ".join(f"Now it is {format_value(number)}, with the id {number.id}." for number in found.moved)
        rule = "must be the id of a number as the results are now; the same is stated on other trials"
        raise ConfigError([Fault("ID", rule, id, f"{found.moved[0].words} {now}")])
    if found.near:
        meant = "; ".join(f"{number.id}: {number.words} {format_value(number)}" for number in found.near)
        raise ConfigError([Fault("ID", "must be the id of a number in these results", id, f"Did you mean {meant}?")])
    sweeps = workspace.results.sweeps()
    remedy = f"Sweeps here: {', '.join(sweeps)}. " if sweeps else ""
    remedy += f"`sweeper why --list NAME{results_option(workspace.uri)}` lists the ids of a sweep."
    raise ConfigError([Fault("ID", "must be the id of a number in these results", id, remedy)])


def list_numbers(workspace: Workspace, name: str, format: str = "table") -> str:
    """The numbers of a sweep with their ids.

    Raises:
        ConfigError: If the sweep or the format is unknown.
    """
    import pyarrow as pa

    check_format(format)
    numbers = numbers_of(workspace.results, name)
    if format == "table":
        rows = [[number.id, format_value(number), number.words] for number in numbers]
        return text_table(["id", "value", "what it states"], rows, terminal_width())
    return render(pa.Table.from_pylist([number.line() for number in numbers]), format)


def format_value(number: Number) -> str:
    """The value with its interval, as text."""
    if isinstance(number.value, str) or number.value is None:
        return str(number.value)
    interval = "" if number.low is None or number.high is None else f" [{number.low:.4g}, {number.high:.4g}]"
    return f"{number.value:.4g}{interval}"


def _read(workspace: Workspace, number: Number) -> dict[str, Any]:
    """All that is known of a number, as JSON data."""
    known = {
        "id": number.id,
        "kind": number.kind,
        "words": number.words,
        "statement": dict(number.statement),
        "value": number.value,
        "low": number.low,
        "high": number.high,
        "command": _command(workspace, number),
        "sql": number.sql,
        "sql_gives": "rows" if number.gives_rows else "value",
    }
    if number.kind == FLOOR:
        where = number.sql.partition("where ")[2]
        floors = workspace.sql(f"from floors where {where}").rows()
        return known | {"floors": floors}
    listed = ", ".join(f"'{trial}'" for trial in number.trials)
    sweep = str(number.sweep).replace("'", "''")
    rows = workspace.sql(f"from trials where sweep = '{sweep}' and trial in ({listed}) order by task, trial").rows() if listed else []
    position = {trial: place for place, trial in enumerate(number.trials)}
    rows.sort(key=lambda row: position[row["trial"]])
    knobs = {column: [row[column] for row in rows] for column in KNOB_OF}
    differing = [column for column, values in knobs.items() if any(value != values[0] for value in values)]
    common = {
        KNOB_OF[column]: values[0] for column, values in knobs.items() if column not in differing and values and values[0] is not None
    }
    differences = {row["trial"]: {KNOB_OF[column]: row[column] for column in differing if row[column] is not None} for row in rows}
    shown = dict.fromkeys([*_SHOWN, *([number.statement["metric"]] if "metric" in number.statement else ())])
    machines = Counter(tuple((column, row[column]) for column in _MACHINE if row[column] is not None) for row in rows)
    return known | {
        "trials": [{column: row[column] for column in (*shown, "result_key", *_MACHINE)} for row in rows],
        "configs": {"differences": {trial: nest(own) for trial, own in differences.items()}, "common": nest(common)},
        "machines": [dict(machine) | {"trials": count} for machine, count in machines.most_common()],
    }


def _command(workspace: Workspace, number: Number) -> str:
    return shlex.join(["sweeper", *number.command]) + results_option(workspace.uri) if number.command else ""


def _text(workspace: Workspace, number: Number, known: Mapping[str, Any]) -> str:
    parts = [_fill(f"{number.id}: {format_value(number)}") + _fill(number.words)]
    if known["command"]:
        parts[0] += f"Beside others: {known['command']}\n"
    gives = "It gives the rows that the value is computed from; SQL cannot compute it." if number.gives_rows else "It gives the value."
    parts.append(f"SQL, for `sweeper query`. {gives}\n\n{textwrap.indent(number.sql, '  ')}\n")
    if number.kind == FLOOR:
        rows = known["floors"]
        columns = [column for column in rows[0] if any(row[column] is not None for row in rows)]
        lines = [[column, *(row[column] for row in rows)] for column in columns]
        parts.append(text_table(["floor", *(f"split {place}" for place in range(1, len(rows) + 1))], lines, terminal_width()))
        return "\n".join(parts)
    trials = known["trials"]
    columns = [column for column in trials[0] if column not in ("result_key", *_MACHINE) and any(row[column] is not None for row in trials)]
    shown = trials[:MAX_TRIALS]
    table = text_table(columns, [[row[column] for column in columns] for row in shown], terminal_width())
    more = f"{len(trials) - len(shown)} more: `sweeper why {number.id} --format json` lists all.\n" if len(trials) > len(shown) else ""
    parts.append(f"{len(trials)} trial{'s' if len(trials) > 1 else ''}\n\n{textwrap.indent(table, '  ')}{more}")
    differences = {trial: own for trial, own in list(known["configs"]["differences"].items())[:MAX_TRIALS] if own}
    if differences:
        parts.append(f"Configs: in what they differ\n\n{textwrap.indent(_yaml(differences, None), '  ')}")
    parts.append(f"{'In common' if differences else 'Config'}\n\n{textwrap.indent(_yaml(known['configs']['common'], False), '  ')}")
    machines = []
    for machine in known["machines"]:
        what = ", ".join(f"{column.removesuffix('_version')} {value}" for column, value in machine.items() if column != "trials")
        machines.append(_fill(f"{machine['trials']} by {what}", "  "))
    parts.append("Computed\n\n" + textwrap.indent("".join(machines), "  "))
    return "\n".join(parts)


def _yaml(data: Mapping[str, Any], flow: bool | None) -> str:
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, default_flow_style=flow, width=10_000 if flow is None else 100)


def _fill(text: str, indent: str = "") -> str:
    return textwrap.fill(text, terminal_width(), subsequent_indent=indent, break_on_hyphens=False, break_long_words=False) + "\n"
