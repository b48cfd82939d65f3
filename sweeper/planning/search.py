"""Candidates of an arm: the values that its tuned knobs take.

`random` draws each knob from (seed, candidate, knob), so all arms see the same draws. The other algorithms are Optuna's. What it proposes
as candidate `n` is a pure function of the search and, for those that learn, of the scores of candidates `0` to `n - lag`: every proposal is
made by a new sampler. So a sweep proposes the same candidates after a crash or with another number of machines, and `lag` candidates of an
arm can run at once. Between kinds of processor TPE's proposals can differ in the last bit.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from orca_core.seeding import derive
from sweeper.space.axes import Axis
from sweeper.space.search import SearchConfig

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.samplers import BaseSampler

Values = dict[str, Any]
"""Axis path -> the value a candidate takes."""

Score = tuple[float, ...]
"""The value of each metric of the search, mean over seeds; infinite if a trial failed. Candidates are ranked by the first, then by the
next."""

Earlier = Sequence[tuple[Values, float]]
"""Candidates of earlier sweeps, and their scores."""

_DIGITS = 6
"""Significant digits of the numbers that `gp` proposes. Its linear algebra may differ in the last ones between processors."""


def list_candidates(
    tuned: Sequence[Axis],
    search: SearchConfig,
    scores: Sequence[Score | float | None],
    found: Sequence[Values] = (),
    earlier: Earlier = (),
) -> list[Values]:
    """The candidates of an arm that can be known so far.

    Args:
        tuned: The arm's tuned axes.
        search: Algorithm, number of candidates, seed, lag.
        scores: The metrics of the first candidates, mean over seeds; infinite if a trial failed, None while one is running.
        found: The first candidates, as proposed before from the same scores: saves proposing them again.
        earlier: What earlier sweeps tell, for `tpe` and `gp`.

    Returns:
        All candidates for `grid` (one, with nothing tuned), `random` and `qmc`; of other algorithms those whose history is complete.
    """
    if not tuned:
        return [{}]
    if len(found) == search.trials:
        return list(found)
    if search.algorithm in ("qmc", "cmaes", "nsga2"):
        known_scores = [score for score in takewhile(lambda score: score is not None, scores) if score is not None]
        told = [score if isinstance(score, tuple) else (score,) for score in known_scores]
        number = search.trials if search.algorithm == "qmc" else min(search.trials, len(told) + search.lag)
        return _replay(tuned, search, number, told) if number > len(found) else list(found)
    known = list(found)
    for number in range(len(known), search.trials):
        if search.algorithm == "random":
            known.append(_point(tuned, search, number) or _draw_all(tuned, search.seed, number))
            continue
        history = [score if isinstance(score, tuple) or score is None else (score,) for score in scores[: max(0, number - search.lag + 1)]]
        complete = [score for score in history if score is not None]
        if len(complete) < number - search.lag + 1:
            break
        known.append(_point(tuned, search, number) or _propose(tuned, search, number, known, complete, earlier))
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


def _draw_all(axes: Sequence[Axis], seed: int, number: int) -> Values:
    return {axis.path: draw(axis, seed, number) for axis in axes}


def _point(axes: Sequence[Axis], search: SearchConfig, number: int) -> Values | None:
    """The values of a candidate that the file gives: those it leaves out are drawn. None if it gives none for this number."""
    if number >= len(search.points):
        return None
    given = search.points[number]
    return _draw_all(axes, search.seed, number) | {axis.path: given[axis.path] for axis in axes if axis.path in given}


def _propose(
    axes: Sequence[Axis], search: SearchConfig, number: int, found: Sequence[Values], scores: Sequence[Score], earlier: Earlier
) -> Values:
    """Candidate `number` by an algorithm that has no state but its history: the first `len(scores)` candidates, and those of earlier
    sweeps."""
    import optuna

    seed = derive(search.seed, "search", number)
    sampler: BaseSampler
    if search.algorithm == "tpe":
        sampler = optuna.samplers.TPESampler(seed=seed)
    else:
        sampler = optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)
    study, distributions = _new_study(sampler, 1), {axis.path: _distribution(axis) for axis in axes}
    for values, score in [*earlier, *((values, score[0]) for values, score in zip(found, scores, strict=False))]:
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
    digits = _DIGITS if search.algorithm == "gp" else None
    return {axis.path: _decode(axis, proposal.params[axis.path], digits) for axis in axes}


def _replay(axes: Sequence[Axis], search: SearchConfig, number: int, scores: Sequence[Score]) -> list[Values]:
    """The first candidates by an algorithm that keeps a state: all are proposed once more, each from the scores that it was proposed
    from."""
    from optuna.trial import TrialState

    num_metrics = len(scores[0]) if scores else 1
    study, distributions = _new_study(_sampler(search), num_metrics), {axis.path: _distribution(axis) for axis in axes}
    asked: list[Trial] = []
    for candidate in range(number):
        told = candidate - search.lag
        if search.algorithm == "qmc":  # learns nothing, but takes the axes from a finished trial
            if candidate == 1:
                study.tell(asked[0], 0.0)
        elif told >= 0:
            is_whole = all(map(math.isfinite, scores[told]))
            study.tell(asked[told], list(scores[told]) if is_whole else None, state=None if is_whole else TrialState.FAIL)
        if point := _point(axes, search, candidate):
            study.enqueue_trial({axis.path: _encode(axis, point[axis.path]) for axis in axes})
        asked.append(study.ask(distributions))
    return [{axis.path: _decode(axis, trial.params[axis.path]) for axis in axes} for trial in asked]


def _sampler(search: SearchConfig) -> BaseSampler:
    import optuna

    seed = derive(search.seed, "search")
    samplers: dict[str, Callable[[], BaseSampler]] = {
        "qmc": lambda: optuna.samplers.QMCSampler(scramble=True, seed=seed, warn_independent_sampling=False),
        "cmaes": lambda: optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
        "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=seed, population_size=search.population),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # QMCSampler has been experimental since Optuna 3
        return samplers[search.algorithm]()


def _new_study(sampler: BaseSampler, num_metrics: int) -> Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(directions=["minimize"] * num_metrics, sampler=sampler)


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


def _decode(axis: Axis, value: Any, digits: int | None = None) -> Any:
    if axis.kind == "choice":
        return axis.values[value]
    if digits is None or not isinstance(value, float):
        return value
    return min(max(float(f"{value:.{digits}g}"), axis.values[0]), axis.values[1])


def mean_score(values: Mapping[int, float | None]) -> float | None:
    """A candidate's score: the mean over seeds of its trials' scores. None while one is missing, infinite if one failed."""
    if any(value is None for value in values.values()):
        return None
    finite = [value for value in values.values() if value is not None]
    return math.fsum(finite) / len(finite)
