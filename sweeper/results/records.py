"""The columns of the result tables: name, type, meaning. The docs are made from here.

Files written by different versions are read together, matched by column name: a column that a file lacks is null. So columns may be added
at any time, but a released column is never renamed or removed, nor changed in type, but for a yes or no that becomes a text: it is read as
`true` or `false`, and shown in the spelling of today (`orca_core.config.spellings`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pyarrow as pa

from orca_core.config.paths import KNOBS
from orca_core.declarations import describe_knob
from orca_core.floors.rows import FloorCase, FloorRow
from orca_core.numerics import NumericalKind
from orca_core.rows import EpochRow, ProbeRow, StageRow, TrialResult, row_columns
from sweeper.results.worker_facts import WorkerFacts

_TEXT, _COUNT, _REAL, _FLAG, _TIME = pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.timestamp("us", "UTC")


@dataclass(frozen=True)
class Column:
    """One column of a result table.

    Args:
        name: Its name in SQL.
        type: Its type in Parquet; every column may be null.
        meaning: Its description in the docs, with the unit.
    """

    name: str
    type: pa.DataType
    meaning: str


def config_columns() -> tuple[Column, ...]:
    """A column for every knob: the column of `align.epochs` is `align_epochs`."""
    return tuple(Column(path.replace(".", "_"), _arrow_type(field.annotation), describe_knob(path)) for path, field in KNOBS.items())


def columns_of(row: type[EpochRow | StageRow | ProbeRow | TrialResult | FloorRow | NumericalKind | WorkerFacts]) -> tuple[Column, ...]:
    """A column for every field of a row type."""
    hints = get_type_hints(row, include_extras=True)
    return tuple(Column(field.name, _arrow_type(hints[field.name]), hints[field.name].__metadata__[0]) for field in row_columns(row))


def _arrow_type(annotation: Any) -> pa.DataType:
    """The type that values are stored as; of a union its first member, so `T` for `T | None`, and the label for `freezing`."""
    plain = {str: _TEXT, int: _COUNT, float: _REAL, bool: _FLAG}
    if annotation in plain:
        return plain[annotation]
    if get_origin(annotation) is Literal:
        return _arrow_type(type(get_args(annotation)[0]))
    if get_origin(annotation) in (tuple, list):
        return pa.list_(_arrow_type(get_args(annotation)[0]))
    return _arrow_type(get_args(annotation)[0])  # Annotated and unions


_RESULT = columns_of(TrialResult)
_SCORES = tuple(column for column in _RESULT if not column.name.startswith("params_"))
_COUNTS = tuple(column for column in _RESULT if column.name.startswith("params_"))

_ATTEMPT = (
    Column("sweep", _TEXT, "Name of the sweep."),
    Column("trial", _TEXT, "Id of the trial: hash of its canonical config, the same in every sweep."),
    Column("attempt", _COUNT, "Number of the attempt at the trial in this sweep, from 1."),
    Column(
        "run",
        _TEXT,
        "Id of the run of the sweep that made the attempt: when it began, and a random part; null in rows of version 0.1. Of two runs that "
        "made the same attempt at once, the later one counts.",
    ),
)

TRIALS: tuple[Column, ...] = (
    *_ATTEMPT,
    Column("sequence", _COUNT, "Number of the row within the attempt, from 0: RUNNING comes first, and the last row counts."),
    Column(
        "status",
        _TEXT,
        "COMPLETE, PRUNED (stopped early by the scheduler), FAIL, RUNNING, or INTERRUPTED: cut short by a stop, and continued by the next "
        "run, or by the loss of its machine, and about to be started again. The files have FAIL where SQL shows INTERRUPTED after a stop.",
    ),
    Column(
        "in_plan",
        _FLAG,
        "Whether the plan of the sweep's last run contains this trial; analyses read only such rows. False for derived ones.",
    ),
    Column(
        "role",
        _TEXT,
        "What the trial is for: `tuning` chooses the setting of its arm, `replicate` repeats the chosen one with other seeds, `trial` does "
        "both; null in rows of versions before roles, which means `trial`. `derived`: it was not trained, but made of others, as "
        "`derived_by` says; such rows stand in `trial_status` and `all_trials` alone.",
    ),
    Column(
        "arm",
        _TEXT,
        "Id of the trial without its tuned knobs and those that seeds set (`seeds.vary`): trials of an arm are repeats.",
    ),
    Column("candidate", _COUNT, "Number of the candidate of tuned knobs within the arm, from 0; 0 when nothing is tuned."),
    Column("variant", _TEXT, "Names of the variants that contain the trial, joined by commas; null in sweeps without named variants."),
    Column("result_key", _TEXT, "Hash of the trial's id and its stage keys: equal keys, equal results."),
    Column(
        "derived_by",
        _TEXT,
        "How a derived row was made: soup-uniform or soup-greedy, averages of fine-tuned weights; wise or wise-body, weights between the "
        "start and the end of one fine-tuning; flip, the mean answer of a trial and its twin with `reversed`; else null.",
    ),
    Column(
        "members",
        pa.list_(_TEXT),
        "Of a derived row: the trials it was made of, those with the lowest validation error first; of flip the one that reads forwards.",
    ),
    Column("averaged", pa.list_(_TEXT), "Of a soup: those of `members` whose weights are in the average."),
    Column("shares_start", _FLAG, "Of a soup: whether fine-tuning of all members began with the same weights, bit for bit."),
    Column("alpha", _REAL, "Of wise and wise-body: where between start and end, from 0, the start, to 1, the end."),
    Column("reused_from", _TEXT, "Sweep from which the finished trial was taken over; null if this sweep ran it."),
    *config_columns(),
    *_SCORES,
    Column(
        "score",
        _TEXT,
        "Name of the score that was computed, in which the errors are measured: the task's, or the reference's with `reference_data`.",
    ),
    Column(
        "proxy_distance",
        _REAL,
        "Distance from the proxy to the target before any training: OTDD with the labels of both, over at most 500 samples of each, with "
        "the initial embedder; in squared feature units, and independent of `align_objective`. Null if `align_epochs` is 0 or no proxy is "
        "read.",
    ),
    Column("proxy_distance_unlabelled", _REAL, "The same without labels: the Sinkhorn divergence of the features."),
    Column(
        "proxy_logme",
        _REAL,
        "LogME of the proxy's source features with its labels, of the same samples: log evidence per sample and class, higher is better. "
        "Null like the distance, for a proxy of one class, and in rows of version 0.1.",
    ),
    Column("proxy_h_score", _REAL, "H-score of the same, from 0 to the number of classes less 1; higher is better."),
    Column(
        "target_logme",
        _REAL,
        "LogME of the target's training samples through the initial embedder, with the target's labels or pseudo labels: the same for all "
        "proxies.",
    ),
    Column("target_h_score", _REAL, "H-score of the same."),
    *_COUNTS,
    Column("seconds", _REAL, "Wall time of the trial, in seconds; with `finetune_fused` its share of that of its group."),
    Column("seconds_pretrain", _REAL, "Seconds this trial spent on pretraining; 0 if all of it was reused."),
    Column("seconds_source", _REAL, "The same for the proxy's features."),
    Column("seconds_align", _REAL, "The same for alignment."),
    Column("seconds_adapt", _REAL, "The same for adaptation to the target's inputs."),
    Column("seconds_finetune", _REAL, "The same for fine-tuning."),
    Column("saved_s", _REAL, "Compute time saved by reuse, in seconds: what the reused stages and epochs took where they were computed."),
    Column(
        "cause",
        _TEXT,
        "Why the trial is not COMPLETE. FAIL: user-error, config, not-finite, data, import, cuda, other-code, other-data, out-of-memory, "
        "disk, store, infrastructure, process-start, timeout. "
        "INTERRUPTED: stopped, infrastructure, out-of-memory. PRUNED: the rule that stopped it.",
    ),
    Column("error", _TEXT, "FAIL and INTERRUPTED: what happened, in one line."),
    Column("traceback", _TEXT, "FAIL: Python's traceback."),
    Column("started_at", _TIME, "Start of the attempt, UTC."),
    Column("ended_at", _TIME, "End of the attempt, UTC; null while it runs."),
    *columns_of(WorkerFacts),
    Column("device", _TEXT, "Device type: cpu or cuda."),
    Column(
        "gpu_share",
        _REAL,
        "Share of a GPU that the trial held when it last started: `resources.gpu`, or what `auto` chose; null on the CPU and without Ray.",
    ),
    Column(
        "gpu_bytes",
        _COUNT,
        "Largest amount of GPU memory that the trial's process had reserved, without CUDA's own, by its last report; null on the CPU, "
        "without Ray, and if the trial computed no epoch of fine-tuning.",
    ),
    Column("gpu_total_bytes", _COUNT, "Memory of the GPU; null likewise."),
    Column("config_hash", _TEXT, "Hash of the canonical config; equal to `trial`."),
    *columns_of(NumericalKind),
    Column(
        "mixed_numerics",
        _FLAG,
        "Whether any reused stage, or part of one, was computed by another processor, instruction set or library version than this trial's "
        "worker, so that its bits may differ; null if the store does not record what computed it (version 0.1). See `stages` for which.",
    ),
)

METRICS: tuple[Column, ...] = (*_ATTEMPT, *columns_of(EpochRow))

STAGES: tuple[Column, ...] = (*_ATTEMPT, *columns_of(StageRow))

PROBES: tuple[Column, ...] = (*_ATTEMPT, *columns_of(ProbeRow), Column("recorded_at", _TIME, "When the row was recorded, UTC."))

TABLES: dict[str, tuple[Column, ...]] = {"trials": TRIALS, "metrics": METRICS, "stages": STAGES, "probes": PROBES}
"""The result tables by name."""

FLOORS: tuple[Column, ...] = (*columns_of(FloorRow), Column("computed_at", _TIME, "When it was computed, UTC."))
"""Columns of the table of floors, which belong to tasks rather than to sweeps."""

FLOOR_IDENTITY = (*FloorCase("").cells(), "model")
"""The columns that tell floors apart. Of rows that agree in them, the latest counts: the others are of other data or versions."""

FLOOR_KEY = (*FLOOR_IDENTITY, "task_digest", "version", "sklearn_version")
"""What the result of a floor depends on; it is computed once for each value."""

_OF_ATTEMPT = tuple(column.name for column in _ATTEMPT)

IDENTITY: dict[str, tuple[str, ...]] = {
    "trials": (*_OF_ATTEMPT, "sequence"),
    "metrics": (*_OF_ATTEMPT, "stage", "phase", "fold", "epoch"),
    "stages": (*_OF_ATTEMPT, "stage", "phase", "fold", "key"),
    "probes": (*_OF_ATTEMPT, "probe", "moment", "layer", "param_group", "setting", "split", "key", "recorded_at"),
}
"""The columns that tell the rows of a table apart. Two rows that agree in them are one row, written twice."""


def schema(table: str) -> pa.Schema:
    """The Arrow schema of a table of `TABLES`, or of `floors`."""
    return pa.schema([(column.name, column.type) for column in (FLOORS if table == "floors" else TABLES[table])])


_INTRODUCTION = """\
# Results

