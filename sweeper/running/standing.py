"""Where a sweep stands, and how that is said: in one plain line, and as a block of a few lines that fit the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.text import Text

from orca_core.patience import describe_seconds
from sweeper.running.tally import Failure

MAX_TASKS = 3
"""For how many tasks the best trial is shown."""

MAX_LINES = 2
"""To how many lines the text of one row of the block is cut."""

MIN_WIDTH = 20
"""Terminals that are narrower get the block for this width."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best trial of a task so far, beside the best model without a transformer.

    Args:
        task: The task.
        score: The lowest value of the sweep's metric.
        floor: The value of the floor that is best by validation; None if it is not known, or has no such metric.
    """

    task: str
    score: float
    floor: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Where a sweep stands.

    Args:
        sweep: Its name.
        metric: What trials are ranked by.
        total: Number of trials, with all that may yet be proposed.
        least: The same if a question is decided with the seeds that are planned now.
        done: Trials with an end that counts, COMPLETE or PRUNED.
        pruned, failed, interrupted, running, paused: Numbers of trials.
        earlier: How many of `done` earlier runs finished.
        slots: How many trials fit at once, or groups of trials; None if unknown.
        in_use: How many of these are in use; None if unknown.
        nodes: The machines of a cluster in a few words; empty without one.
        gpus: How many trials share a GPU under `gpu: auto`, in a few words; empty without it.
        computed, reused: Numbers of stages.
        saved_s: Compute time saved by reuse.
        best: The best trials, by task.
        failure: The last failure.
        trouble: What keeps the sweep from going on, in a few words; empty if nothing does.
        elapsed_s: Seconds of this run; None if nothing runs.
        left_s: Seconds left; None if unknown.
        why: Why that has become more; empty if it has not.
    """

    sweep: str
    metric: str
    total: int
    least: int
    done: int = 0
    pruned: int = 0
    failed: int = 0
    interrupted: int = 0
    running: int = 0
    paused: int = 0
    earlier: int = 0
    slots: int | None = None
    in_use: int | None = None
    nodes: str = ""
    gpus: str = ""
    computed: int = 0
    reused: int = 0
    saved_s: float = 0.0
    best: Sequence[Best] = ()
    failure: Failure | None = None
    trouble: str = ""
    elapsed_s: float | None = None
    left_s: float | None = None
    why: str = ""

    @property
    def waiting(self) -> int:
        """Number of trials that are planned and have not begun."""
        return max(0, self.least - self.done - self.failed - self.interrupted - self.running - self.paused)

    def line(self) -> str:
        """All of it in one line, with rich's markup."""
        done = f"{self.done}/{self.total}" if self.least == self.total else f"{self.done} of {self.least} to {self.total}"
        parts = [f"[yellow]{escape(self.trouble)}[/yellow]"] if self.trouble else []
        parts += [f"{done} trials", f"{self.running} running"]
        if self.paused:
            parts.append(f"{self.paused} paused")
        if self.failed:
            last = f" (last {self.failure.trial}: {escape(self.failure.cause)})" if self.failure is not None else ""
            parts.append(f"[red]{self.failed} failed{last}[/red]")
        for number, what in ((self.pruned, "pruned"), (self.interrupted, "interrupted"), (self.earlier, "from earlier runs")):
            if number:
                parts.append(f"{number} {what}")
        parts += [text for text in (self.nodes, self.gpus) if text]
        if self.computed or self.reused:
            parts.append(f"{self.computed} stage{'' if self.computed == 1 else 's'} computed")
            parts.append(f"{self.reused} reused" + (f" ({describe_seconds(self.saved_s)} saved)" if self.saved_s >= 1 else ""))
        parts += [f"best {escape(text)}" for text in self._best()]
        if self.elapsed_s is not None:
            parts.append(f"{format_elapsed(self.elapsed_s)} elapsed")
        parts += [escape(self._left())] if self._left() else []
        return ", ".join(parts)

    def block(self, width: int, *, ascii_only: bool = False) -> list[Text]:
        """All of it as a block: a bar, and a row for each thing there is to say; no line is longer than `width`."""
        width = max(MIN_WIDTH, width)
        lines = [self._bar(width, ascii_only)]
        for label, parts in self._rows():
            shown = [(text, style) for text, style in parts if text]
            if shown:
                lines += _fill(label, shown, width)
        return lines

    def _bar(self, width: int, ascii_only: bool) -> Text:
        whole, rest = ("#", "-") if ascii_only else ("\N{BOX DRAWINGS HEAVY HORIZONTAL}", "\N{BOX DRAWINGS LIGHT HORIZONTAL}")
        counts = f" {self.done}/{self.total} trials {self.done * 100 // max(1, self.total):3d} %"
        if self.least != self.total:
            counts = f" {self.done} of {self.least} to {self.total} trials"
        if len(counts) > width - 12:
            counts = f" {self.done}/{self.total}"
        name = self.sweep if len(self.sweep) <= width // 3 else self.sweep[: width // 3 - 3] + "..."
        size = max(0, width - len(name) - len(counts) - 1)
        parts = [round(size * number / max(1, self.total)) for number in (self.done, self.done + self.failed)]
        return Text.assemble(
            (f"{name} ", "bold"),
            (whole * parts[0], "green"),
            (whole * (parts[1] - parts[0]), "red"),
            (rest * (size - parts[1]), "dim"),
            counts,
        )

    def _rows(self) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        """The rows of the block: what each is about, and its parts with their style."""

        def count(number: int, what: str, style: str = "") -> tuple[str, str]:
            return (f"{number} {what}" if number else "", style)

        yield "waits", [(self.trouble, "yellow")]
        in_use = f" of {self.slots} slots in use" if self.slots else " running"
        if self.slots and self.running > self.slots:  # in groups, each on one slot
            of = "" if self.in_use is None else f"{self.in_use} of "
            in_use = f" running on {of}{self.slots} slot{'s' if self.slots > 1 else ''}"
        yield (
            "trials",
            [
                (f"{self.running}{in_use}", ""),
                count(self.paused, "paused"),
                count(self.waiting, "waiting"),
                count(self.failed, "failed", "red"),
                count(self.pruned, "pruned"),
                count(self.interrupted, "interrupted"),
                count(self.earlier, "from earlier runs"),
            ],
        )
        saved = f" ({describe_seconds(self.saved_s)} saved)" if self.saved_s >= 1 else ""
        any_stage = self.computed or self.reused
        yield "stages", [(f"{self.computed} computed", ""), (f"{self.reused} reused{saved}", "")] if any_stage else []
        yield "nodes", [(self.nodes, "")]
        yield "GPUs", [(self.gpus, "")]
        elapsed = f"{format_elapsed(self.elapsed_s)} elapsed" if self.elapsed_s is not None else ""
        yield "time", [(elapsed, ""), (self._left(), "")]
        yield "best", [(text, "") for text in self._best()]
        if self.failure is not None and self.failed:
            yield "failed", [(f"{self.failure.trial} ({self.failure.cause}): {self.failure.error}".removesuffix(": "), "red")]

    def _best(self) -> list[str]:
        """The best trials in words, of the first tasks."""
        found = []
        for number, best in enumerate(self.best[:MAX_TASKS]):
            metric = f"{self.metric} of " if number == 0 else ""
            floor = f" (floor {best.floor:.4g})" if best.floor is not None else ""
            found.append(f"{metric}{best.task} {best.score:.4g}{floor}")
        more = len(self.best) - len(found)
        return found + ([f"of {more} more task{'' if more == 1 else 's'}: `sweeper best {self.sweep}`"] if more > 0 else [])

    def _left(self) -> str:
        if self.left_s is None or not (self.running or self.paused or self.waiting):
            return ""
        return f"{describe_left(self.left_s)} left" + (f" ({self.why})" if self.why else "")


