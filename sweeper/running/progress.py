"""Progress of a run: a live block on a terminal, one live line in a notebook, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable

from rich.console import Console
from rich.markup import escape

from sweeper.analysis.floors import Floors
from sweeper.results.store import ResultStore
from sweeper.running.aside import Aside
from sweeper.running.live import NotebookLine, TerminalBlock, is_live_terminal, is_notebook
from sweeper.running.nodes import Node, Nodes
from sweeper.running.reasons import Notice, Reasons
from sweeper.running.recorder import Recorder
from sweeper.running.session import Session
from sweeper.running.standing import Best, Standing
from sweeper.running.tally import BestTrial
from sweeper.running.time_left import Promise

PLAIN_EVERY_S = 15.0
"""Seconds between plain lines when the output is not a terminal."""

LIVE_EVERY_S = 0.5
"""Seconds between two looks at the counts for what is live."""

ESTIMATE_EVERY_S, ESTIMATE_SHARE = 1.0, 0.005
"""The time left is estimated anew after so many seconds, less often if it would otherwise take more than this share of the time."""

FLOORS_EVERY_S = 20.0
"""Seconds between two looks for floors that are not known yet."""


class Progress:
    """Shows the progress of a run.

    Args:
        recorder: Its tally is shown.
        total: Number of trials in the plan, including those finished by earlier runs.
        quiet: Show nothing.
        reasons: Why the sweep cannot go on, or is slowed; None = nothing is known of that.
        clock: Monotonic clock, in seconds.
        floors: Where the floors are with which the best trials are compared; None = they are not.

    Attributes:
        total: Number of trials, with all that may yet be proposed.
        least: Number of trials if a question is decided with the seeds that are planned now; else equal to `total`.
        slots: How many trials, or groups of trials, run at once; None if that is not known yet.
        in_use: How many of these run now; None likewise.
        nodes: The machines of a cluster, to be shown; None if the sweep runs on this machine.
    """

    def __init__(
        self,
        recorder: Recorder,
        total: int,
        quiet: bool = False,
        reasons: Reasons | None = None,
        clock: Callable[[], float] = time.monotonic,
        floors: ResultStore | None = None,
    ) -> None:
        self.recorder, self.total, self.least = recorder, total, total
        self.slots: int | None = None
        self.in_use: int | None = None
        self.console = Console(file=sys.stderr, quiet=quiet)
        self.nodes: Nodes | None = None
        self._gpus = ""
        self._later = self._width = 0
        self._is_ending = self._is_over = False
        self._reasons = reasons
        if reasons is not None:
            reasons.listeners.append(self.tell)
        self._clock = clock
        self._started = self._seen_at = self._next_estimate = clock()
        self._busy_s = 0.0
        self._promise, self._why = Promise(), ""
        self._last = -math.inf
        self._known_floors: Floors | None = None
        self._lacks_floors = True
        self._floors = Aside(lambda: Floors.read(floors), FLOORS_EVERY_S, "floors", clock) if floors is not None and not quiet else None
        self._live: TerminalBlock | NotebookLine | None = None
        if not quiet:
            self._live = NotebookLine() if is_notebook() else TerminalBlock(self.console) if is_live_terminal(self.console) else None

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.show("starting workers")
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.close()

    def finish(self) -> None:
        """Show how the run has ended, in a line that stays."""
        self._is_over = True
        self.show()

    def update(self, session: Session | None = None) -> None:
        """Look at a run, and show where it stands if it is time to."""
        if session is not None:
            self._look(session)
        self._measure()
        if self._clock() - self._last >= (LIVE_EVERY_S if self._live is not None else PLAIN_EVERY_S):
            self.show()

    def _look(self, session: Session) -> None:
        least, slots = session.planner.least_trials, session.width
        if least > self.least and self._promise.left is not None:
            added = least - self.least
            self._why = f"{added} trial{' was' if added == 1 else 's were'} added" + (" for open contrasts" if session.space.looks else "")
        elif 0 < slots < self._width:
            self._why = f"{slots} slot{'' if slots == 1 else 's'} instead of {self._width}"
        self._width = slots or self._width
        self.total, self.least, self.slots, self.in_use = session.planner.most_trials, least, slots, session.in_use
        self._gpus = session.packing.describe()
        self._later, self._is_ending = session.planner.searched_later, session.is_ending

    def _measure(self) -> None:
        """Estimate the time left. Only time in which trials get on counts as passed: not that without a worker, or without storage."""
        now = self._clock()
        waits = self._reasons is not None and any(reason.kind == "storage" for reason in self._reasons.current)
        if self.recorder.running and not waits:
            self._busy_s += now - self._seen_at
        self._seen_at = now
        work = self.recorder.tally.work
        if now < self._next_estimate or self.slots == 0:
            return
        began = time.perf_counter()
        if (estimate := work.estimate(max(1, self.slots or self.recorder.running), self._later)) is not None:
            self._promise.see(estimate, self._busy_s, work.take_reason() or self._why)
            self._busy_s, self._why = 0.0, ""
        self._next_estimate = now + max(ESTIMATE_EVERY_S, (time.perf_counter() - began) / ESTIMATE_SHARE)

    def show(self) -> None:
        """Show the current state."""
        self._last = self._clock()
        standing = self.standing()
        if isinstance(self._live, NotebookLine) or (self._live is not None and not self._is_over):
            self._live.show(standing)  # in a notebook the last line stays where the live one was
        elif not self.console.quiet:
            self.console.print(standing.line(), highlight=False, soft_wrap=not self.console.is_terminal)  # in a pipe, a line is a line

    def tell(self, notice: Notice) -> None:
        """Say in a line of its own that something keeps the sweep from going on, or no longer does."""
        self.say(notice.text, "green" if notice.is_over else "yellow")

    def say(self, text: str, style: str = "") -> None:
        """Say something in a line of its own; `style` is rich's."""
        self.console.print(escape(text), highlight=False, soft_wrap=True, style=style)

    def line(self) -> str:
        """The state in one line, with rich's markup."""
        return self.standing().line()

    def standing(self) -> Standing:
        """Where the run stands. Costs the same however many trials there are."""
        tally = self.recorder.tally
        return Standing(
            sweep=self.recorder.sweep,
            metric=self.recorder.metric,
            total=self.total,
            least=self.least,
            done=tally.done,
            pruned=tally.ended["PRUNED"],
            failed=tally.ended["FAIL"],
            interrupted=tally.interrupted,
            running=tally.running,
            paused=tally.paused,
            earlier=tally.num_earlier,
            slots=self.slots,
            in_use=self.in_use,
            nodes=_describe_nodes(self.nodes) if self.nodes is not None else "",
            gpus="" if self._is_over else self._gpus,
            computed=tally.computed,
            reused=tally.reused,
            saved_s=tally.saved_s,
            best=self._best(),
            failure=tally.failure,
            trouble=self._trouble(),
            elapsed_s=self._clock() - self._started,
            left_s=None if self._is_over else self._promise.left,
            why=self._promise.why,
        )

    def facts(self) -> dict[str, object]:
        """What others are told with the driver's claim, as JSON data. May be called from another thread."""
        return {
            "total": self.total,
            "least": self.least,
            "slots": self.slots,
            "in_use": self.in_use,
            "gpus": self._gpus,
            "elapsed_s": round(self._clock() - self._started),
            "left_s": self._promise.left,
            "why": self._promise.why,
            "trouble": self._trouble(),
        }

    def _trouble(self) -> str:
        """What keeps the run from going on, in a few words."""
        if self._is_over:
            return ""
        if self._is_ending:
            return "stopping: trials end with their last stored state"
        return self._reasons.clause() if self._reasons is not None else ""

    def _best(self) -> list[Best]:
        """The best trials. Floors are computed beside the run, so it is looked for them until all are there."""
        if self._floors is not None and self._lacks_floors:
            self._known_floors = self._floors.value
        found = [beside_floor(task, best, self.recorder.metric, self._known_floors) for task, best in self.recorder.tally.best.items()]
        self._lacks_floors = not found or any(best.floor is None for best in found)
        return sorted(found, key=lambda best: best.task)


