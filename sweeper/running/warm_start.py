"""What a sweep learns from earlier ones: the candidates of the same arms, as they were when it was first run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from orca_core.config.paths import flatten
from orca_core.errors import ConfigError, Fault
from orca_core.identity import CanonicalConfig
from sweeper.analysis.candidates import Candidate, read_arms
from sweeper.planning.planned_arm import arm_key
from sweeper.planning.search import Earlier, Values
from sweeper.results.store import ResultStore
from sweeper.space.axes import Axis
from sweeper.space.space import SearchSpace


def recall_candidates(space: SearchSpace, results: ResultStore) -> Mapping[str, Earlier]:
    """Key of an arm -> what the sweeps of `search.warm_start` know of it.

    The first plan that is stored with these sweeps fixes it: what they add later would change proposals of candidates that have run.

    Raises:
        ConfigError: If one of them is unknown, or is ranked by another metric.
    """
    names = list(space.search.warm_start)
    if not names:
        return {}
    for plan in sorted(results.plans(space.name).values(), key=lambda plan: float(plan["made_at"])):
        if plan.get("warm_start", {}).get("sweeps") == names:
            return {arm: [(values, score) for values, score in known] for arm, known in plan["warm_start"]["candidates"].items()}
    arms = {arm_key(space, arm, CanonicalConfig.of(arm.config)): arm for arm in space.arms() if arm.tuned}
    found: dict[str, list[tuple[Values, float]]] = {}
    for name in names:
        results.check_sweep(name, "search.warm_start")
        sweep = read_arms(results, name)
        if sweep.metric != space.metric:
            rule = f"must name sweeps that are ranked by {space.metric}"
            raise ConfigError([Fault("search.warm_start", rule, f"{name}, by {sweep.metric}")], space.file)
        for arm in sweep.arms:
            for candidate in arm.candidates if arm.id in arms else ():
                values = _values_of(arms[arm.id].tuned, candidate)
                if values is not None and candidate.state == "COMPLETE":
                    scores = [candidate.rows[seed][space.metric] for seed in sorted(candidate.seeds)]
                    found.setdefault(arm.id, []).append((values, math.fsum(scores) / len(scores)))
    return found


def _values_of(axes: tuple[Axis, ...], candidate: Candidate) -> Values | None:
    """The values of a candidate on the axes of another sweep; None if it does not lie on them."""
    found: Values = {}
    for axis in axes:
        if axis.kind == "choice":
            levels = [level for level in axis.values if _has(candidate, flatten({axis.path: level}))]
            if not levels:
                return None
            found[axis.path] = levels[0]
            continue
        value, (low, high) = candidate.cells.get(axis.path.replace(".", "_")), axis.values
        if value is None or not low <= value <= high or (axis.kind == "int" and (value - low) % axis.step):
            return None
        found[axis.path] = value
    return found


def _has(candidate: Candidate, knobs: Mapping[str, Any]) -> bool:
    return all(candidate.cells.get(knob.replace(".", "_")) == value for knob, value in knobs.items())
