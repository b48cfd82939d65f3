"""`csv:PATH`, a task made of one's own table: a .csv or .tsv with a header, or an .arff or .parquet file.

    csv:PATH?target=COLUMN&drop=COLUMN,COLUMN&kind=classes|regression&categories=COLUMN,COLUMN&max_levels=N

    target        the target; by default the column `label` or `target`, in any case, else the last
    drop          columns that are left out
    kind          whether the target holds classes or numbers; by default texts and whole numbers are classes
    categories    columns that are categories although they hold numbers, or hold more than numbers
    max_levels    the most categories of one column (50)

In names, `%2C` is a comma and `%26` an `&`. Columns go to the model as OpenML's do, see `orca_core.tasks.encoding`; those with missing
entries are left out. 20 % test and 10 % validation are split off by `split_seed`, numbers standardised by the training rows; so is the
target of a regression.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from orca_core.datafiles.expected import refuse
from orca_core.errors import ConfigError, DataError, Fault, nearest
from orca_core.tasks.builtin import laptop_recipe
from orca_core.tasks.encoding import ColumnEncoding, TableEncoding, TargetEncoding, encode_as, number_faults, split_complete
from orca_core.tasks.entries import Column, missing_like
from orca_core.tasks.spec import Split, TaskData, TaskSpec
from orca_core.tasks.splitting import stratified_order
from orca_core.tasks.tables import number_classes, read_table
from orca_core.tasks.validation import hold_out_first
from orca_core.workbench import Workbench, memoize

TARGETS = ("label", "target")

KINDS = ("classes", "regression")

MIN_ROWS = 10

MAX_LEVELS = 50
"""The most categories of one column, and of whole numbers that are taken as classes, unless the name says otherwise."""

MAX_REAL_CLASSES = 20
"""The most different numbers like 0.0 and 1.0 that are taken as classes."""


MAX_NOTES = 5
"""Maximum number of notes of one kind."""


@dataclass(frozen=True)
class Options:
    """What the name of the task says about its table.

    Args:
        target: Name of the target column; empty = by `TARGETS`.
        drop, categories: Names of columns.
        kind: One of `KINDS`; empty = as the target's entries suggest.
        max_levels: The most categories of one column.
    """

    target: str = ""
    drop: tuple[str, ...] = ()
    kind: str = ""
    categories: tuple[str, ...] = ()
    max_levels: int = MAX_LEVELS

    def query(self) -> str:
        """The options as they are written after the path: in one order, without defaults."""
        named = {"target": escape_name(self.target), "kind": self.kind}
        named |= {"drop": ",".join(escape_name(name) for name in self.drop)}
        named |= {"categories": ",".join(escape_name(name) for name in self.categories)}
        named |= {"max_levels": "" if self.max_levels == MAX_LEVELS else str(self.max_levels)}
        return "&".join(f"{key}={named[key]}" for key in ("target", "drop", "kind", "categories", "max_levels") if named[key])

    def adding(self, **more: Any) -> str:
        """These options with one changed, as they are written: `?target=a&drop=b,c` for `drop="c"`. Columns come on top of those there."""
        changed = dict[str, Any](more)
        for key in ("drop", "categories"):
            if key in more:
                changed[key] = tuple(sorted({*getattr(self, key), more[key]}))
        return f"?{replace(self, **changed).query()}"


def escape_name(name: str) -> str:
    """The name of a column as it is written in the name of a task. As YAML, too, it is a text: it has no colon or # beside a space."""
    for text, written in (("%", "%25"), ("&", "%26"), (",", "%2C"), (": ", ":%20"), (" #", "%20#")):
        name = name.replace(text, written)
    return name


@dataclass(frozen=True)
class Layout:
    """What becomes of the columns of a table.

    Args:
        inputs: The input columns, categories first, over the rows that have a target.
        target: The target column, over the same rows.
        encoding: Of the inputs, numbers not standardised yet, and of the target.
        notes: What the user should look at.
        faults: Why the table cannot be used.
    """

    inputs: tuple[Column, ...]
    target: Column
    encoding: TableEncoding
    notes: tuple[str, ...]
    faults: tuple[Fault, ...]

    @property
    def is_class(self) -> bool:
        """Whether the target holds classes."""
        return bool(self.encoding.target.classes)

    @property
    def identity(self) -> str:
        """What is made of the columns, whichever options led to it."""
        columns = [[column.name, column.form] for column in self.encoding.columns]
        return json.dumps([self.target.name, self.is_class and self.encoding.target.form, columns])


