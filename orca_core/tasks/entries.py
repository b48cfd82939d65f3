"""What the entries of a table mean: the forms in which numbers are written, and the spellings of a missing entry."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

MISSING = frozenset(("", "?"))
"""Texts that stand for a missing entry in any column."""

MISSING_NUMBERS = frozenset(
    ("na", "n/a", "n.a.", "#na", "#n/a", "#n/a n/a", "<na>", "nan", "+nan", "-nan", "null", "none", "nil", "nat", "missing", "-", "--", ".")
)
"""Texts, in any case, that stand for a missing entry among numbers and dates. Among texts they may be categories."""

TEXT = "text"
"""The form of a column of categories."""

MAX_NUMBER = 1e150
"""Largest number that is read: the squares of larger ones overflow when a column is standardised."""


class NumberForm(NamedTuple):
    """One way of writing numbers.

    Args:
        pattern: Regular expression of a whole entry.
        convert: A matching entry as a number.
        unit: Of the number.
        example: For messages.
    """

    pattern: str
    convert: Callable[[str], float]
    unit: str
    example: str


def _replace(old: str, new: str, text: str) -> float:
    return float(text.replace(old, new))


def _to_days(text: str) -> float:
    moment = datetime.fromisoformat(text.replace("/", "-"))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() / 86400


_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_TIME = r"[T ][0-2]\d:[0-5]\d(?::[0-5]\d(?:\.\d{1,6})?)?(?:Z|[+-]\d\d:?\d\d)?"
_DAY = r"\d{4}([-/])(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])"

FORMS: Mapping[str, NumberForm] = {
    "number": NumberForm(rf"{_NUMBER}|[+-]?inf(?:inity)?", float, "", "1234.5"),
    "percent": NumberForm(rf"{_NUMBER}\s*%", lambda text: float(text.rstrip("% \t")), "%", "5%"),
    "thousands": NumberForm(rf"[+-]?\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?|{_NUMBER}", partial(_replace, ",", ""), "", "1,234.5"),
    "decimal comma": NumberForm(r"[+-]?\d+(?:,\d+)?(?:[eE][+-]?\d+)?", partial(_replace, ",", "."), "", "1234,5"),
    "date": NumberForm(rf"{_DAY}(?:{_TIME})?", _to_days, "days since 1970-01-01", "2024-01-31"),
}
"""The forms of a column of numbers, in the order in which they are tried. All entries of a column have one form."""

_WHOLE = re.compile(r"[+-]?\d+")
_LIKE_A_NUMBER = re.compile(r"\W{0,2}\d[\d.,' ]*(?:[eE][+-]?\d+)?\s*\W?\w{0,3}")
_LIKE_A_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(?:[T ].*)?")


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        name: In the file.
        values: (n,) float64, NaN where missing; or (n,) texts, None where missing.
        whole: Whether all numbers are whole and written so.
        form: Key of `FORMS`, or `TEXT`.
        texts: (n,) the entries as they are written, None where missing; None if the file holds numbers.
        doubt: Why it may not be a column of categories although it holds texts; empty if nothing speaks against it.
    """

    name: str
    values: np.ndarray
    whole: bool = False
    form: str = "number"
    texts: np.ndarray | None = None
    doubt: str = ""

    @property
    def is_text(self) -> bool:
        """Whether it holds categories."""
        return self.values.dtype.kind == "O"

    @property
    def unit(self) -> str:
        """Unit of its numbers; empty if the file does not say."""
        return "" if self.is_text else FORMS[self.form].unit

    @property
    def missing(self) -> np.ndarray:
        """(n,) where entries are missing."""
        import numpy as np

        return np.array([value is None for value in self.values], dtype=bool) if self.is_text else np.isnan(self.values)

    def as_text(self) -> Column:
        """The same entries as categories."""
        if self.is_text:
            return Column(self.name, self.values, form=TEXT, texts=self.texts)
        values = self.texts
        if values is None:
            values = object_array(None if math.isnan(value) else f"{value:.15g}" for value in self.values.tolist())
        return Column(self.name, values, form=TEXT, texts=self.texts)

    def take(self, rows: np.ndarray) -> Column:
        """Some rows of the column, by number or mask."""
        texts = None if self.texts is None else self.texts[rows]
        return Column(self.name, self.values[rows], self.whole, self.form, texts, self.doubt)


def object_array(values: Iterable[Any]) -> np.ndarray:
    """(n,) Python objects."""
    import numpy as np

    listed = list(values)
    array = np.empty(len(listed), dtype=object)
    array[:] = listed
    return array


