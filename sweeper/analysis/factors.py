"""The factor of a comparison: the knob whose levels are compared, and how its levels are written.

A knob is named by its path or its column (`align.epochs`, `align_epochs`). Beside knobs there are two kinds of factor: a section, whose
columns are taken together (`body`), and `variant`, the named variants of a sweep.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orca_core.config.paths import KNOBS, SECTIONS
from orca_core.errors import ConfigError, Fault, nearest
from sweeper.space.yaml_reader import parse_value

Row = Mapping[str, Any]

KNOB_OF = {path.replace(".", "_"): path for path in KNOBS}
"""Column -> knob."""

VARIANT = "variant"
"""The factor whose levels are the named variants."""

NULL = "none"
"""How the level at which a knob is not read is written on the command line."""


@dataclass(frozen=True)
class Factor:
    """What a comparison varies.

    Args:
        name: The knob as a dotted path, a section of knobs, or `variant`.
        columns: Its columns. A level is the value of the only column, or a tuple of the values of several.
    """

    name: str
    columns: tuple[str, ...]

    def levels_of(self, row: Row) -> tuple[Any, ...]:
        """The levels that a trial belongs to: one, or several for a trial that several variants share."""
        if self.name == VARIANT:
            return tuple(row[VARIANT].split(",")) if row.get(VARIANT) else ()
        values = tuple(cell(row, column) for column in self.columns)
        return values if len(values) == 1 else (values,)

    def spell(self, level: Any) -> str:
        """A level as text."""
        if len(self.columns) == 1:
            return spell_value(level)
        named = zip(self.columns, level, strict=True)
        return ", ".join(f"{KNOB_OF[column].removeprefix(f'{self.name}.')} {spell_value(value)}" for column, value in named)

    def write(self, level: Any) -> str:
        """A level as it may be given on the command line; of a section a mapping in YAML."""
        if len(self.columns) == 1:
            return spell_value(level)
        return "{" + ", ".join(f"{knob}: {spell_value(value)}" for knob, value in self.to_data(level).items()) + "}"

    def to_data(self, level: Any) -> Any:
        """A level as JSON data; of a section a mapping."""
        if len(self.columns) == 1:
            return list(level) if isinstance(level, tuple) else level
        return {KNOB_OF[column].removeprefix(f"{self.name}."): value for column, value in zip(self.columns, level, strict=True)}


def cell(row: Row, column: str) -> Any:
    """A cell as a hashable value; None if the row lacks the column."""
    value = row.get(column)
    return tuple(value) if isinstance(value, list) else value


def spell_value(value: Any) -> str:
    """A value of a knob as it is written in YAML; `none` for null."""
    if value is None:
        return NULL
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(spell_value, value))}]"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def varying_columns(rows: Sequence[Row], columns: Collection[str]) -> list[str]:
    """Those of some columns that have more than one value on the same task."""
    by_task: dict[Any, list[Row]] = {}
    for row in rows:
        by_task.setdefault(row.get("task"), []).append(row)
    return [column for column in columns if any(_varies(of_task, column) for of_task in by_task.values())]


def _varies(rows: Sequence[Row], column: str) -> bool:
    first = rows[0].get(column)  # most columns do not vary: all rows are looked at
    differing = [row for row in rows if row.get(column) != first]
    return any(cell(row, column) != cell(rows[0], column) for row in differing)


def find_factor(name: str, rows: Sequence[Row], option: str = "--factor") -> Factor:
    """The factor of a name.

    Args:
        name: A knob, its column, a section, or `variant`.
        rows: Rows of trials.
        option: What gave the name, for the message.

    Raises:
        ConfigError: If the rows do not vary it on any task.
    """
    path = KNOB_OF.get(name, name)
    varying = varying_columns(rows, [*KNOB_OF, VARIANT])
    if path in SECTIONS:
        columns = [column for column in varying if KNOB_OF.get(column, "").startswith(f"{path}.")]
    else:
        columns = [column for column in varying if KNOB_OF.get(column, column) == path]
    if columns and path not in ("task", "seed"):
        return Factor(path, tuple(columns))
    known = [KNOB_OF.get(column, column) for column in varying if column not in ("task", "seed")]
    is_knob = path in KNOBS or path in SECTIONS or path == VARIANT
    rule = "must be a knob that differs between trials of a task" if is_knob else "must be a knob, a section of knobs or `variant`"
    remedy = nearest(path, known) if known else "No knob differs here."
    if not (known or is_knob):
        remedy = f"{nearest(path, [*KNOBS, *SECTIONS, VARIANT])} {remedy}"
    raise ConfigError([Fault(option, rule, name, remedy)])


def list_levels(factor: Factor, rows: Iterable[Row]) -> list[Any]:
    """The levels of a factor that occur, in order: null first, numbers by size, texts by name."""
    return sorted({level for row in rows for level in factor.levels_of(row)}, key=order_of)


def order_of(level: Any) -> tuple[Any, ...]:
    """Sorts levels: null first, numbers by size, texts by name, levels of several columns last."""
    if isinstance(level, tuple):
        return (3, tuple(map(order_of, level)))
    if level is None:
        return (0,)
    return (1, float(level)) if isinstance(level, int | float) else (2, str(level))


def find_level(factor: Factor, levels: Sequence[Any], given: Any, option: str = "--baseline") -> Any:
    """The level that a value or text stands for: `0`, `1e-4`, `none`, `full`; of a section `mini-swin` or `{name: ..., weights: ...}`.

    Args:
        factor: The factor.
        levels: Its levels.
        given: A level itself, or as text.
        option: What gave it, for the message.

    Raises:
        ConfigError: If there is no such level, or more than one.
    """
    found = [level for level in levels if _is_same(level, given)]
    if not found and isinstance(given, str):
        value = None if given in (NULL, "null") else parse_value(given)
        found = [level for level in levels if _is_same(level, value)] or [level for level in levels if factor.spell(level) == given]
    if not found and len(factor.columns) > 1:
        value = parse_value(given) if isinstance(given, str) else given
        found = [level for level in levels if _fits(factor.to_data(level), value)]
    if len(found) == 1:
        return found[0]
    rule = f"must be a level of {factor.name}" if not found else f"must be one level of {factor.name}, but fits {len(found)}"
    raise ConfigError([Fault(option, rule, given, nearest(spell_value(given), map(factor.write, levels)))])


def _fits(level: Mapping[str, Any], given: Any) -> bool:
    """Whether a level of a section is meant by a mapping of some of its knobs, or by the value of one."""
    if isinstance(given, Mapping):
        return all(knob in level and _is_same(level[knob], value) for knob, value in given.items())
    return any(_is_same(value, given) for value in level.values())


def _is_same(level: Any, given: Any) -> bool:
    given = tuple(given) if isinstance(given, list) else given
    return isinstance(level, bool) == isinstance(given, bool) and bool(level == given)