Four tables, stored as Parquet under `<results>/<table>/sweep=<name>/`, and `floors`, under `<results>/floors/`. This page is generated
from `sweeper/results/records.py`.

| View | Rows |
|---|---|
| `trials` | the trials to analyse: in the plan of their sweep and COMPLETE, one row per sweep and trial |
| `distinct_trials` | of these one per `result_key`: a trial that several sweeps share counts once |
| `trial_status` | the latest row of every trial, whatever its status, also if it is no longer planned or [derived](exports.md#soups) |
| `all_trials` | every row that has not been compacted away, earlier attempts included |
| `metrics`, `stages` | epochs and stages of the latest attempt of every trial, whatever its status |
| `probes` | what [probes](probes.md) measured inside the models of these attempts: of each trial, probe and moment what was recorded last |
| `floors` | what models without a transformer reach on each task and split: the latest row of each model; see [floors.md](floors.md) |

All views of trials have the columns of `trials`. A finished trial that a sweep took over from another one stands in both. So name the
sweep in each query, or read `distinct_trials`; and name the task, as errors of different tasks cannot be averaged. To see only the epochs
of finished trials, join: `metrics join trials using (sweep, trial)`.

`sweeper query SQL -o FILE` writes the answer to a file in the format of its suffix: `.csv`, `.json`, `.md`, `.tex` or `.parquet`.
`--format` asks for another one.

A row of `metrics` and `stages` belongs to an *attempt*: a trial that was killed or retried has more than one. SQL shows only the last
attempt, the one with the largest number; and of its rows in `trials`, which record how the status changed (RUNNING, then COMPLETE), only
the last. `run` tells which run of the sweep made the attempt. A sweep has [one driver](running.md#one-driver); if two made the same attempt
all the same, SQL shows that of the later run alone.

Knobs that have no effect in a trial (the proxy, when `align_epochs` is 0) are null.

## Questions

The arms of a sweep on one task, with the mean and the standard error over seeds:

```sql
select align_epochs, freezing, body_weights, avg(test_error) as error,
       sem(test_error) as sem, count(*) as seeds
from trials where sweep = 'quickstart' and task = 'digits'
group by all order by error
```

Alignment against none, paired by seed: both arms of a pair have the same seed and share its draws.

```sql
select freezing, body_weights, count(*) as pairs,
       avg(a.test_error - b.test_error) as difference
from trials a join trials b using (sweep, task, seed, freezing, body_weights)
where sweep = 'quickstart' and task = 'digits'
  and a.proxy = 'photos' and b.align_epochs = 0
group by all order by all
```

The validation error by epoch of fine-tuning:

```sql
select epoch, freezing, avg(metrics.valid_error) as error
from metrics join trials using (sweep, trial)
where sweep = 'quickstart' and task = 'digits' and stage = 'finetune'
group by all order by all
```

Arms beside a floor of their task, on the same split ([floors.md](floors.md) says what each model is):

```sql
select freezing, avg(trials.test_error) as error,
       any_value(floors.test_error) as svm, count(*) as trials
from trials join floors using (task, split_seed)
where sweep = 'quickstart' and task = 'digits' and model = 'svm'
  and floors.train_samples is null
group by all order by error
```

How the trials of a sweep ended, and what could not be finished:

```sql
select status, cause, count(*) as trials
from trial_status where sweep = 'quickstart' and in_plan
group by all order by all
```
"""

_ROWS = {
    "trials": "One row per trial: config, scores, times, provenance, status.",
    "metrics": "One row per trial, stage, fold and epoch. A reused stage has the same rows as the trial that computed it.",
    "stages": "One row per trial, stage and fold (fine-tuning: and phase), computed or reused.",
    "probes": "One row per trial, probe, moment, and layer, group of parameters or setting. See [probes.md](probes.md).",
    "floors": "One row per task, split and model. Only `split_seed`, `train_samples`, `reference_data` and the knobs of validation matter.",
}


def markdown() -> str:
    """The text of `docs/results.md`."""
    parts = [_INTRODUCTION]
    for table, columns in {**TABLES, "floors": FLOORS}.items():
        lines = [f"## {table}", "", _ROWS[table], "", "| Column | Type | Meaning |", "|---|---|---|"]
        lines += [f"| `{column.name}` | {_type_name(column.type)} | {column.meaning.replace('|', chr(92) + '|')} |" for column in columns]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _type_name(kind: pa.DataType) -> str:
    name = str(kind).replace("item: ", "")
    return f"`{name}`" if "<" in name else name  # a browser would take what is in angle brackets for a tag
