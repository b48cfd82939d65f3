"""The machines that run trials: which there are, what became of trials on each, and which of them should get no more.

A node that cannot do its work (no data, no store, a GPU that fell off the bus, other code) fails faster than others work, so it would take
the whole queue. So failures for which a node may be to blame are counted by node, and such a trial is tried on another node first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

NODE_CAUSES = frozenset({"data", "other-data", "store", "cuda", "import", "other-code", "process-start", "disk"})
"""Causes of failure for which the machine may be to blame rather than the trial."""

MAX_NODE_FAULTS = 2
"""How many trials in a row may fail in this way on a node before it gets no more."""

MAX_FAULTS = 3
"""How many trials in a row may fail in this way on all nodes together, with none completed, before the sweep ends."""


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster, as it is now.

    Args:
        id: Its id in Ray.
        host: Its host name.
        slots: How many trials fit on it at once.
        is_draining: Whether it is about to be taken away.
    """

    id: str
    host: str
    slots: int = 1
    is_draining: bool = False


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A node that gets no more trials.

    Args:
        node: Its id.
        host: Its host name.
        cause: One of `NODE_CAUSES`.
        why: What happened, in one line.
    """

    node: str
    host: str
    cause: str
    why: str


@dataclass
class _Record:
    """What became of trials on a node.

    Args:
        host: Its host name.
        completed: Number of trials that ended well on it.
        faults: Failures in a row for which it may be to blame.
        excluded: Why it gets no more trials; empty if it does.
        cause: The cause of that, one of `NODE_CAUSES`.
        was_draining: Whether it was about to be taken away when it was last seen.
    """

    host: str
    completed: int = 0
    faults: int = 0
    excluded: str = ""
    cause: str = ""
    was_draining: bool = False


@dataclass
class Nodes:
    """The machines of a run. Before anything is known about them they are taken to be one machine that stays.

    Attributes:
        joined, lost: How many nodes joined after the first look, and how many were lost, drained ones included.
        version: A number that changes whenever the answers of `avoided` may.
    """

    joined: int = 0
    lost: int = 0
    version: int = 0
    _current: dict[str, Node] = field(default_factory=dict)
    _gone: set[str] = field(default_factory=set)
    _records: dict[str, _Record] = field(default_factory=dict)
    _failed_on: dict[str, set[str]] = field(default_factory=dict)  # trial -> nodes on which it failed in a way that may be the node's fault
    _places: dict[str, str] = field(default_factory=dict)  # trial -> node that runs it
    _faults: int = 0
    _has_completed: bool = False
    _was_seen: bool = False

    # ------------------------------------------------------------------------------------------------------- which there are

    def see(self, nodes: Iterable[Node]) -> None:
        """Take in which nodes there are now."""
        current = {node.id: node for node in nodes}
        if self._was_seen:
            self.joined += len(current.keys() - self._current.keys())
            self.lost += len(self._current.keys() - current.keys())
        self._gone = (self._gone | self._current.keys()) - current.keys()
        self.version += current != self._current
        self._current, self._was_seen = current, True
        for node in current.values():
            record = self._records.setdefault(node.id, _Record(node.host))
            record.was_draining = node.is_draining

    @property
    def count(self) -> int:
        """Number of nodes on which trials can run now."""
        return len(self._usable())

    @property
    def slots(self) -> int:
        """How many trials fit at once on the nodes that can be used."""
        return sum(node.slots for node in self._usable())

    @property
    def unusable(self) -> frozenset[str]:
        """Ids of the nodes that should get no more trials: draining ones, and those excluded for their failures."""
        draining = {node.id for node in self._current.values() if node.is_draining}
        return frozenset(draining | {id for id in self._current if self._records[id].excluded})

    @property
    def excluded(self) -> Mapping[str, str]:
        """Host name of each node that gets no more trials because of its failures -> why."""
        return {self._records[id].host: self._records[id].excluded for id in self._current if self._records[id].excluded}

    @property
    def draining(self) -> list[str]:
        """Host names of the nodes that are about to be taken away."""
        return sorted(node.host for node in self._current.values() if node.is_draining)

    def is_fit(self, node_id: str) -> bool:
        """Whether a process on a node may get another trial: the node is there still, and can be used."""
        node, record = self._current.get(node_id), self._records.get(node_id)
        is_leaving = node_id in self._gone or (node is not None and node.is_draining)
        return not is_leaving and (record is None or not record.excluded)

    @property
    def exclusions(self) -> list[Exclusion]:
        """The nodes of the cluster that get no more trials, by host name."""
        records = [(id, self._records[id]) for id in self._current if self._records[id].excluded]
        return sorted((Exclusion(id, one.host, one.cause, one.excluded) for id, one in records), key=lambda one: (one.host, one.node))

    @property
    def is_empty(self) -> bool:
        """Whether no node is there on which trials fit, not even one that may not be used."""
        return not self._current

    def exclude(self, node_id: str, why: str, cause: str) -> None:
        """Give a node no more trials, for example because a check found its data missing.

        Args:
            node_id: The node.
            why: What is wrong there, in one line.
            cause: One of `NODE_CAUSES`.
        """
        record = self._records.setdefault(node_id, _Record(node_id[:8]))
        record.excluded, record.cause = why, cause
        self.version += 1

    def include(self, node_id: str) -> None:
        """Give a node trials again, since what was wrong there has been mended."""
        if (record := self._records.get(node_id)) is not None and record.excluded:
            record.excluded, record.cause, record.faults = "", "", 0
            self.version += 1

    def host(self, node_id: str | None) -> str:
        """The host name of a node."""
        record = self._records.get(node_id or "")
        return record.host if record else "unknown"

    # ----------------------------------------------------------------------------------------------- what became of trials

    def place(self, trial_id: str, node_id: str | None) -> None:
        """Record on which node a trial runs; None if that is unknown."""
        if node_id is not None:
            self._places[trial_id] = node_id
            self._records.setdefault(node_id, _Record(node_id[:8]))

    def node_of(self, trial_id: str) -> str | None:
        """The node that runs a trial, if that is known."""
        return self._places.get(trial_id)

    def must_leave(self, trial_id: str) -> bool:
        """Whether a running trial should go on elsewhere, since its node is about to be taken away."""
        node = self._current.get(self._places.get(trial_id, ""))
        return node is not None and node.is_draining

    def was_draining(self, node_id: str | None) -> bool:
        """Whether a node is about to be taken away, or was so when it was last seen."""
        record = self._records.get(node_id or "")
        return record is not None and record.was_draining

    def avoided(self, trial_id: str) -> frozenset[str]:
        """Nodes on which a trial must not start: unusable ones and, as long as there are others, those on which it failed."""
        failed_on = self._failed_on.get(trial_id, set())
        others = any(node.id not in failed_on for node in self._usable())
        return self.unusable | (failed_on & self._current.keys() if others else frozenset())

    def complete(self, trial_id: str, *, is_well: bool = True) -> None:
        """Record that a trial ended well or, if not `is_well`, by an error of its own, for which no node is to blame."""
        record = self._records.get(self._places.get(trial_id, ""))
        if record is not None:
            record.completed += is_well
            record.faults = 0
        self._faults, self._has_completed = 0, self._has_completed or is_well

    def blame(self, trial_id: str, cause: str, error: str, *, counts: bool = True) -> bool:
        """Record a failure for which the node may be to blame.

        Args:
            trial_id: The trial that failed.
            cause: One of `NODE_CAUSES`.
            error: The error in one line.
            counts: Whether it is a failure of its own, not that of a trial in the same process.

        Returns:
            Whether the trial should be tried on another node; if not, the failure is the trial's.
        """
        node_id = self._places.get(trial_id)
        record = self._records.get(node_id or "")
        if node_id is None or record is None:
            self._faults += counts
            return False
        record.faults += counts
        self.version += 1
        failed_on = self._failed_on.setdefault(trial_id, set())
        failed_on.add(node_id)
        others_work = any(other.completed for id, other in self._records.items() if id != node_id)
        if cause == "other-code" or (record.faults >= MAX_NODE_FAULTS and others_work):
            record.excluded, record.cause = error, cause
        if record.completed == 0 and others_work:
            return True
        others = [node for node in self._usable() if node.id not in failed_on]
        # A trial that failed on two nodes that completed others is to blame itself.
        is_own = sum(self._records[id].completed > 0 for id in failed_on if id in self._records) >= 2
        if others and not is_own:
            return True
        self._faults += counts
        return False

    @property
    def is_hopeless(self) -> bool:
        """Whether no node can do the work: several trials in a row failed on all of them, and none has completed."""
        return not self._has_completed and self._faults >= MAX_FAULTS

    def forget(self, trial_id: str) -> None:
        """Forget a trial that has ended."""
        self._places.pop(trial_id, None)
        self._failed_on.pop(trial_id, None)

    def leave(self, trial_id: str) -> None:
        """Record that a trial runs on no node now."""
        self._places.pop(trial_id, None)

    def _usable(self) -> list[Node]:
        return [node for node in self._current.values() if not node.is_draining and not self._records[node.id].excluded]
