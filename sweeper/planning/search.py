"""Candidates of an arm: the values that its tuned knobs take.

`random` draws each knob from (seed, candidate, knob), so all arms see the same draws. `tpe` asks Optuna: candidate `n` is a
pure function of the scores of candidates `0` to `n - lag`. So a sweep proposes the same candidates on other machines or after a crash, and
`lag` candidates of an arm can run at the same time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from orca_core.seeding import derive
from sweeper.space.axes import Axis
from sweeper.space.file import SearchConfig

Values = dict[str, Any]
"""Axis path -> the value a candidate takes."""


def list_candidates(
    tuned: Sequence[Axis], search: SearchConfig, scores: Sequence[float | None], found: Sequence[Values] = ()
) -> list[Values]:
    """The candidates of an arm that can be known so far.

    Args:
        tuned: The arm's tuned axes.
        search: Algorithm, number of candidates, seed, lag.
        scores: The metric of the first candidates, mean over seeds; infinite if a trial failed, None while one is running.
        found: The first candidates, as proposed before from the same scores: saves proposing them again.

    Returns:
        All candidates for `grid` (one, with nothing tuned) and `random`; for `tpe` those whose history is complete.
    """
    if not tuned:
        return [{}]
    if search.algorithm == "random":
        return [{axis.path: draw(axis, search.seed, number) for axis in tuned} for number in range(search.trials)]
    known = list(found)
    for number in range(len(known), search.trials):
        history = list(scores[: max(0, number - search.lag + 1)])
        if len(history) < number - search.lag + 1 or None in history:
            break
        known.append(_propose(tuned, search.seed, number, known, [score for score in history if score is not None]))
    return known


def draw(axis: Axis, seed: int, number: int) -> Any:
    """The value of one axis in candidate `number` of a random search."""
    share = derive(seed, "search", number, axis.path) / 2**32
    if axis.kind == "choice":
        return axis.values[int(share * len(axis.values))]
    low, high = axis.values
    if axis.kind == "int":
        if axis.log:
            return min(high, int(math.exp(math.log(low) + share * (math.log(high + 1) - math.log(low)))))
        return low + axis.step * int(share * ((high - low) // axis.step + 1))
    if axis.log:
        return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return low + share * (high - low)


def _propose(axes: Sequence[Axis], seed: int, number: int, found: Sequence[Values], scores: Sequence[float]) -> Values:
    """Candidate `number` by TPE, from the first `len(scores)` candidates."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A new sampler for every candidate: what it draws depends only on seed, number and history, not on earlier calls.
    sampler = optuna.samplers.TPESampler(seed=derive(seed, "search", number))
    study = optuna.create_study(direction="minimize", sampler=sampler)
    distributions = {axis.path: _distribution(axis) for axis in axes}
    for values, score in zip(found, scores, strict=False):
        failed = not math.isfinite(score)
        study.add_trial(
            optuna.trial.create_trial(
                params={axis.path: _encode(axis, values[axis.path]) for axis in axes},
                distributions=distributions,
                value=None if failed else score,
                state=optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE,
            )
        )
    proposal = study.ask(distributions)
    return {axis.path: _decode(axis, proposal.params[axis.path]) for axis in axes}


def _distribution(axis: Axis) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if axis.kind == "choice":
        return CategoricalDistribution(range(len(axis.values)))  # by position: a level may be a list or a mapping
    low, high = axis.values
    if axis.kind == "int":
        return IntDistribution(low, low + (high - low) // axis.step * axis.step, log=axis.log, step=axis.step)
    return FloatDistribution(low, high, log=axis.log)


def _encode(axis: Axis, value: Any) -> Any:
    return axis.values.index(value) if axis.kind == "choice" else value


def _decode(axis: Axis, value: Any) -> Any:
    return axis.values[value] if axis.kind == "choice" else value


def mean_score(values: Mapping[int, float | None]) -> float | None:
    """A candidate's score: the mean over seeds of its trials' scores. None while one is missing, infinite if one failed."""
    if any(value is None for value in values.values()):
        return None
    finite = [value for value in values.values() if value is not None]
    return math.fsum(finite) / len(finite)
