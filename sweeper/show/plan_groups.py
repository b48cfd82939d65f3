"""What a plan says of the groups in which trials train as one model (`finetune.fused`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sweeper.planning.cost import CostModel
from sweeper.planning.groups import Alike, find_alike
from sweeper.planning.trials import PlannedTrial

LEAST_FILL = 0.75
"""Share of the places in groups that are taken, below which the plan warns."""


def group_lines(todo: Sequence[PlannedTrial], costs: CostModel, slots: int) -> Iterator[str]:
    """How many groups the trials to run form, and which of these cannot be filled; a statement a line, none if no trial is fused.

    Args:
        todo: The trials to run.
        costs: Estimates durations.
        slots: How many trials or groups run at once.
    """
    alike = list(find_alike(todo).values())
    if not alike:
        return
    trials, groups = sum(one.number for one in alike), sum(one.groups for one in alike)
    widths = ", ".join(str(width) for width in sorted({one.width for one in alike}))
    filled = trials / sum(one.groups * one.width for one in alike)
    many, several = _count(trials, "trial"), _count(groups, "group")
    yield f"Groups   {many} in {several} of up to {widths}, each on one slot; {filled:.0%} of the places are taken"
    for one in alike:
        if one.fill < LEAST_FILL:
            yield f"Warning  {_warning(one, costs)}"
    if groups < slots and trials == len(todo):
        yield f"Warning  {several} cannot use {slots} slots: with a smaller finetune.fused there are more"


def _warning(alike: Alike, costs: CostModel) -> str:
    config, alone = alike.first.config, costs.alone(alike.first)
    many = "a single trial fills" if alike.number == 1 else f"only {alike.number} trials can train together, which fill"
    text = f"{config.task}, {config.body.name}, {config.freezing}: {many} {alike.fill:.0%} of {_groups(alike)}: the rest is copies"
    grouped = sum(costs.seconds(alike.first, stage) for stage in alike.first.finetuning) / alike.fill
    if grouped >= alone:
        return f"{text}. That is no faster than finetune.fused: 0; take a width that they fill"
    return f"{text}. A width that they fill costs less"


def _count(number: int, of: str) -> str:
    return f"{number} {of}{'' if number == 1 else 's'}"


def _groups(alike: Alike) -> str:
    return f"a group of {alike.width}" if alike.groups == 1 else f"{alike.groups} groups of {alike.width}"
