"""How the columns of a table become inputs of the model, as data: training applies it, and so does a model in use to new rows.

The reference lays a table out in one of two ways (`data_loaders.py:965`). A table of numbers alone is (n, F, 1): each of the F columns is
a channel of one point. With categories it is (n, m, F): each column is a point with m channels, where m is the largest number of
categories of any column; a category is one-hot, a number is in the first channel. Categories come before numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from orca_core.datafiles.expected import refuse
from orca_core.errors import Fault, nearest
from orca_core.tasks.entries import MAX_NUMBER, TEXT, Column, is_missing, parse_number

if TYPE_CHECKING:
    import numpy as np

MAX_BYTES = 4 << 30
"""Largest size of an encoded table, in bytes of float64."""

MAX_REPORTED = 10
"""Largest number of faulty entries to report."""

MAX_SHOWN = 60
"""Longest text of a row that is no mapping, in an error."""

MAX_DESCRIBED = 50
"""Maximum number of columns of one kind that a row of results names."""


@dataclass(frozen=True)
class ColumnEncoding:
    """How one input column is encoded.

    Args:
        name: In the file.
        form: How its entries are written: a key of `orca_core.tasks.entries.FORMS`, or `text` for categories.
        levels: Categories in the order of their channels; empty for numbers.
        mean, deviation: What numbers are standardised by: (number - mean) / deviation.
        unit: Of the numbers; empty if the file does not say.
    """

    name: str
    form: str
    levels: tuple[str, ...] = ()
    mean: float = 0.0
    deviation: float = 1.0
    unit: str = ""

    @property
    def is_text(self) -> bool:
        """Whether it holds categories."""
        return self.form == TEXT


@dataclass(frozen=True)
class TargetEncoding:
    """What the outputs of the model mean.

    Args:
        name: Of the target column.
        form: As for `ColumnEncoding`.
        classes: Names of the classes, in the order of the outputs; empty for a regression.
        mean, deviation: Of a regression: number = mean + deviation * output.
        unit: Of the numbers of a regression.
    """

    name: str
    form: str
    classes: tuple[str, ...] = ()
    mean: float = 0.0
    deviation: float = 1.0
    unit: str = ""

    def decode(self, outputs: np.ndarray) -> list[Any]:
        """The predicted classes, or numbers in the unit of the file.

        Args:
            outputs: (n, classes) logits, or (n, 1) numbers.
        """
        if self.classes:
            return [self.classes[number] for number in outputs.argmax(1).tolist()]
        numbers: list[Any] = (self.mean + self.deviation * outputs[:, 0].astype("float64")).tolist()
        return numbers


@dataclass(frozen=True)
class TableEncoding:
    """How the rows of a table are encoded.

    Args:
        columns: The input columns in the order of the model's input, categories first.
        target: The target column.
        left_out: Columns of the table that are not used, each with the reason.

    Example:
        >>> columns = (ColumnEncoding("colour", "text", ("blue", "red")), ColumnEncoding("size", "number", (), 5.0, 2.0))
        >>> encoding = TableEncoding(columns, TargetEncoding("label", "text", ("no", "yes")))
        >>> encoding.encode([{"colour": "red", "size": "9"}]).tolist()          # two channels, two points
        [[[0.0, 2.0], [1.0, 0.0]]]
    """

    columns: tuple[ColumnEncoding, ...]
    target: TargetEncoding
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def num_channels(self) -> int:
        """Entries of one column: the largest number of categories, 1 without categories."""
        return max((len(column.levels) for column in self.columns if column.is_text), default=1)

    def encode(self, rows: Any, source: str = "rows") -> np.ndarray:
        """Rows of the table as inputs of the model.

        Args:
            rows: A sequence of mappings from column names to entries (`csv.DictReader`); or the columns by name, as mapping, data frame or
                Arrow table, as `read_columns` reads them from a file. Entries are texts as in a file, or numbers and dates. Other columns
                are ignored.
            source: Where the rows come from, for errors.

        Returns:
            (n, F, 1) float32 of numbers alone, else (n, m, F).

        Raises:
            DataError: If a column is missing, or an entry is missing, not of its column's form, or a category that training did not have.
        """
        return self.arrange(self.design(rows, source))

    def design(self, rows: Any, source: str = "rows") -> np.ndarray:
        """(n, F, m) float64, before numbers are standardised. Raises as `encode`."""
        import numpy as np

        held = _columns_of(rows, [column.name for column in self.columns])
        refuse(
            Fault(column.name, "must be a column", Fault.ABSENT, nearest(column.name, held)).text(source)
            for column in self.columns
            if column.name not in held
        )
        num_rows = _count_rows({column.name: held[column.name] for column in self.columns}, source)
        if (size := 8 * num_rows * len(self.columns) * self.num_channels) > MAX_BYTES:
            rule = f"must take at most {MAX_BYTES / 2**30:.0f} GiB when encoded, as rows x columns x most categories"
            remedy = "Leave out the columns with the most categories."
            refuse([Fault("", rule, f"{size / 2**30:.1f} GiB", remedy).text(source)])
        x, wrong = np.zeros((num_rows, len(self.columns), self.num_channels)), list[str]()
        for at, column in enumerate(self.columns):
            values, faults = _encode_column(column, held[column.name])
            wrong += [fault.text(source) for fault in faults]
            refuse(wrong if len(wrong) >= MAX_REPORTED else ())
            if column.is_text:
                x[np.arange(num_rows)[values >= 0], at, values[values >= 0]] = 1
            else:
                x[:, at, 0] = values
        refuse(wrong)
        return x

    def arrange(self, x: np.ndarray) -> np.ndarray:
        """What `design` returns, standardised and laid out for the model."""
        import numpy as np

        numeric, mean, deviation = self._scale()
        x = x.copy()
        x[:, numeric, 0] = (x[:, numeric, 0] - mean) / deviation
        return np.ascontiguousarray(x if x.shape[2] == 1 else x.transpose(0, 2, 1), dtype=np.float32)

    def fit(self, x: np.ndarray, fitted: np.ndarray) -> TableEncoding:
        """The same encoding with each column of numbers at mean 0 and deviation 1 over some rows.

        Args:
            x: (n, F, m), from `design`.
            fitted: Numbers of the rows; a column that is constant there is only centred.
        """
        import numpy as np

        numeric, _, _ = self._scale()
        numbers = x[:, numeric, 0][fitted]
        deviation = numbers.std(0)
        means, deviations = numbers.mean(0).tolist(), np.where(deviation == 0, 1.0, deviation).tolist()
        columns = list(self.columns)
        for at, mean, own in zip(numeric, means, deviations, strict=True):
            columns[at] = replace(columns[at], mean=mean, deviation=own)
        return replace(self, columns=tuple(columns))

    def _scale(self) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Which columns are numbers, and their means and deviations."""
        import numpy as np

        numeric = [at for at, column in enumerate(self.columns) if not column.is_text]
        mean, deviation = ([getattr(self.columns[at], key) for at in numeric] for key in ("mean", "deviation"))
        return numeric, np.array(mean, dtype="float64"), np.array(deviation, dtype="float64")

    def to_json(self) -> dict[str, Any]:
        """The encoding as JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TableEncoding:
        """The encoding that `to_json` wrote, also after a way through JSON."""
        columns = tuple(ColumnEncoding(**column | {"levels": tuple(column["levels"])}) for column in data["columns"])
        target = TargetEncoding(**data["target"] | {"classes": tuple(data["target"]["classes"])})
        return cls(columns, target, tuple((name, reason) for name, reason in data["left_out"]))

    def describe(self) -> dict[str, Any]:
        """What is used, encoded and left out, in short: the column `task_columns` of results. Of more than `MAX_DESCRIBED` columns, the
        first, and under `more_numbers` and so on how many there are besides."""
        said: dict[str, Any] = {"target": self.target.name, "kind": "classes" if self.target.classes else "regression"}
        numbers = [column.name for column in self.columns if not column.is_text]
        forms = {column.name: column.form for column in self.columns if column.form not in (TEXT, "number")}
        categories = {column.name: len(column.levels) for column in self.columns if column.is_text}
        lists: dict[str, Any] = {"numbers": numbers, "forms": forms, "categories": categories, "left_out": dict(self.left_out)}
        for key, value in lists.items():
            if value:
                first = list(value)[:MAX_DESCRIBED]
                said[key] = first if isinstance(value, list) else {name: value[name] for name in first}
            if (more := len(value) - MAX_DESCRIBED) > 0:
                said[f"more_{key}"] = more
        return said


def encode_as(column: Column) -> ColumnEncoding:
    """How an input column without missing entries is encoded, before numbers are standardised."""
    if column.is_text:
        return ColumnEncoding(column.name, TEXT, tuple(sorted(set(column.values.tolist()))))
    return ColumnEncoding(column.name, column.form, unit=column.unit)


def split_complete(columns: Iterable[Column]) -> tuple[list[Column], tuple[tuple[str, str], ...]]:
    """Columns without missing entries, categories before numbers as in the reference; and the names of the others, with the reason."""
    used, left_out = list[Column](), list[tuple[str, str]]()
    for column in columns:
        if number := int(column.missing.sum()):
            left_out.append((column.name, f"{number} of {len(column.values)} entries {'is' if number == 1 else 'are'} missing"))
        else:
            used.append(column)
    return sorted(used, key=lambda column: not column.is_text), tuple(left_out)


def number_faults(column: Column, remedy: str = "") -> list[Fault]:
    """The fault of a column with numbers that are infinite or too large, if it has any."""
    import numpy as np

    if column.is_text or not (large := column.values[np.abs(column.values) > MAX_NUMBER]).size:
        return []
    return [Fault(column.name, f"must have finite numbers of at most {MAX_NUMBER:g} in size", float(large[0]), remedy)]


def _count_rows(columns: Mapping[str, Any], source: str) -> int:
    """How many entries each of the columns has.

    Raises:
        DataError: If one is not a sequence of entries, or has another number of them than the first.
    """
    held = {name: entries.values if isinstance(entries, Column) else entries for name, entries in columns.items()}
    rule = "must be a sequence of entries, one for each row"
    refuse(Fault(name, rule, type(entries).__name__).text(source) for name, entries in held.items() if not _is_sequence(entries))
    lengths = {name: len(entries) for name, entries in held.items()}
    first, number = next(iter(lengths.items()))
    rule = f"must have as many entries as {first}, {number}"
    refuse(Fault(name, rule, length).text(source) for name, length in lengths.items() if length != number)
    return number


def _is_sequence(entries: Any) -> bool:
    return hasattr(entries, "__len__") and not isinstance(entries, str | bytes | Mapping) and getattr(entries, "ndim", 1) == 1


def _columns_of(rows: Any, names: Sequence[str]) -> dict[str, Any]:
    """The entries of rows by column; of no rows, those of the given names."""
    if isinstance(rows, Mapping):
        return dict(rows)
    if hasattr(rows, "to_pydict"):  # a table of pyarrow
        return dict(rows.to_pydict())
    if hasattr(rows, "columns") and not isinstance(rows, Sequence):  # a data frame
        return {str(name): rows[name] for name in rows.columns}
    listed = list(rows)
    rule = f"must be a mapping from the column names {list(names)} to entries"
    wrong = [Fault(f"row {at}", rule, repr(row)[:MAX_SHOWN]) for at, row in enumerate(listed, start=1) if not isinstance(row, Mapping)]
    refuse(fault.text("rows") for fault in wrong[:MAX_REPORTED])
    found = dict.fromkeys(name for row in listed for name in row) if listed else names
    return {name: [row.get(name) for row in listed] for name in found}


def _encode_column(column: ColumnEncoding, entries: Any) -> tuple[np.ndarray, Iterable[Fault]]:
    """(n,) numbers, or the numbers of categories, -1 where there is a fault; and the faults."""
    import numpy as np

    if isinstance(entries, Column):
        if entries.form == column.form and not column.is_text:
            return entries.values, _row_faults(column, entries)
        entries = entries.values if entries.texts is None else entries.texts
    faults, number_of = [], {level: number for number, level in enumerate(column.levels)}
    values = np.full(len(entries), -1 if column.is_text else np.nan, dtype="int64" if column.is_text else "float64")
    for row, entry in enumerate(entries):
        where = f"row {row + 1}: {column.name}"
        if is_missing(entry, column.form):
            faults.append(Fault(where, "must not be missing", entry))
        elif column.is_text:
            text = _level_text(entry)
            if (number := number_of.get(text)) is None:
                known = ", ".join(column.levels[:MAX_REPORTED]) + (", ..." if len(column.levels) > MAX_REPORTED else "")
                faults.append(Fault(where, "must be a category of the training data", text, f"Known: {known}."))
            else:
                values[row] = number
        else:
            try:
                values[row] = parse_number(entry, column.form)
            except ValueError as error:
                faults.append(Fault(where, f"must be of its column's form: {error}", Fault.ABSENT))
            if abs(values[row]) > MAX_NUMBER:
                faults.append(Fault(where, f"must be a number of at most {MAX_NUMBER:g} in size", entry))
        if len(faults) >= MAX_REPORTED:
            break
    return values, faults


def _row_faults(column: ColumnEncoding, entries: Column) -> list[Fault]:
    """Faults of numbers that were read as such."""
    import numpy as np

    absent, large = np.isnan(entries.values), np.abs(entries.values) > MAX_NUMBER
    rows = np.flatnonzero(absent | large)[:MAX_REPORTED].tolist()
    return [
        Fault(f"row {row + 1}: {column.name}", "must not be missing", Fault.ABSENT)
        if absent[row]
        else Fault(f"row {row + 1}: {column.name}", f"must be a number of at most {MAX_NUMBER:g} in size", float(entries.values[row]))
        for row in rows
    ]


def _level_text(entry: Any) -> str:
    """An entry of a column of categories as text; whole numbers as Python writes them."""
    if isinstance(entry, str):
        return entry.strip()
    return f"{entry:.15g}" if isinstance(entry, float) else str(entry)