def interpret(name: str, entries: Sequence[str], *, text: bool = False, commas: bool = False) -> Column:
    """The column that some texts make: of numbers if all of them, without missing ones, have one of `FORMS`; else of categories.

    Args:
        name: Of the column.
        entries: As written, without spaces around them.
        text: Whether the file declares texts.
        commas: Whether a comma between digits may be a decimal comma, as where entries are separated by semicolons.
    """
    import numpy as np

    texts = object_array(None if entry in MISSING else entry for entry in entries)
    if text:
        return Column(name, texts, form=TEXT, texts=texts)
    if (plain := _plain_numbers(texts.tolist())) is not None:
        return Column(name, plain, all(entry is None or _WHOLE.fullmatch(entry) for entry in texts), "number", texts)
    distinct = Counter(entry for entry in texts.tolist() if entry is not None)
    known = {entry for entry in distinct if entry.casefold() not in MISSING_NUMBERS}
    forms = [form for form in FORMS if all(re.fullmatch(FORMS[form].pattern, entry) for entry in known)]
    if commas and "thousands" in forms and forms[0] != "number":
        if "decimal comma" not in forms:
            forms = ["thousands"]
        elif all("," in entry for entry in known):
            doubt = f"its commas may separate thousands or decimals, as in {min(known)!r}"
            return Column(name, texts, form=TEXT, texts=texts, doubt=doubt)
        else:
            forms = ["decimal comma"]
    for form in forms:
        try:
            number_of = {entry: parse_number(entry, form) for entry in distinct}
        except ValueError:  # 31 February
            continue
        numbers = np.array([math.nan if entry is None else number_of[entry] for entry in texts.tolist()])
        whole = form == "number" and all(map(_WHOLE.fullmatch, known))
        return Column(name, numbers, whole, form, texts)
    return Column(name, texts, form=TEXT, texts=texts, doubt=_doubt_of(distinct, known))


def _plain_numbers(entries: Sequence[str | None]) -> np.ndarray | None:
    """(n,) numbers, if all entries are plain numbers or missing: the common case, without regular expressions."""
    import numpy as np

    try:
        numbers = [math.nan if entry is None else float(entry) for entry in entries]
    except ValueError:
        return None
    return None if any(entry is not None and "_" in entry for entry in entries) else np.array(numbers)


def parse_number(entry: Any, form: str) -> float:
    """One entry as a number; NaN if it is missing. Numbers and dates of Python and numpy are taken as they are.

    Raises:
        ValueError: If it is not of the form.
    """
    if is_missing(entry, form):
        return math.nan
    if isinstance(entry, str):
        text = entry.strip()
        if re.fullmatch(FORMS[form].pattern, text):
            return FORMS[form].convert(text)
    elif form == "date" and (moment := getattr(entry, "isoformat", None)):  # of datetime, pandas
        return _to_days(moment()) if isinstance(entry, date) else _refuse_entry(entry, form)
    elif form == "date" and type(entry).__name__ == "datetime64":
        return float(entry.astype("datetime64[us]").astype("int64")) / 86400e6
    elif form != "date" and not isinstance(entry, bool) and hasattr(entry, "__float__"):
        return float(entry)
    return _refuse_entry(entry, form)


def _refuse_entry(entry: Any, form: str) -> float:
    raise ValueError(f"{entry!r} is not a {'date' if form == 'date' else 'number'} like {FORMS[form].example}")


def is_missing(entry: Any, form: str) -> bool:
    """Whether an entry stands for a missing one in a column of that form."""
    if isinstance(entry, str):
        text = entry.strip()
        return text in MISSING or (form != TEXT and text.casefold() in MISSING_NUMBERS)
    return entry is None or entry != entry or type(entry).__name__ in ("NAType", "NaTType")


def missing_like(column: Column) -> dict[str, int]:
    """How often a column of categories has texts that often stand for a missing entry: `{"NA": 3}`."""
    if not column.is_text:
        return {}
    found = Counter(value for value in column.values.tolist() if value is not None)
    return {text: number for text, number in sorted(found.items()) if text.casefold() in MISSING_NUMBERS - {"-", "--", "."}}


def _doubt_of(distinct: Mapping[str, int], known: Iterable[str]) -> str:
    """Why a column of texts is probably one of numbers or dates, empty if it is not."""
    numbers = {entry for entry in known if _LIKE_A_NUMBER.fullmatch(entry) and not _LIKE_A_DATE.fullmatch(entry)}
    dates = {entry for entry in known if _LIKE_A_DATE.fullmatch(entry)}
    total = sum(distinct[entry] for entry in known)
    others = sorted(set(known) - dates)
    if total and 2 * sum(distinct[entry] for entry in dates) > total:
        other = f", but there is {others[0]!r}" if others else ""
        return f"most of its entries look like dates, such as {min(dates)!r}{other}; dates are read in one form, 2024-01-31"
    plain = {entry for entry in numbers if re.fullmatch(FORMS["number"].pattern, entry)}
    if total and 2 * sum(distinct[entry] for entry in numbers) > total:
        others = sorted(set(known) - (plain or numbers)) or sorted(numbers)
        return f"most of its entries look like numbers, but there is {others[0]!r}"
    return ""
