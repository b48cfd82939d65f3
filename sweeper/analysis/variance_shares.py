"""Importance: which share of an error's variance each factor, and each pair of factors, accounts for.

Levels that a sweep crosses go through an analysis of variance, with the seed as a factor of its own; tuned knobs, whose values a search
chose, through functional ANOVA. A share says how much a factor moved the error in this sweep, at the levels that it had there. It is no
test.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pyarrow as pa

from orca_core.config.paths import KNOBS
from orca_core.errors import ConfigError, Fault
from sweeper.analysis.contrasts import NOT_COMPARED, are_told_apart, crossed_with_variants
from sweeper.analysis.factors import KNOB_OF, VARIANT, Factor, Row, cell, varying_columns
from sweeper.analysis.matching import Key, deciding_columns
from sweeper.analysis.paired import paired_t
from sweeper.analysis.representatives import REPLICATE, group_arms, is_usable, key_of, represent_arms, role_of, tuned_columns
from sweeper.analysis.sweep_rows import OBJECTIVE, PAIR_BY

ANOVA, FANOVA = "anova", "fanova"
"""The two methods: analysis of variance of crossed factors, functional ANOVA of tuned knobs."""

SEED, REST = "seed", "rest"
"""What stands among the factors for the seed, and for what no factor and no pair explains."""

NULL_IS_A_VALUE = frozenset(column for column, path in KNOB_OF.items() if not KNOBS[path].is_required() and KNOBS[path].default is None)
"""Columns in which null is a value, not the sign that nothing reads the knob: without `train_samples`, all of them are used."""

MIN_CANDIDATES = 6
"""Minimum number of complete candidates of an arm for shares of its tuned knobs."""


_Cell = tuple[Key, tuple[Any, ...], Row]
"""A seed, the levels of all factors, and the trial."""


@dataclass(frozen=True)
class Share:
    """A share of the variance of a metric on one task.

    Args:
        task: The task.
        factors: A knob, or two for their interaction; `seed`, or `rest`.
        share: Sum of squares of the term over that of all rows (eta squared); of tuned knobs the share by functional ANOVA.
        low, high: Its 95 % interval over seeds, by the jackknife; None with fewer than three seeds.
        corrected: The share without what chance alone contributes (omega squared); None for tuned knobs and where it is unknown.
        method: `anova` or `fanova`.
        seeds: Number of seeds.
        balanced: Whether every combination of levels has every seed. If not, shares need not add up to 1.
        names: All factors of the analysis; no column.
        cells: Seed, levels of all factors, and trial: the rows of the analysis; no column.
    """

    task: Any
    factors: Sequence[str]
    share: float
    low: float | None
    high: float | None
    corrected: float | None
    method: str
    seeds: int
    balanced: bool
    names: Sequence[str] = field(default=(), repr=False, compare=False)
    cells: Sequence[_Cell] = field(default=(), repr=False, compare=False)


def shares_of_variance(
    rows: Sequence[Row],
    *,
    metric: str = "test_error",
    pair_by: Sequence[str] = PAIR_BY,
    varied: Collection[str] | None = None,
    objective: str = OBJECTIVE,
) -> list[Share]:
    """The shares of all factors on each task; the largest first, then seed and rest, then tuned knobs.

    A trial that does not read a knob stands for every value of it: the arm that is not aligned, for every proxy.

    Args:
        rows: Rows of `trials` of one sweep.
        metric, pair_by, varied, objective: As for `paired_differences`. Tuned knobs are looked at by `objective`, which chose among them.

    Raises:
        ConfigError: If the metric is no column, or no knob differs between complete trials of a task.
    """
    if not any(metric in row for row in rows):
        raise ConfigError([Fault("--metric", "must be a column of numbers of `trials`", metric)])
    rows = sorted(rows, key=lambda row: str(row.get("trial")))  # sums depend on the order in their last digits, and files have any
    tuned = tuned_columns(rows, pair_by)
    left_out = {*NOT_COMPARED, *pair_by, *tuned}
    chosen = [row for row in represent_arms(rows, pair_by, objective) if is_usable(row, metric)]
    columns = varying_columns(chosen, [column for column in KNOB_OF if column not in left_out and (varied is None or column in varied)])
    if varied is None and all(row.get("trial") is not None for row in chosen):
        columns = _without_implied(chosen, columns, pair_by)
    if any(row.get(VARIANT) for row in chosen):
        columns = [VARIANT, *crossed_with_variants(chosen, columns)]
    found: list[Share] = []
    for task in sorted({row.get("task") for row in chosen}, key=str):
        of_task = [row for row in chosen if row.get("task") == task]
        crossed = varying_columns(of_task, columns)
        if crossed:
            found += _crossed_shares(task, _expand(of_task, crossed, pair_by), crossed, metric)
        found += _tuned_shares(task, [row for row in rows if row.get("task") == task], tuned, pair_by, objective)
    if not found:
        rule = "the sweep must have complete trials of a task that differ in knobs, and more of them than levels, for shares of variance"
        raise ConfigError([Fault("", rule, f"{len(chosen)} complete trials")])
    return found


def _without_implied(rows: Sequence[Row], columns: Sequence[str], pair_by: Sequence[str]) -> list[str]:
    """The columns without those that only say that something reads them, as all of `align.*` do where alignment is on or off.

    Where no plan names the knobs that a sweep varies, a column with a single value beside null is left out if the others tell all trials
    apart without it.
    """
    kept = list(columns)
    for column in columns:
        rest = [other for other in kept if other != column]
        if column not in NULL_IS_A_VALUE and len({cell(row, column) for row in rows} - {None}) < 2 and are_told_apart(rows, rest, pair_by):
            kept = rest
    return kept


def shares_to_table(shares: Sequence[Share]) -> pa.Table:
    """Shares as an Arrow table, one row each."""
    columns = [column.name for column in fields(Share) if column.compare]
    return pa.table({name: pa.array([getattr(share, name) for share in shares]) for name in columns})


# -------------------------------------------------------------------------------------------------------------- crossed factors


def _expand(rows: Sequence[Row], columns: Sequence[str], pair_by: Sequence[str]) -> list[_Cell]:
    """The trials with their levels. One that does not read a knob is there once for each value of it that trials alike have."""
    deciding = {column: deciding_columns(Factor(KNOB_OF[column], (column,)), rows) for column in columns if column in KNOB_OF}
    settings = {tuple(cell(row, column) for column in columns) for row in rows}
    found = []
    for row in rows:
        levels = [tuple(cell(row, column) for column in columns)]
        for number, column in enumerate(columns):
            for setting in [setting for setting in levels if setting[number] is None and column not in NULL_IS_A_VALUE]:
                loose = {number, *(other for other, name in enumerate(columns) if name in deciding.get(column, ()))}
                alike = {
                    other[number]
                    for other in settings
                    if other[number] is not None and all(n in loose or other[n] == setting[n] for n in range(len(columns)))
                }
                if alike:
                    levels.remove(setting)
                    levels += [(*setting[:number], value, *setting[number + 1 :]) for value in sorted(alike, key=str)]
        found += [(key_of(row, pair_by), setting, row) for setting in levels]
    return found


def _crossed_shares(task: Any, cells: Sequence[_Cell], columns: Sequence[str], metric: str) -> Iterator[Share]:
    used = [number for number in range(len(columns)) if len({setting[number] for _, setting, _ in cells}) > 1]
    names = [KNOB_OF.get(columns[number], columns[number]) for number in used]
    keys = sorted({key for key, _, _ in cells})
    levels = [{setting[number] for _, setting, _ in cells} for number in used]
    combinations = {tuple(setting[number] for number in used) for _, setting, _ in cells}
    is_balanced = len(cells) == math.prod(map(len, levels)) * len(keys) and len(combinations) == math.prod(map(len, levels))
    pairs = [
        (one, other)
        for one, other in itertools.combinations(range(len(used)), 2)
        if len({(setting[one], setting[other]) for setting in combinations}) == len(levels[one]) * len(levels[other])
    ]
    data = [(key, tuple(setting[number] for number in used), float(row[metric])) for key, setting, row in cells]
    whole = _anova(data, pairs)
    if whole is None:
        whole = {(number,): (0.0, None) for number in range(len(used))}
    without = [_anova([entry for entry in data if entry[0] != key], pairs) for key in keys] if len(keys) > 2 else []
    jackknife = [shares for shares in without if shares is not None]
    used_cells = [(key, tuple(setting[number] for number in used), row) for key, setting, row in cells]
    found = []
    for term, (share, corrected) in whole.items():
        low = high = None
        if len(jackknife) == len(keys) > 2:
            t = paired_t([len(keys) * share - (len(keys) - 1) * shares.get(term, (0.0, None))[0] for shares in jackknife])
            low, high = min(max(float(t.low), 0.0), share), max(min(float(t.high), 1.0), share)
        factors = [names[number] for number in term] if isinstance(term, tuple) else [term]
        found.append(Share(task, factors, share, low, high, corrected, ANOVA, len(keys), is_balanced, names, used_cells))
    yield from sorted(found, key=lambda share: (share.factors[0] in (SEED, REST), -share.share))


def _anova(
    data: Sequence[tuple[Key, tuple[Any, ...], float]], pairs: Sequence[tuple[int, int]]
) -> dict[Any, tuple[float, float | None]] | None:
    """Term -> (share, corrected share), by sums of squares of type 2; None if all values are the same.

    Args:
        data: Seed, levels and value of each row.
        pairs: Positions of the factors whose interaction is a term. Left out if no degree of freedom would remain.
    """
    import pandas as pd
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    values = np.array([value for _, _, value in data])
    total = float(np.sum((values - values.mean()) ** 2))
    if total <= (1e-12 * float(np.max(np.abs(values)))) ** 2 * len(values):
        return None
    frame = pd.DataFrame({f"f{n}": [str(levels[n]) for _, levels, _ in data] for n in range(len(data[0][1]))})
    frame[SEED] = [str(key) for key, _, _ in data]
    frame["y"] = values
    sizes = {name: frame[name].nunique() for name in frame.columns if name != "y"}
    mains = [f"f{n}" for n in range(len(data[0][1])) if sizes[f"f{n}"] > 1]
    spent = 1 + sum(sizes[name] - 1 for name in [*mains, SEED])
    terms: dict[str, Any] = {f"C({name})": (int(name[1:]),) for name in mains}
    if sizes[SEED] > 1:
        terms[f"C({SEED})"] = SEED
    if spent + sum((sizes[f"f{a}"] - 1) * (sizes[f"f{b}"] - 1) for a, b in pairs) < len(data):
        terms |= {f"C(f{a}):C(f{b})": (a, b) for a, b in pairs if sizes[f"f{a}"] > 1 and sizes[f"f{b}"] > 1}
    if spent >= len(data):  # nothing is left to tell the terms apart by
        return {terms[f"C({mains[0]})"]: (1.0, None), REST: (0.0, None)} if len(terms) == 1 else {}
    table = anova_lm(ols(f"y ~ {' + '.join(terms)}", frame).fit(), typ=2)
    squares, df = table["sum_sq"], table["df"]
    residual_df = float(df["Residual"])
    noise = float(squares["Residual"]) / residual_df if residual_df > 0 else None
    found: dict[Any, tuple[float, float | None]] = {}
    for name, term in terms.items():
        corrected = None if noise is None else max(0.0, (float(squares[name]) - float(df[name]) * noise) / (total + noise))
        found[term] = (float(squares[name]) / total, corrected)
    found[REST] = (float(squares["Residual"]) / total, None)
    return found


# ------------------------------------------------------------------------------------------------------------------ tuned knobs


def _tuned_shares(task: Any, rows: Sequence[Row], tuned: Sequence[str], pair_by: Sequence[str], objective: str) -> list[Share]:
    """Shares of the tuned knobs among the candidates of each arm, as means over arms, with an interval over seeds."""
    by_key: dict[Key, list[Mapping[str, float]]] = defaultdict(list)
    cells: list[_Cell] = []
    for of_arm in group_arms(rows).values():
        candidates = [row for row in of_arm if role_of(row) != REPLICATE and is_usable(row, objective)]
        for key in sorted({key_of(row, pair_by) for row in candidates}):
            of_seed = [row for row in candidates if key_of(row, pair_by) == key]
            if len({row.get("candidate") for row in of_seed}) >= MIN_CANDIDATES:
                by_key[key].append(_functional_anova(of_seed, tuned, objective))
                cells += [(key, tuple(cell(row, column) for column in tuned), row) for row in of_seed]
    means = {
        column: [math.fsum(shares.get(column, 0.0) for shares in of_key) / len(of_key) for of_key in by_key.values()] for column in tuned
    }
    found = []
    for column, values in means.items():
        if values and any(values):
            t = paired_t(values)
            low, high = (max(float(t.low), 0.0), min(float(t.high), 1.0)) if len(values) > 1 else (None, None)
            names = [KNOB_OF[name] for name in tuned]
            found.append(Share(task, [KNOB_OF[column]], float(t.mean), low, high, None, FANOVA, len(values), True, names, cells))
    return sorted(found, key=lambda share: -share.share)


def _functional_anova(rows: Sequence[Row], tuned: Sequence[str], objective: str) -> dict[str, float]:
    """Column -> share of the variance of the objective over the space of the tuned knobs, by Optuna's functional ANOVA.

    Reference:
        Hutter et al. 2014.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    columns = [
        column
        for column in tuned
        if len({cell(row, column) for row in rows} - {None}) > 1 and all(cell(row, column) is not None for row in rows)
    ]
    if not columns or len({row[objective] for row in rows}) < 2:
        return {}
    spaces = {column: _distribution([cell(row, column) for row in rows]) for column in columns}
    study = optuna.create_study()
    for row in rows:
        params = {column: cell(row, column) for column in columns}
        study.add_trial(optuna.create_trial(params=params, distributions=spaces, value=float(row[objective])))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _distribution(values: Sequence[Any]) -> Any:
    """The range of a knob's values; logarithmic where they span more than a factor of 30."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return CategoricalDistribution(sorted(set(values), key=str))
    low, high = min(values), max(values)
    is_log = low > 0 and high / low > 30
    kind = IntDistribution if all(isinstance(value, int) for value in values) else FloatDistribution
    return kind(low, high, log=is_log)