def csv_task(argument: str) -> TaskSpec:
    """The task in the table that `argument` names, with its options.

    Raises:
        ConfigError: If an option is unknown or has a wrong value.
        DataError: If the file is missing, is not a table with a target, or has columns that cannot be used as they are.
    """
    path, options = parse_address(argument)
    file = Workbench.current().locate(path)
    if not file.is_file():
        refuse([Fault("", "must be an existing file", Fault.ABSENT, "A relative path starts in the working folder.").text(str(file))])
    layout = _layout(file, options)
    refuse(fault.text(str(file)) for fault in layout.faults)
    usual = _layout(file, Options())
    target, found = layout.target, layout.encoding.target
    what = f"{len(found.classes)} classes" if layout.is_class else f"numbers{f' ({found.unit})' if found.unit else ''}"
    return TaskSpec(
        name=f"csv:{spell_address(argument)}",
        summary=f"{what} of column {target.name!r} by {_count(len(layout.inputs), 'other column')}, {len(target.values)} rows",
        dims=1,
        kind="classification" if layout.is_class else "regression",
        loss="cross-entropy" if layout.is_class else "mse",
        score="1-accuracy" if layout.is_class else "1-r2",
        loader="orca_core.tasks.own.tables:load_csv",
        version=3,
        recipes={"laptop": laptop_recipe(1, epochs=8, batch_size=32, lr=3e-3)},
        files=partial(tuple, (file,)),
        source=str(file),
        own_path=path,
        # Options that make no difference are no part of the data's identity.
        variant="" if not usual.faults and usual.identity == layout.identity else layout.identity,
        notes=layout.notes,
    )


def parse_address(argument: str) -> tuple[str, Options]:
    """The path and the options in a task's name, after `csv:`.

    Raises:
        ConfigError: If an option is unknown, repeated or has a wrong value; all faults at once.
    """
    found = re.fullmatch(r"(.*?)\?([A-Za-z_ ]*=.*)", argument, flags=re.DOTALL)
    if found is None or Workbench.current().locate(argument).is_file():
        return argument, Options()
    known = ("target", "drop", "kind", "categories", "max_levels")
    given, faults = dict[str, str](), []
    for text in found[2].split("&"):
        key, _, value = text.partition("=")
        if key not in known:
            faults.append(Fault("task", "must have options of a table after the `?`", text, nearest(key, known)))
        elif key in given or not value:
            faults.append(Fault("task", f"must have one value of {key}", text, "As in csv:mine.csv?target=price&drop=id,name."))
        given.setdefault(key, value)
    if (kind := given.get("kind", "")) and kind not in KINDS:
        faults.append(Fault("task", f"must have a kind that is {' or '.join(KINDS)}", kind, nearest(kind, KINDS)))
    levels = given.get("max_levels", str(MAX_LEVELS))
    if not re.fullmatch(r"[1-9]\d{0,8}", levels):
        faults.append(Fault("task", "must have a whole number above 0 as max_levels", levels))
    if faults:
        raise ConfigError(faults)
    lists = {
        key: tuple(sorted({unquote(name.strip()) for name in given[key].split(",")})) for key in ("drop", "categories") if key in given
    }
    return found[1], Options(unquote(given.get("target", "")), lists.get("drop", ()), kind, lists.get("categories", ()), int(levels))


def spell_address(argument: str) -> str:
    """The path and the options of a table in one spelling; as it is, if the options are wrong."""
    try:
        path, options = parse_address(argument)
    except ConfigError:
        return argument
    query = options.query()
    return f"{path}?{query}" if query else path


def load_csv(spec: TaskSpec, split_seed: int) -> TaskData:
    """x (n, F, 1) of numbers alone, else (n, m, F); y (n,) class ids or (n, 1) numbers at mean 0 and deviation 1.

    Raises:
        DataError: If there are too few rows or classes, or no column without missing entries.
    """
    import numpy as np

    path, options = parse_address(spec.name.removeprefix("csv:"))
    file = Workbench.current().locate(path)
    layout = _layout(file, options)
    refuse(fault.text(str(file)) for fault in layout.faults)
    values, classes = layout.target.values, layout.encoding.target.classes
    strata = np.zeros(len(values), dtype=np.int64)
    if classes:
        strata, _ = number_classes(file, layout.target.name, values)
    order = stratified_order(strata, split_seed)
    num_test, num_valid = max(1, round(0.2 * len(order))), max(1, round(0.1 * len(order)))
    test, (train, valid) = order[:num_test], hold_out_first(order[num_test:], strata, num_valid)
    if len(order) - num_test - num_valid < len(classes):  # too large a `valid_share` is a fault of that knob, which `TaskSpec.load` finds
        rule = "must have rows for test, validation and one of each class in train"
        remedy = "" if layout.target.is_text else f"If it is a number to be predicted: {options.adding(kind='regression')}."
        refuse([Fault(layout.target.name, rule, f"{len(order)} rows, {len(classes)} classes", remedy).text(str(file))])
    x = layout.encoding.design({column.name: column for column in layout.inputs}, str(file))
    encoding = layout.encoding.fit(x, train)
    if classes:
        y = strata
    elif np.isfinite(values).all() and values[train].std() > 0:
        mean, deviation = values[train].mean(), values[train].std()
        y = ((values - mean) / deviation).astype("float32")[:, None]
        encoding = replace(encoding, target=replace(encoding.target, mean=float(mean), deviation=float(deviation)))
    else:
        raise DataError(f"{file}: {layout.target.name}: must have finite numbers, not all equal.")
    arrays = encoding.arrange(x)
    parts = [Split(arrays[rows], y[rows]) for rows in (train, valid, test)]
    return TaskData(parts[0], parts[1], parts[2], len(classes) or None, encoding=encoding)


