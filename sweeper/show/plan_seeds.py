"""What a plan says of its seeds: the least difference between two arms that they can show."""

from __future__ import annotations

from collections.abc import Iterator

from sweeper.analysis.detectable import spreads
from sweeper.planning.trials import Plan
from sweeper.results.store import ResultStore

MAX_TASKS = 6
"""Maximum number of tasks with a line of their own."""


def seed_lines(plan: Plan, results: ResultStore) -> Iterator[str]:
    """A line for each task and body: the least difference of test error that the planned seeds show with a probability of 80 %.

    It is for one arm against another in one context, before any correction for the number of verdicts, from the spread in earlier results
    of the same task and body; without any it is unknown.
    """
    looks = plan.space.looks
    seeds = looks[-1] if looks else plan.space.search.replicate or len(plan.space.seeds)
    number = f"up to {seeds}" if looks else str(seeds)
    if seeds < 2:
        yield "one seed: no difference between arms can be told from chance"
        return
    pairs = list(dict.fromkeys((trial.config.task, trial.config.body.name) for trial in plan.trials))
    known = spreads(results, pairs)
    unknown = [task for task, body in pairs if (task, body) not in known]
    for task, body in [pair for pair in pairs if pair in known][:MAX_TASKS]:
        spread = known[task, body]
        least = spread.detectable(seeds)
        half = spread.seeds_for(least / 2)
        more = f"; half of that takes {half}" if half is not None else ""
        yield (
            f"{number} seeds show differences of test error from {least:.2g} on {task} with {body} "
            f"(one verdict with 80 % power; {spread.arms} earlier arms){more}"
        )
    if unknown:
        names = ", ".join(dict.fromkeys(unknown[:MAX_TASKS])) + (", ..." if len(unknown) > MAX_TASKS else "")
        yield f"{number} seeds; the least difference that they show is unknown on {names}: no earlier results of this task and body"
