"""Why a sweep cannot go on, or is slowed: what is said about it, since when, and when it is over.

Whoever looks at the run hands what it finds to `Reasons.see`, again and again. A reason counts once it has lasted for a moment; then it is
told, and once more when it is over. In between it stands in the progress line and, with the driver's claim, in `sweeper status`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from orca_core.patience import describe_seconds

SETTLE_S = 2.0
"""Seconds for which something has to last before it is told, and to be gone before it is told to be over."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of reason.

    Args:
        clause: For the progress line; `{}` stands for the machine or trial that it is about.
        meaning: What has happened, for the docs.
        remedy: What to do about it.
        goes_on: When the sweep goes on, for the docs.
        over: What has happened when it is over; `{}` as in `clause`.
    """

    clause: str
    meaning: str
    remedy: str
    goes_on: str
    over: str


_NODE_CHECKED = "The node gets no trials; it is not looked at again in this run."

KINDS: Mapping[str, Kind] = {
    "rows": Kind(
        "rows held back",
        "the driver cannot write rows: the results are out of reach, or their disk is full",
        "Make room there, or restore the connection; the rows are kept until then.",
        "When they can be written: they are tried again with each batch.",
        "the rows could be written",
    ),
    "storage": Kind(
        "waiting for storage",
        "the driver cannot reach results or stages",
        "Restore the connection or the credentials.",
        "When the storage answers.",
        "the storage answers again",
    ),
    "no-worker": Kind(
        "waiting for the first worker",
        "no node for trials has joined yet",
        "Start a node with `ray start --address=HOST:PORT`; where there is an autoscaler, see what it says with `ray status`. "
        "--wait MINUTES bounds the wait.",
        "When a node joins.",
        "a worker has joined",
    ),
    "workers-lost": Kind(
        "no worker is left",
        "all nodes for trials have gone",
        "Start a node with `ray start --address=HOST:PORT`; where there is an autoscaler, see what it says with `ray status`.",
        "When a node joins.",
        "there is a worker again",
    ),
    "refused": Kind(
        "no node may run trials",
        "there are nodes, but something is wrong with each of them, which is said as well",
        "Mend what is wrong with them, or start another node with `ray start --address=HOST:PORT`. If no trial has got anywhere yet, "
        "--wait MINUTES bounds the wait.",
        "When a node has been mended, or another one joins.",
        "a node may run trials again",
    ),
    "no-fit": Kind(
        "no node fits a trial",
        "nodes have joined, but on none of them fits a single trial",
        "Lower `resources`, or add a larger node.",
        "When a larger node joins.",
        "a node with room for a trial has joined",
    ),
    "launch": Kind(
        "the autoscaler could not start nodes",
        "the autoscaler tried to start nodes, and failed",
        "Look at its log with `ray status -v`; another instance type or zone may have machines.",
        "When it has started one: it tries again by itself.",
        "no trial waits any more for nodes that could not be started",
    ),
    "other-code": Kind(
        "{} has other code",
        "a node has other versions of this package, a plug-in, Python, torch or Ray than the driver",
        "Install the same there as on the driver, then run the same command again.",
        _NODE_CHECKED,
        "{} has left the cluster",
    ),
    "import": Kind(
        "{} lacks a package",
        "a package cannot be imported on a node",
        "Install the same packages there as on the driver, then run the same command again.",
        _NODE_CHECKED,
        "{} has left the cluster",
    ),
    "data": Kind(
        "{} lacks data",
        "data is missing or damaged on a node",
        "Put the files there, or give a data root that all nodes see ($SWEEPER_DATA).",
        "After a minute the node is looked at again, and gets trials if all is there.",
        "{} has the data now, or has left the cluster",
    ),
    "other-data": Kind(
        "{} has other data",
        "data on a node has other content than on the driver",
        "Copy the files of the driver there, or give a data root that all nodes see ($SWEEPER_DATA).",
        "After a minute the node is looked at again, and gets trials if the content is right.",
        "{} has the right data now, or has left the cluster",
    ),
    "store": Kind(
        "{} cannot reach the store",
        "a node cannot read or write the stage store: it is out of reach, not shared, or the node lacks credentials",
        "Give a folder that all nodes see, or s3:// or gs://, and give the nodes credentials (docs/running.md).",
        "After a minute the node is looked at again, and gets trials if it reaches the store.",
        "{} reaches the store now, or has left the cluster",
    ),
    "disk": Kind(
        "{} has a full disk",
        "the disk of a node's cache is full, or has less room than `budget.free_gib`",
        "Free some space there, or choose a cache root on another disk ($SWEEPER_CACHE).",
        "After a minute the node is looked at again, and gets trials if there is room.",
        "{} has room on its disk now, or has left the cluster",
    ),
    "cuda": Kind(
        "{} has a GPU that does not work",
        "CUDA fails on a node, or Ray sees a GPU there and torch does not",
        "Look at `nvidia-smi` there, and whether its torch is one for CUDA; then restart the node.",
        _NODE_CHECKED,
        "{} has left the cluster",
    ),
    "process-start": Kind(
        "{} cannot start processes",
        "processes of trials do not come up on a node",
        "Look at Ray's logs there (/tmp/ray/session_latest/logs), then restart the node.",
        _NODE_CHECKED,
        "{} has left the cluster",
    ),
    "no-answer": Kind(
        "{} does not answer",
        "a node has joined, but a check has been waiting for its answer for a minute",
        "Look whether the machine is overloaded or its memory is full.",
        "Trials run there if they can; this is only said.",
        "{} has answered, or has left the cluster",
    ),
    "silent": Kind(
        "{} has not reported for long",
        "a trial has reported nothing for `budget.silent_minutes`",
        "If it hangs, end its process on that machine: the trial is started again. `budget.trial_minutes` does so by itself.",
        "When it reports, or ends.",
        "{} has reported again, or has ended",
    ),
    "draining": Kind(
        "{} is about to be taken away",
        "a node is being drained: its trials store their state and go on elsewhere",
        "Nothing needs to be done.",
        "When the node is gone.",
        "{} has left the cluster",
    ),
    "limit": Kind(
        "the autoscaler starts no more nodes",
        "trials wait for room, and the autoscaler starts no further node: it is at its limit, or no node type fits",
        "Raise `max_workers` of the cluster, or be patient: the nodes that are there work through the queue.",
        "When trials no longer wait for room.",
        "trials no longer wait for room",
    ),
    "clock": Kind(
        "the clock of this machine is wrong",
        "the clock of the driver differs from that of the results by more than 5 seconds",
        "Set it by NTP; times in rows are wrong until then.",
        "Nothing waits for it.",
        "the clock of this machine agrees with that of the results",
    ),
}
"""Kinds of reasons, what keeps most trials from running first."""

_WITHOUT_WORKER = frozenset({"no-worker", "workers-lost", "refused", "no-fit"})
"""Kinds of which one holds while no trial can run. When another of them takes its place, nothing is over."""

_ORDER = {kind: number for number, kind in enumerate(KINDS)}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a sweep cannot go on, or is slowed.

    Args:
        kind: One of `KINDS`.
        text: What has happened, as a sentence.
        remedy: What to do about it, as sentences; empty = that of the kind.
        about: The machine or trial that it is about; empty if it is about none.
    """

    kind: str
    text: str
    remedy: str = ""
    about: str = ""

    def __post_init__(self) -> None:
        if not self.remedy:
            object.__setattr__(self, "remedy", KINDS[self.kind].remedy)

    @property
    def clause(self) -> str:
        """For the progress line."""
        return KINDS[self.kind].clause.format(self.about)

    @property
    def over(self) -> str:
        """What has happened when it is over, as a clause."""
        return KINDS[self.kind].over.format(self.about)