def _layout(file: Path, options: Options) -> Layout:
    stat = file.stat()
    return _layout_of(file, stat.st_size, stat.st_mtime_ns, options)


@memoize(maxsize=2)
def _columns_of(file: Path, size: int, mtime_ns: int) -> list[Column]:
    columns = read_table(file)
    if len(columns) < 2:
        rule, remedy = "must have two columns at least, one of them the target", "Separate entries by commas, semicolons or tabs."
        refuse([Fault("", rule, [column.name for column in columns], remedy).text(str(file))])
    return columns


@memoize(maxsize=8)
def _layout_of(file: Path, size: int, mtime_ns: int, options: Options) -> Layout:
    columns = _columns_of(file, size, mtime_ns)
    names = [column.name for column in columns]
    target, faults = _find_target(columns, options.target)
    for key, listed in (("drop", options.drop), ("categories", options.categories)):
        for name in listed:
            if name not in names:
                faults.append(Fault(name, f"must be a column, as the option {key} names it", Fault.ABSENT, nearest(name, names)))
            elif name == target.name:
                rule = f"must not be named by the option {key}: it is the target"
                faults.append(Fault(name, rule, Fault.ABSENT, "Name another target, as in ?target=price."))
    known = ~target.missing
    inputs = [column.as_text() if column.name in options.categories else column for column in columns if column.name != target.name]
    target = target.take(known)
    target, classes, more = _encode_target(target, options)
    faults += more
    dropped = tuple((column.name, "named by the option drop") for column in inputs if column.name in options.drop)
    used, incomplete = split_complete(column.take(known) for column in inputs if column.name not in options.drop)
    faults += [fault for column in used for fault in _column_faults(column, options)]
    notes = [f"column {name!r} is left out: {reason}" for name, reason in incomplete[:MAX_NOTES]]
    if unlabelled := int((~known).sum()):
        verb = "is" if unlabelled == 1 else "are"
        notes.insert(0, f"{unlabelled} of {len(known)} rows {verb} left out: no entry in column {target.name!r}")
    if len(incomplete) > MAX_NOTES:
        notes.append(f"{len(incomplete) - MAX_NOTES} more columns are left out, as entries are missing")
    notes += _first_notes([note for column in used for note in _column_notes(column, options)])
    notes += _first_notes([_text_note(column) for column in (*used, target) if missing_like(column)])
    if not used and not faults:
        faults.append(Fault("", "must have an input column without missing entries", [column.name for column in inputs]))
    encoded = tuple(encode_as(column) if not faults else ColumnEncoding(column.name, column.form) for column in used)
    meaning = TargetEncoding(target.name, target.form, classes, unit="" if classes else target.unit)
    return Layout(tuple(used), target, TableEncoding(encoded, meaning, dropped + incomplete), tuple(notes), tuple(faults))


def _find_target(columns: Sequence[Column], name: str) -> tuple[Column, list[Fault]]:
    """The column of that name, or of the usual ones if it is empty; and the fault if there is none."""
    exact = [column for column in columns if column.name == name]
    alike = [column for column in columns if column.name.lower() == name.lower()]
    if name and (exact or len(alike) == 1):
        return (exact or alike)[0], []
    usual = [column for wanted in TARGETS for column in columns if column.name.lower() == wanted]
    remedy = nearest(name, [column.name for column in columns])
    faults = [Fault(name, "must be a column, as the option target names it", Fault.ABSENT, remedy)]
    return (usual or [columns[-1]])[0], faults if name else []


