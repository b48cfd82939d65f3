"""What a plan and a run say of a sweep's question: the trials that it takes, and the verdicts so far."""

from __future__ import annotations

from collections.abc import Iterator

from sweeper.analysis.detectable import spreads
from sweeper.analysis.factors import spell_value
from sweeper.analysis.paired import NO_DIFFERENCE, UNDECIDED
from sweeper.analysis.sequential import Decision
from sweeper.analysis.sweep_rows import SweepRows, read_sweep_rows
from sweeper.planning.deciding import ContrastName
from sweeper.planning.outlook import expect_trials, find_known
from sweeper.planning.planner import Planner
from sweeper.results.workspace import Workspace
from sweeper.space.space import SearchSpace

MAX_LINES = 30
"""Maximum number of contrasts that are listed."""


def question_lines(planner: Planner, workspace: Workspace) -> Iterator[str]:
    """What is asked, how many trials that takes, and the verdicts so far; a statement a line. Nothing without a question."""
    space = planner.space
    if space.question is None:
        return
    yield describe_question(space, len(planner.contrasts))
    if not planner.contrasts:
        yield f"no two arms of a task differ in {space.question.factor} alone: `sweeper compare` will have nothing to pair"
    if planner.deciding is None:
        return
    looks = ", ".join(map(str, space.looks[:-1])) + f" and {space.looks[-1]}" if len(space.looks) > 1 else str(space.looks[0])
    yield f"at least {planner.least_trials} trials, at most {planner.most_trials}: open contrasts are tested after {looks} seeds"
    if planner.deciding.open_arms:
        yield _describe_expected(planner, workspace)
    yield from decision_lines(planner)


def _describe_expected(planner: Planner, workspace: Workspace) -> str:
    """The expected number of trials, from earlier results of the same tasks."""
    space, names = planner.space, list(planner.contrasts)
    assert space.question is not None
    tasks, metric = {name.task for name in names}, space.question.metric
    bodies = [(trial.config.task, trial.config.body.name) for trial in planner.plan.trials]
    known = find_known(space, names, earlier_sweeps(workspace, tasks, metric), spreads(workspace.results, dict.fromkeys(bodies), metric))
    unknown = sorted({name.task for name in names if name not in known})
    if unknown:
        return f"the expected number is unknown: there are no earlier results of {', '.join(unknown)} from which pairs can be made"
    expected = expect_trials(space, planner.contrasts, known, planner.arm_keys)
    supposed = sum(of.pairs == 0 for of in known.values())
    source = f"earlier results of {len(known) - supposed} of the {len(known)} contrasts" if supposed < len(known) else ""
    guess = "the spread of other arms of these tasks, if there are no differences" if supposed else ""
    return f"about {expected:.0f} trials are expected, from {' and '.join(filter(None, [source, guess]))}"


def earlier_sweeps(workspace: Workspace, tasks: set[str], metric: str) -> list[SweepRows]:
    """The sweeps in the results that have trials of some tasks."""
    results = workspace.results
    if not results.exists():
        return []
    found = {row["sweep"] for row in results.live_trials(columns=["sweep", "task"]) if row["task"] in tasks}
    return [read_sweep_rows(results, sweep, [metric]) for sweep in sorted(found)]


def decision_lines(planner: Planner) -> Iterator[str]:
    """The state of each contrast that was tested, a line each."""
    states = planner.deciding.decisions.items() if planner.deciding is not None else ()
    tested = [(name, decision) for name, decision in states if decision.seeds]
    for name, decision in tested[:MAX_LINES]:
        yield f"{name_contrast(planner.space, name)}: {_describe(decision)}"
    if len(tested) > MAX_LINES:
        yield f"and {len(tested) - MAX_LINES} more contrasts"


def describe_question(space: SearchSpace, num_contrasts: int) -> str:
    """What is asked, in a line."""
    question = space.question
    assert question is not None
    within = f", within each {question.within}" if question.within else ""
    margin = question.margin if isinstance(question.margin, str) else f"{question.margin:g}"
    return (
        f"{question.metric} of each {question.factor} against {spell_value(question.baseline)}, by task{within}: "
        f"{num_contrasts} contrast{'' if num_contrasts == 1 else 's'}, margin {margin}, alpha {question.alpha:g}"
    )


def name_contrast(space: SearchSpace, name: ContrastName) -> str:
    """A contrast in words: `digits: align.epochs 10 against 0`."""
    question = space.question
    assert question is not None
    within = f", {question.within} {spell_value(name.within)}" if question.within else ""
    return f"{name.task}{within}: {question.factor} {spell_value(name.level)} against {spell_value(question.baseline)}"


def _describe(decision: Decision) -> str:
    p = f", p {decision.p_adjusted:.2g}" if decision.p_adjusted is not None and decision.verdict != NO_DIFFERENCE else ""
    if decision.verdict != UNDECIDED:
        return f"{decision.verdict} after {decision.seeds} seeds{p}"
    if decision.is_open:
        return f"open after {decision.seeds} seeds{p}"
    needed = f"about {decision.seeds_needed} seeds" if decision.seeds_needed is not None else "more than 1000 seeds"
    return f"undecided after {decision.seeds} seeds{p}; it would take {needed}"
