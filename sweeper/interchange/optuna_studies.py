"""A sweep as Optuna studies, one for each task, in a SQLite file."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweeper.analysis.factors import KNOB_OF
from sweeper.interchange.sweep import EndedTrial, ExportedSweep
from sweeper.planning.search import distribution_of
from sweeper.space.axes import Axis
from sweeper.space.reading import parse_space


def write(sweep: ExportedSweep, path: Path) -> str:
    """Write the studies `<sweep>/<task>`.

    A trial's parameters are the knobs that tell arms and candidates apart, as far as it reads them; its value is the sweep's metric, after
    each epoch its intermediate value. Its seed and all that seeds set, what it is, where it ran and its scores are user attributes.

    Returns:
        What was written.
    """
    import optuna
    from optuna.exceptions import ExperimentalWarning
    from sqlalchemy.engine import URL

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(URL.create("sqlite", database=str(path)).render_as_string())
    axes = _ranges(sweep)
    try:
        for task, trials in sweep.tasks.items():
            study = optuna.create_study(study_name=f"{sweep.name}/{task}", storage=storage, directions=["minimize"] * len(sweep.metrics))
            with warnings.catch_warnings(category=ExperimentalWarning, action="ignore"):
                study.set_metric_names(sweep.metrics)
            study.set_user_attr("sweep", sweep.name)
            study.set_user_attr("task", task)
            distributions = _distributions(trials, sweep.varied, axes)
            study.add_trials([_frozen(sweep, trial, distributions) for trial in trials])
    finally:
        storage.remove_session()
        storage.engine.dispose()
    return f"{len(sweep.trials)} trials in the studies {', '.join(f'{sweep.name}/{task}' for task in sweep.tasks)}"


def _frozen(sweep: ExportedSweep, trial: EndedTrial, distributions: dict[str, Any]) -> Any:
    from optuna.trial import FrozenTrial, TrialState

    row, metrics = trial.row, sweep.metrics
    state = {"COMPLETE": TrialState.COMPLETE, "PRUNED": TrialState.PRUNED}.get(row["status"], TrialState.FAIL)
    values = [row[metric] for metric in metrics]
    has_values = row["status"] != "FAIL" and all(value is not None and not math.isnan(value) for value in values)
    if row["status"] == "COMPLETE" and not has_values:
        state = TrialState.FAIL  # Optuna knows no complete trial without a value
    params = {knob: _choice(row[column]) for column, knob in KNOB_OF.items() if knob in distributions and row[column] is not None}
    seeds = {column: row[column] for column in sweep.repeated}
    return FrozenTrial(
        number=-1,  # given by the storage, like the id
        trial_id=-1,
        state=state,
        value=None,
        values=values if has_values and state != TrialState.FAIL else None,
        datetime_start=_local(row["started_at"]),
        datetime_complete=_local(row["ended_at"]),
        params=params,
        distributions={knob: distributions[knob] for knob in params},
        user_attrs=trial.facts | seeds | trial.scores,
        system_attrs={},
        intermediate_values=trial.curve(metrics[0]),
    )


def _local(time: Any) -> Any:
    """A time as Optuna keeps it: of this machine's time zone, which it does not say."""
    return time.astimezone().replace(tzinfo=None)


def _ranges(sweep: ExportedSweep) -> dict[str, Axis]:
    """The knobs that were tuned within a range."""
    if not sweep.plan:
        return {}
    space = parse_space(sweep.plan["space"] | {"name": sweep.name})
    return {axis.path: axis for axis in space.axes if axis.kind in ("uniform", "loguniform", "int")}


def _distributions(trials: Sequence[EndedTrial], varied: Sequence[str], axes: dict[str, Axis]) -> dict[str, Any]:
    """Knob -> its distribution: the range of the search, or the values that were tried."""
    from optuna.distributions import CategoricalDistribution

    found = {}
    for column in varied:
        knob = KNOB_OF[column]
        values = [_choice(trial.row[column]) for trial in trials if trial.row[column] is not None]
        if not values:
            continue
        if knob in axes and all(axes[knob].values[0] <= value <= axes[knob].values[1] for value in values):
            found[knob] = distribution_of(axes[knob])
        else:
            found[knob] = CategoricalDistribution(sorted(set(values), key=lambda value: (str(type(value)), value)))
    return found


def _choice(value: Any) -> Any:
    """A value as Optuna takes it: a list as its JSON text."""
    return json.dumps(value) if isinstance(value, list) else value
