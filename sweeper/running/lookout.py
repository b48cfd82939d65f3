"""Looks at a run every few seconds: which machines there are, whether they have what trials need, and what keeps it from going on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sweeper.running.aside import Aside
from sweeper.running.nodes import Node
from sweeper.running.obstacles import AutoscalerState, Sight, describe_lack, find_reasons
from sweeper.running.reasons import Reasons
from sweeper.running.session import Session

IDLES_S = 15.0
"""Seconds for which trials wait for room, with nothing being started, before the autoscaler counts as being at its limit."""

SKEW_EVERY_S = 600.0
"""Seconds between two comparisons of the clocks."""


class Cluster(Protocol):
    """The machines, as the lookout sees them."""

    def nodes(self, gpu: float | None = None) -> list[Node]:
        """The machines on which a trial fits that asks for a share of a GPU; None = for what the sweep's `resources` say."""

    def unfit(self) -> list[str]:
        """The machines that have CPUs and on which no trial fits, and what they have."""

    def autoscaler(self) -> AutoscalerState | None:
        """The state of the autoscaler; None if there is none."""

    @property
    def address(self) -> str:
        """The address at which further nodes join; empty if it is unknown."""


@dataclass(frozen=True)
class NodeResult:
    """What a check of a machine found.

    Args:
        node: Id of the machine.
        cause: Why it cannot run trials, one of `NODE_CAUSES`; empty if it can.
        why: What is wrong, in one line.
    """

    node: str
    cause: str = ""
    why: str = ""


class NodeChecks(Protocol):
    """Checks of the machines, made in the background."""

    def look(self, nodes: Iterable[Node]) -> Iterable[NodeResult]:
        """Check those that have not been checked; returns what has been found since the last call."""

    @property
    def unanswered(self) -> Sequence[str]:
        """Host names of the machines that have not answered for long."""


class Lookout:
    """Looks at a run.

    Args:
        session: The run.
        cluster: Its machines.
        reasons: Where what is found is told.
        checks: Checks of the machines; None = they are not checked.
        wait_minutes: How long to wait for a first worker: one that may run trials, as long as no trial has got anywhere.
        skew: Measures by how many seconds the clock of this machine is ahead; None = is not measured.
        clock: Monotonic clock, in seconds.
    """

    def __init__(
        self,
        session: Session,
        cluster: Cluster,
        reasons: Reasons,
        *,
        checks: NodeChecks | None = None,
        wait_minutes: float = 15.0,
        skew: Callable[[], float | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session, self._cluster, self._reasons, self._checks, self._clock = session, cluster, reasons, checks, clock
        self._wait_s, self._without_since = 60 * wait_minutes, clock()
        self._idle_since: float | None = None
        self._found_wrong: set[str] = set()
        self._skew = Aside(skew, SKEW_EVERY_S, "clock-skew", clock) if skew is not None else None

    def look(self) -> None:
        """Tell the session what there is, and tell what keeps it from going on. Takes some milliseconds."""
        session, autoscaler = self._session, self._cluster.autoscaler()
        nodes = self._cluster.nodes(session.packing.smallest)
        session.see(nodes, may_grow=autoscaler is not None)
        if self._checks is not None:
            results = list(self._checks.look(nodes))
            for result in results:
                if result.cause:
                    session.nodes.exclude(result.node, result.why, result.cause)
                    self._found_wrong.add(result.node)
                elif result.node in self._found_wrong:  # not one that was excluded for what became of trials there
                    session.nodes.include(result.node)
                    self._found_wrong.discard(result.node)
            if results:
                session.see(nodes, may_grow=autoscaler is not None)
        session.processes.find_hung()
        session.recorder.look()
        if session.nodes.slots > 0:
            self._without_since = self._clock()
        left_s = max(0.0, self._without_since + self._wait_s - self._clock()) if self._waits_for_first() else None
        sight = Sight(
            unfit=self._cluster.unfit(),
            autoscaler=autoscaler,
            idles=self._idles(autoscaler),
            unanswered=self._checks.unanswered if self._checks is not None else (),
            waits_until_s=left_s,
            address=self._cluster.address,
            skew=self._skew.value if self._skew is not None else None,
        )
        self._reasons.see(find_reasons(session, sight))
        if left_s == 0.0:
            session.ending.give_up_waiting(describe_lack(session, sight))

    def _waits_for_first(self) -> bool:
        """Whether no worker is there that may run trials, and there was none that could."""
        session = self._session
        has_got_nowhere = bool(session.nodes.exclusions) and not session.processes.num_new_rows
        return session.nodes.slots == 0 and (not session.had_worker or has_got_nowhere)

    def _idles(self, autoscaler: AutoscalerState | None) -> bool:
        """Whether an autoscaler has done nothing for a while, though trials wait for room."""
        if autoscaler is None or autoscaler.starting or autoscaler.failures or not self._session.num_unplaced:
            self._idle_since = None
            return False
        if self._idle_since is None:
            self._idle_since = self._clock()
        return self._clock() - self._idle_since >= IDLES_S
