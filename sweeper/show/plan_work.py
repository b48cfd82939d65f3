"""What a plan says of the work to do: what each trial asks for, and how long it takes on how many slots."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from sweeper.planning.cost import CostModel
from sweeper.planning.forecast import forecast
from sweeper.planning.order import estimated_once, longest_path_first
from sweeper.planning.trials import PlannedTrial
from sweeper.running.packing import Packing
from sweeper.running.reconcile import Reconciliation
from sweeper.show.plan_groups import group_lines
from sweeper.space.space import SearchSpace


def work_lines(
    found: Reconciliation, todo: Sequence[PlannedTrial], costs: CostModel, slots: Sequence[int] = (), packing: Packing | None = None
) -> Iterator[str]:
    """What trials ask for, their work, and the time it takes; a statement a line.

    Args:
        found: The plan and its results.
        todo: The trials to run, at least one.
        costs: Estimates durations.
        slots: Numbers of slots, of a cluster for instance, for which to estimate the time beside this machine's.
        packing: Knows how many trials share a GPU; None = one that knows of no earlier trials.
    """
    space, known_at = found.plan.space, found.plan.keep_at
    seconds = estimated_once(costs.seconds)
    ordered = longest_path_first(todo, seconds, cohort_of=found.stopping.cohort_of if found.stopping else None)
    alone, once, measured = costs.totals(todo, seconds)
    about = "about" if space.scheduler.name == "fifo" else "at most about"

    def time_on(width: int) -> str:
        return f"{about} {format_duration(forecast(ordered, seconds, width, known_at))}"

    spent = f"{format_duration(once)} of one slot, {1 - once / alone:.0%} less than the {format_duration(alone)} without sharing"
    source = f"{measured:.0%} of it estimated from measured stages" if measured else "a guess: no similar stage was measured yet"
    here = local_slots(space)
    yield f"Needs    each trial {space.resources.describe()}"
    yield from group_lines(todo, costs, here)
    yield f"Work     {f'{about} ' if here == 1 else f'{time_on(here)} on the {here} slots of this machine: '}{spent} ({source})"
    shortest = forecast(ordered, seconds, len(ordered), known_at)
    widths = "".join(f"{time_on(width)} on {width} slot{'s' if width > 1 else ''}, " for width in slots)
    later = f"; without the {found.plan.proposed_later} trials that are proposed later" if found.plan.proposed_later else ""
    busy = f"{once / shortest:.0f}"
    slots_busy = f"{busy} slot{'' if busy == '1' else 's'} busy on average"
    yield f"Time     {widths}at best about {format_duration(shortest)}, with {slots_busy}{later}"
    if space.resources.most_gpu:
        yield f"GPUs     {_describe_gpus(todo, costs, packing or Packing(space.resources), once, about)}"


def _describe_gpus(todo: Sequence[PlannedTrial], costs: CostModel, packing: Packing, once: float, about: str) -> str:
    """GPU-hours of trials whose distinct stages take `once` seconds, and how many trials share a GPU if that is measured."""
    packing.expect(todo)
    seconds = [costs.trial_seconds(trial) for trial in todo]
    share = sum(packing.share(trial) * each for trial, each in zip(todo, seconds, strict=True)) / sum(seconds)
    hours = share * once / 3600
    if packing.has_unmeasured:
        about = "at most about"
    text = f"{about} {hours:.{1 if hours >= 1 else 3}f} GPU-hours"
    return f"{text}, {shared}" if (shared := packing.describe()) else text


def format_duration(seconds: float) -> str:
    """A duration in hours, minutes or seconds."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def local_slots(space: SearchSpace) -> int:
    """How many trials of a space run at once on this machine, by its CPUs; 1 for trials on GPUs, which are not counted here."""
    return 1 if space.resources.most_gpu else max(1, int((os.cpu_count() or 1) // space.resources.cpu))
