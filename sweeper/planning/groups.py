"""How trials fill the groups in which they train as one model (`finetune.fused`): a group costs what a full one does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sweeper.planning.trials import PlannedTrial


@dataclass(frozen=True)
class Alike:
    """Trials that can share groups.

    Args:
        first: One of them.
        number: How many they are.
    """

    first: PlannedTrial
    number: int

    @property
    def width(self) -> int:
        """Number of members of a full group."""
        return self.first.config.finetune.fused

    @property
    def groups(self) -> int:
        """Number of groups, if all of them wait at once."""
        return -(-self.number // self.width)

    @property
    def fill(self) -> float:
        """Share of the places in these groups that are taken, in (0, 1]; the others are filled with copies."""
        return self.number / (self.groups * self.width)


def find_alike(trials: Iterable[PlannedTrial]) -> dict[str, Alike]:
    """What trials can share a group by (`PlannedTrial.group`) -> those trials; without those that train alone."""
    counts, first = Counter[str](), dict[str, PlannedTrial]()
    for trial in trials:
        if trial.group is not None:
            counts[trial.group] += 1
            first.setdefault(trial.group, trial)
    return {group: Alike(first[group], number) for group, number in counts.items()}


def padding(trial: PlannedTrial, alike: Mapping[str, Alike]) -> float:
    """How many times its share of a full group a trial costs, as some places of its groups are filled with copies; at least 1."""
    return 1.0 if trial.group is None else 1 / alike[trial.group].fill
