"""Progress of a sweep: one live line on a terminal and in a notebook, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.markup import escape, render

from sweeper.results.views import INTERRUPTED
from sweeper.running.nodes import Node, Nodes
from sweeper.running.reasons import Notice, Reasons
from sweeper.running.recorder import Ended, Recorder

PLAIN_EVERY_S = 15.0
"""Seconds between plain lines when the output is not a terminal."""


class Progress:
    """Shows the progress of a sweep.

    Args:
        recorder: Counts running and ended trials.
        total: Number of trials in the plan, including those finished by earlier runs.
        done_before: Ids of trials finished by earlier runs. One that early stopping lets go on counts as new.
        quiet: Show nothing.
        reasons: Why the sweep cannot go on, or is slowed; None = nothing is known of that.
        clock: Monotonic clock, in seconds.

    Attributes:
        total: Number of trials, with all that may yet be proposed.
        least: Number of trials if a question is decided with the seeds that are planned now; else equal to `total`.
        nodes: The machines of a cluster, to be shown; None if the sweep runs on this machine.
    """

    def __init__(
        self,
        recorder: Recorder,
        total: int,
        done_before: Iterable[str] = (),
        quiet: bool = False,
        reasons: Reasons | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.recorder, self.total, self.least, self._done_before = recorder, total, total, frozenset(done_before)
        self.console = Console(file=sys.stderr, quiet=quiet)
        self.nodes: Nodes | None = None
        self._reasons = reasons
        if reasons is not None:
            reasons.listeners.append(self.tell)
        self._clock = clock
        self._started = self._seen_at = clock()
        self._busy_s = 0.0
        self._last = -math.inf
        self._live: _TerminalLine | _NotebookLine | None = None
        if not quiet:
            self._live = _NotebookLine() if is_notebook() else _TerminalLine(self.console) if self.console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.show("starting workers")
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.close()
        self.show(final=True)

    def update(self) -> None:
        """Show the current state if it is time to."""
        self._measure()
        every = 0.5 if self._live is not None else PLAIN_EVERY_S
        if self._clock() - self._last >= every:
            self.show()

    def _measure(self) -> None:
        """Count the time in which trials get on: from it follows what is left. Not that without a worker, or without storage."""
        now = self._clock()
        waits = self._reasons is not None and any(reason.kind == "storage" for reason in self._reasons.current)
        if self.recorder.running and not waits:
            self._busy_s += now - self._seen_at
        self._seen_at = now

    def show(self, final: bool = False) -> None:
        """Show the current state."""
        self._last = self._clock()
        line = self.line()
        if isinstance(self._live, _NotebookLine) or (self._live is not None and not final):
            self._live.show(line)  # in a notebook the last line stays where the live one was
        elif not self.console.quiet:
            self.console.print(line, highlight=False, soft_wrap=True)

    def tell(self, notice: Notice) -> None:
        """Say in a line of its own that something keeps the sweep from going on, or no longer does."""
        self.console.print(escape(notice.text), highlight=False, soft_wrap=True, style="green" if notice.is_over else "yellow")

    def say(self, text: str, style: str = "") -> None:
        """Say something in a line of its own; `style` is rich's."""
        self.console.print(escape(text), highlight=False, soft_wrap=True, style=style)

    def line(self) -> str:
        """The state in one line: what hinders it, trials done, running and failed, nodes, work reused, best so far, time left.

        A trial that failed is not done. The time left is that of the trials so far that did not fail, without time in which none got on.
        """
        ended = self.recorder.ended.values()
        counts = Counter(trial.status for trial in ended)
        earlier = len(self._done_before - self.recorder.started)
        done = earlier + len(ended) - counts[INTERRUPTED] - counts["FAIL"]
        whole = f"{done}/{self.total} trials" if self.least == self.total else f"{done} of {self.least} to {self.total} trials"
        parts = [whole, f"{self.recorder.running} running"]
        if self._reasons is not None and (clause := self._reasons.clause()):
            parts.insert(0, f"[yellow]{escape(clause)}[/yellow]")
        if self.recorder.paused:
            parts.append(f"{self.recorder.paused} paused")
        if counts["FAIL"]:
            parts.append(f"[red]{counts['FAIL']} failed[/red]")
        if counts["PRUNED"]:
            parts.append(f"{counts['PRUNED']} pruned")
        if counts[INTERRUPTED]:
            parts.append(f"{counts[INTERRUPTED]} interrupted")
        if earlier:
            parts.append(f"{earlier} from earlier runs")
        if self.nodes is not None:
            parts.append(_describe_nodes(self.nodes))
        if saved := sum(trial.saved_s for trial in ended):
            parts.append(f"{_format(saved)} of work reused")
        parts += [f"best {task} {value:.4g}" for task, value in sorted(self._best(ended).items())]
        parts.append(f"{_format(self._clock() - self._started)} elapsed")
        ran = sum(not trial.reused_from and trial.status not in (INTERRUPTED, "FAIL") for trial in ended)
        if ran and (left := self.least - done - counts["FAIL"]) > 0:
            parts.append(f"about {_format(self._busy_s / ran * left)} left")
        return ", ".join(parts)

    def _best(self, ended: Iterable[Ended]) -> Mapping[str, float]:
        best: dict[str, float] = {}
        for trial in ended:
            if trial.status == "COMPLETE":
                best[trial.task] = min(best.get(trial.task, float("inf")), trial.score)
        return best


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


class _TerminalLine:
    """A line with a spinner, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._status = console.status("")

    def show(self, line: str) -> None:
        """Replace the line; its markup is rich's."""
        self._status.update(line)
        self._status.start()

    def close(self) -> None:
        """Remove the line."""
        self._status.stop()


class _NotebookLine:
    """A line in the output of a notebook cell, replaced in place. Shown by IPython itself, so it needs no widgets."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, line: str) -> None:
        """Replace the line; its markup is rich's."""
        from IPython.display import display

        content = {"text/plain": render(line).plain}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)

    def close(self) -> None:
        """Leave the line as it is."""


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook, which shows rich output; not so IPython in a terminal."""
    ipython = sys.modules.get("IPython")  # a kernel has imported it
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and getattr(shell, "kernel", None) is not None


def _format(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
