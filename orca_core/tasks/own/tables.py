"""`csv:PATH`, a task made of one's own table: a .csv with a header, or an .arff or .parquet file.

The target is the column `label` or `target`, in any case, else the last. Texts and whole numbers are classes, other numbers a
regression. Columns go to the model as OpenML's do, see `orca_core.tasks.tables`. 20 % test and 10 % validation are split off by
`split_seed`, numbers standardised by the training rows; so is the target of a regression.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from orca_core.datafiles.expected import refuse
from orca_core.errors import DataError, Fault
from orca_core.tasks.builtin import laptop_recipe
from orca_core.tasks.spec import Split, TaskData, TaskSpec
from orca_core.tasks.splitting import stratified_order
from orca_core.tasks.tables import Column, encode_columns, number_classes, read_table, scale_columns, split_target
from orca_core.tasks.validation import hold_out_first
from orca_core.workbench import memoize

TARGETS = ("label", "target")

MIN_ROWS = 10


def csv_task(path: str) -> TaskSpec:
    """The task in the table at `path`.

    Raises:
        DataError: If the file is missing, or is not a table with a target.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        refuse([Fault("", "must be an existing file", Fault.ABSENT, "A relative path starts in the working folder.").text(str(file))])
    inputs, target = _columns(file)
    known = int((~target.missing).sum())
    if known < MIN_ROWS:
        refuse([Fault(target.name, f"must have at least {MIN_ROWS} rows", known).text(str(file))])
    is_class = target.is_text or target.whole
    return TaskSpec(
        name=f"csv:{path}",
        summary=f"{'classes' if is_class else 'numbers'} of column {target.name} by {len(inputs)} others, {known} rows",
        dims=1,
        kind="classification" if is_class else "regression",
        loss="cross-entropy" if is_class else "mse",
        score="1-accuracy" if is_class else "1-r2",
        loader="orca_core.tasks.own.tables:load_csv",
        version=2,
        recipes={"laptop": laptop_recipe(1, epochs=8, batch_size=32, lr=3e-3)},
        files=partial(tuple, (file,)),
        source=str(file),
    )


def load_csv(spec: TaskSpec, split_seed: int) -> TaskData:
    """x (n, F, 1) of numbers alone, else (n, m, F); y (n,) class ids or (n, 1) numbers at mean 0 and deviation 1.

    Raises:
        DataError: If there are too few rows or classes, or no column without missing entries.
    """
    import numpy as np

    (file,) = spec.files()
    inputs, target = _columns(file)
    known = ~target.missing
    x, numeric = encode_columns(file, inputs, known)
    values = target.values[known]
    names: list[str] = []
    strata = np.zeros(len(values), dtype=np.int64)
    if spec.kind == "classification":
        strata, names = number_classes(file, target.name, values)
    order = stratified_order(strata, split_seed)
    num_test, num_valid = max(1, round(0.2 * len(order))), max(1, round(0.1 * len(order)))
    test, (train, valid) = order[:num_test], hold_out_first(order[num_test:], strata, num_valid)
    if len(train) < len(names):
        rule = "must have rows for test, validation and one of each class in train"
        refuse([Fault(target.name, rule, f"{len(order)} rows, {len(names)} classes").text(str(file))])
    if names:
        y = strata
    elif np.isfinite(values).all() and values[train].std() > 0:
        y = ((values - values[train].mean()) / values[train].std()).astype("float32")[:, None]
    else:
        raise DataError(f"{file}: {target.name}: must have finite numbers, not all equal.")
    arrays = scale_columns(x, numeric, train)
    parts = [Split(arrays[rows], y[rows]) for rows in (train, valid, test)]
    return TaskData(parts[0], parts[1], parts[2], len(names) or None)


def _columns(file: Path) -> tuple[list[Column], Column]:
    stat = file.stat()
    return _columns_of(file, stat.st_size, stat.st_mtime_ns)


@memoize(maxsize=8)
def _columns_of(file: Path, size: int, mtime_ns: int) -> tuple[list[Column], Column]:
    columns = read_table(file)
    if len(columns) < 2:
        refuse([Fault("", "must have two columns at least, one of them the target", [column.name for column in columns]).text(str(file))])
    return split_target(columns, TARGETS)