def format_elapsed(seconds: float) -> str:
    """Time passed, as a clock shows it: `1:05`, `2:00:30`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def describe_left(seconds: float) -> str:
    """Time left in words, no more exact than is known; never less for more seconds."""
    if seconds < 10:
        return "a few seconds"
    if seconds < 60:
        return f"about {_round_up(seconds, 10)} s"
    minutes = _round_up(seconds, 60) // 60
    if minutes < 120:
        return f"about {minutes} min"
    hours = minutes // 60
    if hours < 48:
        return f"about {hours} h {minutes % 60 // 10 * 10} min".removesuffix(" 0 min")
    return f"about {hours // 24} d {hours % 24} h".removesuffix(" 0 h")


def _round_up(value: float, step: int) -> int:
    """The next multiple of a step."""
    return int(-(-value // step)) * step


def _fill(label: str, parts: Sequence[tuple[str, str]], width: int) -> list[Text]:
    """A row of the block: its label and its parts, joined by commas, broken between parts, or within a part that is too long at spaces."""
    indent = 8
    room = width - indent
    lines: list[Text] = [Text()]
    for number, (text, style) in enumerate(parts):
        text += "," if number < len(parts) - 1 else ""
        words = [text] if len(text) <= room else text.split(" ")
        for word in words:
            if lines[-1].cell_len and lines[-1].cell_len + 1 + len(word) > room:
                lines.append(Text())
            lines[-1].append(f"{' ' if lines[-1].cell_len else ''}{word}", style)
    if len(lines) > MAX_LINES:
        lines = lines[:MAX_LINES]
        lines[-1].append(" ...")
    for line in lines:
        if line.cell_len > room:
            line.truncate(room - 3)
            line.append("...")
    return [Text.assemble((f"{label if number == 0 else '':<{indent}}", "dim"), line) for number, line in enumerate(lines)]