def _encode_target(target: Column, options: Options) -> tuple[Column, tuple[str, ...], list[Fault]]:
    """The target as classes or numbers, the names of its classes, and what is wrong with it."""
    import numpy as np

    rows, faults = len(target.values), list[Fault]()
    if rows < MIN_ROWS:
        return target, (), [Fault(target.name, f"must have at least {MIN_ROWS} rows", rows)]
    if target.is_text and options.kind == "regression":
        rule = f"must have numbers for a regression, all written in one form{f': {target.doubt}' if target.doubt else ''}"
        return target, (), [Fault(target.name, rule, Fault.ABSENT if target.doubt else min(target.values))]
    if target.is_text and target.doubt and not options.kind:
        remedy = f"Correct these entries, leave them empty, or take them as classes: {options.adding(kind='classes')}."
        return target, (), [Fault(target.name, f"must be a target of one kind: {target.doubt}", Fault.ABSENT, remedy)]
    kind = options.kind or _usual_kind(target)
    if not kind:
        number = len(np.unique(target.values))
        rule = f"must have at most {MAX_LEVELS} whole numbers to be taken as classes unasked"
        remedy = f"Say which: {options.adding(kind='regression')}, or {options.adding(kind='classes')}."
        return target, (), [Fault(target.name, rule, number, remedy)]
    if kind == "regression":
        return target, (), number_faults(target)
    if not target.is_text and (target.form != "number" or _has_codes(target)):
        target = target.as_text()  # 0019 is another label than 19
    found = sorted(set(target.values.tolist()))
    if len(found) < 2:
        faults.append(Fault(target.name, "must have at least two classes", found, "Is it the target column?"))
    return target, tuple(label if target.is_text else f"{label:.15g}" for label in found), faults


def _usual_kind(target: Column) -> str:
    """Whether a target of texts or numbers is taken as classes or as a regression; empty if it is not plain."""
    import numpy as np

    if target.is_text:
        return "classes"
    distinct = np.unique(target.values)
    if target.form != "number" or not np.isfinite(distinct).all() or (distinct % 1).any():
        return "regression"
    if target.whole:
        return "classes" if len(distinct) <= MAX_LEVELS else ""
    return "classes" if len(distinct) <= MAX_REAL_CLASSES else "regression"


def _has_codes(target: Column) -> bool:
    return target.texts is not None and any(re.fullmatch(r"0\d+", text) for text in target.texts.tolist())


def _column_faults(column: Column, options: Options) -> list[Fault]:
    """Why an input column cannot be used as it is."""
    drop = f"leave it out: {options.adding(drop=column.name)}"
    if not column.is_text:
        return number_faults(column, f"Correct it, or {drop}.")
    if column.doubt:
        remedy = f"Correct these entries, leave them empty if they are missing, or {drop}."
        remedy += f" Are they categories? {options.adding(categories=column.name)}."
        return [Fault(column.name, f"must be a column of numbers or of categories: {column.doubt}", Fault.ABSENT, remedy)]
    if (levels := len(set(column.values.tolist()))) > options.max_levels:
        rule = f"must have at most {options.max_levels} different texts to be taken as categories"
        return [Fault(column.name, rule, levels, f"{drop[0].upper()}{drop[1:]}, or allow more: {options.adding(max_levels=levels)}.")]
    return []


def _column_notes(column: Column, options: Options) -> list[str]:
    """What the user should know of an input column that is used."""
    remedy = f"if it only numbers or names the rows, leave it out: {options.adding(drop=column.name)}"
    if re.fullmatch(r"Unnamed: \d+", column.name):
        return [f"column {column.name!r} has no name in the file and is used as an input; {remedy}"]
    distinct = set(column.values.tolist())
    if len(distinct) < len(column.values):
        return []
    named = re.fullmatch(r"(?i)(.*[_ ])?(id|index|key|uuid)|row|.*Id", column.name) is not None
    run = not column.is_text and all(value % 1 == 0 for value in distinct) and max(distinct) - min(distinct) == len(distinct) - 1
    if run or ((column.whole or column.is_text) and named) or column.is_text:
        return [f"column {column.name!r} has another value in each row and is used as an input; {remedy}"]
    return []


def _first_notes(notes: list[str]) -> list[str]:
    more = len(notes) - MAX_NOTES
    return [*notes[:MAX_NOTES], f"{more} more columns are like this one"] if more > 0 else notes


def _text_note(column: Column) -> str:
    found = ", ".join(f"{text!r} ({number})" for text, number in missing_like(column).items())
    return f"column {column.name!r} has the texts {found}, taken as categories; leave such entries empty if they are missing"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