@dataclass(frozen=True, slots=True)
class Notice:
    """What is told when a reason begins, and when it is over.

    Args:
        sweep: Name of the sweep.
        reason: The reason.
        since: When it began, in seconds since the epoch.
        is_over: Whether it is over.
    """

    sweep: str
    reason: Reason
    since: float
    is_over: bool = False

    @property
    def text(self) -> str:
        """In sentences."""
        if self.is_over:
            return f"{self.sweep}: {self.reason.over} (after {describe_seconds(time.time() - self.since)})."
        return f"{self.sweep}: {self.reason.text} {self.reason.remedy}"

    def cells(self) -> dict[str, Any]:
        """As JSON data."""
        text, remedy = (f"{self.reason.over}.", "") if self.is_over else (self.reason.text, self.reason.remedy)
        reason = {"kind": self.reason.kind, "about": self.reason.about, "text": text, "remedy": remedy}
        return {"sweep": self.sweep, "is_over": self.is_over, "since": self.since} | reason


@dataclass(frozen=True, slots=True)
class _Held:
    reason: Reason
    first: float
    last: float
    since: float
    is_told: bool = False


class Reasons:
    """The reasons of a run, as they come and go.

    Args:
        sweep: Name of the sweep.
        clock: Monotonic clock, in seconds.
        now: Clock that gives seconds since the epoch.

    Attributes:
        listeners: Called with a `Notice` when a reason begins and when it is over, in the thread that calls `see`.
    """

    def __init__(self, sweep: str, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time) -> None:
        self.sweep, self._clock, self._now = sweep, clock, now
        self.listeners: list[Callable[[Notice], object]] = []
        self._held: dict[tuple[str, str], _Held] = {}
        self._current: tuple[_Held, ...] = ()

    def see(self, found: Iterable[Reason]) -> None:
        """Take in all reasons that there are now."""
        clock, notices = self._clock(), []
        for reason in found:
            key = (reason.kind, reason.about)
            before = self._held.get(key)
            self._held[key] = _Held(reason, clock, clock, self._now()) if before is None else replace(before, reason=reason, last=clock)
        for key, held in list(self._held.items()):
            if held.last == clock:
                if not held.is_told and clock - held.first >= SETTLE_S:
                    self._held[key] = replace(held, is_told=True)
                    notices.append(Notice(self.sweep, held.reason, held.since))
            elif not held.is_told or clock - held.last >= SETTLE_S:
                del self._held[key]
                if held.is_told and not (key[0] in _WITHOUT_WORKER and any(kind in _WITHOUT_WORKER for kind, _ in self._held)):
                    notices.append(Notice(self.sweep, held.reason, held.since, is_over=True))
        told = [held for held in self._held.values() if held.is_told]
        self._current = tuple(sorted(told, key=lambda held: (_ORDER[held.reason.kind], held.reason.about)))
        for notice in notices:
            for listener in self.listeners:
                listener(notice)

    @property
    def current(self) -> list[Reason]:
        """What holds now and was told, the most important first. May be called from another thread."""
        return [held.reason for held in self._current]

    def clause(self) -> str:
        """For the progress line: the most important reason, since when, and how many others there are; empty if there is none."""
        if not (held := self._current):
            return ""
        others = f" (and {len(held) - 1} other problem{'' if len(held) == 2 else 's'})" if len(held) > 1 else ""
        return f"{held[0].reason.clause} for {describe_seconds(self._clock() - held[0].first)}{others}"

    def facts(self) -> list[dict[str, Any]]:
        """What others are told with the driver's claim, as JSON data. May be called from another thread."""
        return [
            {"kind": held.reason.kind, "text": held.reason.text, "remedy": held.reason.remedy, "for_s": round(self._clock() - held.first)}
            for held in self._current
        ]


def reasons_table() -> str:
    """The kinds of reasons as a table, for the docs."""
    lines = ["| On the progress line | What has happened | What to do | When it is over |", "|---|---|---|---|"]
    for kind in KINDS.values():
        lines.append(f"| {kind.clause.format('NAME')} | {kind.meaning} | {kind.remedy} | {kind.goes_on} |")
    return "\n".join(lines) + "\n"
