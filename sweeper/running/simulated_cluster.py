"""The machines of a simulated run: they join, are taken away with or without notice, and some of them cannot do their work."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from random import Random

from sweeper.running.nodes import Node

NOTICE_S = 20.0
"""Seconds from the notice that a machine will be taken away until it is gone."""

MOST_NODES = 5
"""Most machines at once."""


@dataclass(frozen=True)
class NodeChances:
    """What happens to machines, as probabilities per report of a worker.

    Args:
        joins: Another one joins.
        drains: One is about to be taken away.
        dies: One is taken away without notice.
        sick: Of a machine that joins, that it fails every trial for want of the data.
    """

    joins: float = 0.0
    drains: float = 0.0
    dies: float = 0.0
    sick: float = 0.0


class SimulatedCluster:
    """Machines that come and go.

    Args:
        random: Source of all randomness.
        chances: What happens to machines.
        schedule: Called with seconds and what shall happen after them.
        changed: Called when the machines have changed.
        lose: Called with the id of a trial whose machine is gone, and the id of the machine.

    Attributes:
        sick: Ids of the machines that fail every trial.
        placed: Trial -> machine that runs it.
    """

    def __init__(
        self,
        random: Random,
        chances: NodeChances,
        schedule: Callable[[float, Callable[[], None]], None],
        changed: Callable[[], None],
        lose: Callable[[str, str], None],
    ) -> None:
        self._random, self._chances, self._schedule, self._changed, self._lose = random, chances, schedule, changed, lose
        self._nodes: dict[str, Node] = {}
        self._number = 0
        self.sick: set[str] = set()
        self.placed: dict[str, str] = {}

    def nodes(self) -> list[Node]:
        """The machines there are now."""
        return list(self._nodes.values())

    def find_place(self, avoided: Iterable[str]) -> str | None:
        """A machine with a free slot, none of those to avoid; None if there is none."""
        used = list(self.placed.values())
        free = [id for id, node in self._nodes.items() if id not in avoided and used.count(id) < node.slots]
        return self._random.choice(free) if free else None

    def join(self) -> None:
        """Let a machine join. The first ones are well, so that there is always one that can do the work."""
        self._number += 1
        name = f"node-{self._number}"
        if self._number > 2 and self._random.random() < self._chances.sick:
            self.sick.add(name)
        self._nodes[name] = Node(name, name, self._random.randint(1, 2))
        self._changed()

    def happen(self) -> None:
        """Let happen what may, and replace machines when there is no well one left."""
        random, chances = self._random, self._chances
        if random.random() < chances.joins and len(self._nodes) < MOST_NODES:
            self.join()
        if self._nodes and random.random() < chances.drains:
            self._drain(random.choice(list(self._nodes)))
        if self._nodes and random.random() < chances.dies:
            self._remove(random.choice(list(self._nodes)))

    def _drain(self, name: str) -> None:
        if self._nodes[name].is_draining:
            return
        self._nodes[name] = replace(self._nodes[name], is_draining=True)
        self._schedule(NOTICE_S, lambda: self._remove(name))
        self._changed()

    def _remove(self, name: str) -> None:
        if self._nodes.pop(name, None) is None:
            return
        for trial_id in [trial_id for trial_id, place in self.placed.items() if place == name]:
            self._lose(trial_id, name)
        self._changed()
        if not [id for id, node in self._nodes.items() if id not in self.sick and not node.is_draining]:
            self._schedule(NOTICE_S, self.join)
