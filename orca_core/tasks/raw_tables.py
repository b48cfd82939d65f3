"""Rows of a table as files, data frames or mappings, and how they become rows of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from orca_core.datafiles.expected import refuse
from orca_core.errors import DataError, Fault
from orca_core.tasks.encoding import ColumnEncoding, TableEncoding
from orca_core.tasks.entries import Column
from orca_core.tasks.preparation import Answers, Preparation, RawInputs, Samples, Scale
from orca_core.tasks.tables import SUFFIXES, read_columns

if TYPE_CHECKING:
    import numpy as np

SHOWN = 6
"""Most columns and categories that `expected` names."""


class TableFile(NamedTuple):
    """The columns of a table by name, and the file they were read from."""

    columns: dict[str, Column]
    path: Path


@dataclass(frozen=True)
class TableInputs(RawInputs):
    """Rows of a table.

    Args:
        encoding: How its columns are encoded.
    """

    TYPE = "table"

    encoding: TableEncoding

    def to_json(self) -> dict[str, Any]:
        return {"type": self.TYPE, "encoding": self.encoding.to_json()}

    @property
    def expected(self) -> str:
        columns = self.encoding.columns
        shown = "; ".join(_describe(column) for column in columns[:SHOWN]) + ("; ..." if len(columns) > SHOWN else "")
        kinds = f"a file ({', '.join(SUFFIXES)}), a data frame, an Arrow table, a list of mappings or a mapping of columns"
        number = "1 column" if len(columns) == 1 else f"{len(columns)} columns, in any order"
        return f"rows with {number} ({shown}): {kinds}"

    def encode(self, samples: Any) -> np.ndarray:
        source = "rows"
        if isinstance(samples, TableFile):
            samples, source = samples.columns, str(samples.path)
        if isinstance(samples, Mapping) and samples and all(_is_entry(value) for value in samples.values()):
            samples = [samples]  # one row
        is_table = isinstance(samples, Mapping) or hasattr(samples, "columns")
        if not is_table and not (isinstance(samples, Sequence) and all(isinstance(row, Mapping) for row in samples)):
            rule = "must be rows with the names of their columns"
            raise DataError(Fault("rows", rule, type(samples).__name__, f"Expected {self.expected}.").text())
        encoded = self.encoding.encode(samples, source)
        if not len(encoded):
            raise DataError(Fault("", "must have at least one row", 0).text(source))
        return encoded

    def read(self, path: Path) -> Samples:
        if not path.is_file():
            refuse([Fault("", "must be an existing file", Fault.ABSENT, f"Expected {self.expected}.").text(str(path))])
        columns = read_columns(path)
        target = columns.get(self.encoding.target.name)
        if target is None or target.missing.any():
            return Samples(TableFile(columns, path))
        return Samples(TableFile(columns, path), (target.as_text() if self.encoding.target.form == "text" else target).values)


def read_table_inputs(encoding: Mapping[str, Any]) -> TableInputs:
    """What `TableInputs.to_json` returned, as an object again."""
    return TableInputs(TableEncoding.from_json(encoding))


def _is_entry(value: Any) -> bool:
    import numpy as np

    return not isinstance(value, Column) and np.ndim(value) == 0


def _describe(column: ColumnEncoding) -> str:
    if not column.is_text:
        return f"{column.name}, {column.form if column.form == 'number' else f'in the form {column.form}'}"
    return f"{column.name}, one of {', '.join(column.levels[:SHOWN])}{', ...' if len(column.levels) > SHOWN else ''}"


def prepared_by(encoding: TableEncoding) -> Preparation:
    """How rows of a table become inputs, and outputs classes or numbers of its target column."""
    import numpy as np

    target = encoding.target
    if target.classes:
        whole = target.form == "number" and all(name.lstrip("-").isdigit() for name in target.classes)
        return Preparation(TableInputs(encoding), Answers("classification", tuple(map(int, target.classes)) if whole else target.classes))
    scale = Scale(np.array([[target.mean]]), np.array([[target.deviation]]))
    return Preparation(TableInputs(encoding), Answers("regression", (target.name,), scale, scored_scaled=True, unit=target.unit))
