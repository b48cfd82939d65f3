"""Progress of a sweep: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta

from rich.console import Console
from rich.markup import escape

from sweeper.running.recorder import Ended, Recorder

PLAIN_EVERY_S = 15.0
"""Seconds between plain lines when the output is not a terminal."""


class Progress:
    """Shows the progress of a sweep.

    Args:
        recorder: Counts running and ended trials.
        total: Number of trials in the plan, including those finished by earlier runs.
        done_before: Number of trials finished by earlier runs.
        quiet: Show nothing.
    """

    def __init__(self, recorder: Recorder, total: int, done_before: int, quiet: bool = False) -> None:
        self.recorder, self.total, self.done_before = recorder, total, done_before
        self.console = Console(file=sys.stderr, quiet=quiet)
        self._started = time.monotonic()
        self._last = 0.0
        self._status = self.console.status("starting workers") if self.console.is_terminal and not quiet else None

    def __enter__(self) -> Progress:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()
        self.show(final=True)

    def update(self) -> None:
        """Show the current state if it is time to."""
        every = 0.5 if self._status is not None else PLAIN_EVERY_S
        if time.monotonic() - self._last >= every:
            self.show()

    def show(self, final: bool = False) -> None:
        """Show the current state."""
        self._last = time.monotonic()
        line = self.line()
        if self._status is not None and not final:
            self._status.update(line)
        elif not self.console.quiet:
            self.console.print(line, highlight=False, soft_wrap=True)

    def line(self) -> str:
        """The state in one line: trials done, running and failed, work reused, best so far, time left."""
        ended = self.recorder.ended.values()
        failed = sum(trial.status == "FAIL" for trial in ended)
        done = self.done_before + len(ended)
        parts = [f"{done}/{self.total} trials", f"{self.recorder.running} running"]
        if self.recorder.paused:
            parts.append(f"{self.recorder.paused} paused")
        if failed:
            parts.append(f"[red]{failed} failed[/red]")
        if pruned := sum(trial.status == "PRUNED" for trial in ended):
            parts.append(f"{pruned} pruned")
        if self.done_before:
            parts.append(f"{self.done_before} from earlier runs")
        if saved := sum(trial.saved_s for trial in ended):
            parts.append(f"{_clock(saved)} of work reused")
        if self.recorder.trouble:
            parts.append(f"[red]rows held back: {escape(self.recorder.trouble)}[/red]")
        parts += [f"best {task} {value:.4g}" for task, value in sorted(self._best(ended).items())]
        elapsed = time.monotonic() - self._started
        parts.append(f"{_clock(elapsed)} elapsed")
        ran = sum(not trial.reused_from for trial in ended)
        if ran and done < self.total:
            parts.append(f"about {_clock(elapsed / ran * (self.total - done))} left")
        return ", ".join(parts)

    def _best(self, ended: Iterable[Ended]) -> Mapping[str, float]:
        best: dict[str, float] = {}
        for trial in ended:
            if trial.status == "COMPLETE":
                best[trial.task] = min(best.get(trial.task, float("inf")), trial.score)
        return best


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