def beside_floor(task: str, best: BestTrial, metric: str, floors: Floors | None) -> Best:
    """The best trial of a task beside the best floor on the same samples, by the same metric."""
    floor = floors.of_trials([best.row]) if floors is not None else None
    return Best(task, best.score, getattr(floor, metric, None) if metric in ("valid_error", "test_error") else None)


def describe_start(nodes: Iterable[Node]) -> str:
    """What happens next on a cluster that was joined: `processes are starting on 2 nodes, which have room for 4 trials at once`."""
    slots = [node.slots for node in nodes]
    if not slots:
        return "connected; the cluster has no node for trials yet"
    on = "1 node, which has" if len(slots) == 1 else f"{len(slots)} nodes, which have"
    return f"processes are starting on {on} room for {sum(slots)} trial{'' if sum(slots) == 1 else 's'} at once"


def _describe_nodes(nodes: Nodes) -> str:
    """`3 nodes, 1 joined, 2 lost`; or `1 of 3 nodes may run trials` if something is wrong with the others."""
    total = nodes.count + len(nodes.exclusions)
    counted = f"{total} node{'' if total == 1 else 's'}"
    if nodes.exclusions:
        counted = f"{nodes.count} of {counted} may run trials"
    joined = f", {nodes.joined} joined" if nodes.joined else ""
    return counted + joined + (f", {nodes.lost} lost" if nodes.lost else "")
