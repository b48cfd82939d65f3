"""SQL behind numbers, as `sweeper query` runs it: the value and its interval, from the rows of the trials that are named in it.

It is another road to the same numbers, for readers; nothing in the product computes by it. Quantiles of Student's t stand in it as
literals, as DuckDB has no such function.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Cells = Sequence[tuple[str, str, Sequence[str]]]
"""Trial, seed and levels of each row of an analysis of variance."""


def quote(value: Any) -> str:
    """A value as a literal."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int | float) else f"'{str(value).replace(chr(39), 2 * chr(39))}'"


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(quote, values))


def _rows(rows: Iterable[Sequence[Any]]) -> str:
    return ",\n    ".join(f"({_listed(row)})" for row in rows)


def _interval(column: str, n: int, unit: str, spread: float | None = None) -> str:
    """The columns value, low and high of a mean of n; `spread` replaces a standard deviation that is 0."""
    from scipy.special import stdtrit

    if n < 2:
        return f"avg({column}) as value, count(*) as {unit}"
    t = float(stdtrit(n - 1, 0.975))
    half = f"{t!r} * {f'stddev_samp({column})' if spread is None else repr(spread)} / sqrt(count(*))"
    return f"avg({column}) as value,\n  avg({column}) - {half} as low,\n  avg({column}) + {half} as high,\n  count(*) as {unit}"


def mean_sql(sweep: str, trials: Sequence[str], metric: str) -> str:
    """The mean of a metric over trials."""
    return f"select {_interval(metric, len(trials), 'seeds')}\nfrom trials where sweep = {quote(sweep)} and trial in ({_listed(trials)})"


_PAIRS = """\
from pairs
  join trials one on one.trial = pairs.level_trial
  join trials other on other.trial = pairs.baseline_trial
  where one.sweep = {sweep} and other.sweep = {sweep}"""


def difference_sql(sweep: str, pairs: Sequence[tuple[str, str, str]], metric: str, spread: float | None = None) -> str:
    """The mean difference of pairs, averaged within each seed first.

    Args:
        sweep: Name of the sweep.
        pairs: Seed, trial at the level, trial at the baseline.
        metric: The column that is compared.
        spread: What stands for the standard deviation where all differences are equal (`paired_t`); None = their own.
    """
    n = len({seed for seed, _, _ in pairs})
    return (
        f"with pairs (seed, level_trial, baseline_trial) as (values\n    {_rows(pairs)}),\n"
        f"per_seed as (\n  select pairs.seed, avg(one.{metric} - other.{metric}) as difference\n  "
        f"{_PAIRS.format(sweep=quote(sweep))}\n  group by pairs.seed)\n"
        f"select {_interval('difference', n, 'seeds', spread)}\nfrom per_seed"
    )


def weighted_sql(sweep: str, cells: Sequence[tuple[str, str, float]], metric: str, spread: float | None = None) -> str:
    """The mean over seeds of a weighted sum of trials.

    Args:
        sweep, metric, spread: As for `difference_sql`.
        cells: Seed, trial, and its weight in the sum of the seed.
    """
    n = len({seed for seed, _, _ in cells})
    return (
        f"with cells (seed, trial, weight) as (values\n    {_rows(cells)}),\n"
        f"per_seed as (\n  select cells.seed, sum(cells.weight * trials.{metric}) as contribution\n"
        f"  from cells join trials using (trial) where trials.sweep = {quote(sweep)}\n  group by cells.seed)\n"
        f"select {_interval('contribution', n, 'seeds', spread)}\nfrom per_seed"
    )


def relative_sql(sweep: str, pairs: Sequence[tuple[str, str, str, str]], metric: str) -> str:
    """The mean over tasks of the difference over the baseline's mean.

    Args:
        sweep, metric: As for `difference_sql`.
        pairs: Task, seed, trial at the level, trial at the baseline.
    """
    n = len({task for task, _, _, _ in pairs})
    return (
        f"with pairs (task, seed, level_trial, baseline_trial) as (values\n    {_rows(pairs)}),\n"
        f"per_seed as (\n  select pairs.task, pairs.seed, avg(one.{metric} - other.{metric}) as difference, "
        f"avg(other.{metric}) as baseline\n  {_PAIRS.format(sweep=quote(sweep))}\n  group by pairs.task, pairs.seed),\n"
        "per_task as (select task, avg(difference) / avg(baseline) as relative from per_seed group by task)\n"
        f"select {_interval('relative', n, 'tasks')}\nfrom per_task"
    )


def share_sql(sweep: str, cells: Cells, metric: str, term: Sequence[str], terms: Sequence[Sequence[str]], names: Sequence[str]) -> str:
    """A share of variance in a sweep that crosses all levels with all seeds, where sums of squares are variances of means.

    Args:
        sweep, metric: As for `difference_sql`.
        cells: The rows.
        term: The factors of the term, `seed`, or `rest`.
        terms: All terms, for the rest.
        names: The factors, in the order of the levels of the cells.
    """
    columns = {name: f"f{number}" for number, name in enumerate(names)} | {"seed": "seed"}

    def spread(of: Sequence[str]) -> str:
        means = [f"avg(y) over (partition by {columns[name]})" for name in of]
        both = f"avg(y) over (partition by {', '.join(columns[name] for name in of)})"
        return both if len(of) == 1 else f"{both} - {' - '.join(means)}"

    wanted = [list(of) for of in terms if list(of) != ["rest"]] if list(term) == ["rest"] else [list(term)]
    parts = ",\n  ".join(f"{spread(of)} as part{number}" for number, of in enumerate(wanted))
    shares = " + ".join(f"var_pop(part{number})" for number in range(len(wanted)))
    share = f"({shares}) / nullif(var_pop(y), 0)"
    if list(term) == ["rest"]:
        share = f"1 - {share}"
    heads = ", ".join(["trial", "seed", *(columns[name] for name in names)])
    values = _rows([trial, seed, *levels] for trial, seed, levels in cells)
    return (
        f"with cells ({heads}) as (values\n    {values}),\n"
        f"parts as (\n  select y,\n  {parts}\n"
        f"  from (select cells.*, trials.{metric} as y from cells join trials using (trial) where trials.sweep = {quote(sweep)}))\n"
        f"select coalesce({share}, 0) as value from parts"
    )


def rows_sql(sweep: str, trials: Sequence[str], columns: Sequence[str]) -> str:
    """The rows that a number is computed from where SQL cannot compute it."""
    shown = ", ".join(dict.fromkeys(("trial", "task", "seed", *columns)))
    return f"select {shown}\nfrom trials where sweep = {quote(sweep)} and trial in ({_listed(trials)})\norder by all"


def floor_sql(model: str, cases: Sequence[Mapping[str, Any]], metric: str) -> str:
    """The error of a model without a transformer, as the mean over splits.

    Args:
        model: Its name.
        cases: The columns that tell each split apart, as `FloorCase.cells` has them.
        metric: `test_error` or `valid_error`.
    """
    defaults = {"reference_data": False, "split_seed": 0}
    tests = [
        " and ".join(
            f"coalesce({name}, {quote(defaults[name])}) = {quote(value)}"
            if name in defaults
            else f"{name} is null"
            if value is None
            else f"{name} = {quote(value)}"
            for name, value in case.items()
        )
        for case in cases
    ]
    where = f"status = 'COMPLETE' and model = {quote(model)} and (\n  {f'{chr(10)}  or '.join(tests)})"
    return f"select avg({metric}) as value, count(*) as splits\nfrom floors where {where}"
