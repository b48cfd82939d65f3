"""What is redrawn in place while a sweep runs: a block of lines on a terminal, a line in a notebook."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook
from rich.control import Control
from rich.live import Live
from rich.markup import render
from rich.segment import ControlType
from rich.text import Text

from sweeper.running.standing import Standing


def is_live_terminal(console: Console) -> bool:
    """Whether a console can redraw lines: it is a terminal, whatever $FORCE_COLOR says, and not a dumb one."""
    isatty = getattr(console.file, "isatty", None)
    return isatty is not None and isatty() and not console.is_dumb_terminal


class TerminalBlock(RenderHook):
    """A block at the end of the terminal. What others write meanwhile appears above it.

    The cursor stays visible, as nothing could show it again if this process were killed.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: Standing | str = ""
        self._shown_at = time.monotonic()
        self._drawn: list[int] = []  # lengths of the lines that stand on the terminal
        # Not stdout if that is a file: rich would write its text to the terminal.
        self._live = Live(self, console=console, transient=True, refresh_per_second=2, redirect_stdout=sys.stdout.isatty())
        self._is_open = False

    def show(self, standing: Standing | str) -> None:
        """Show where a sweep stands, or a line of text instead."""
        self._shown, self._shown_at = standing, time.monotonic()
        if self._is_open:
            self._live.refresh()
            return
        self._is_open = True
        self._live.start(refresh=True)
        self._console.show_cursor(True)
        self._console.push_render_hook(self)

    def close(self) -> None:
        """Remove the block."""
        if self._is_open:
            self._is_open = False
            self._console.pop_render_hook()
            self._live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """The lines. Two columns stay free, in which a terminal echoes ^C."""
        shown, width = self._shown, options.max_width - 2
        if isinstance(shown, Standing) and shown.elapsed_s is not None:  # time goes on, also while nothing happens
            shown = replace(shown, elapsed_s=shown.elapsed_s + time.monotonic() - self._shown_at)
        lines = [Text(shown[:width])] if isinstance(shown, str) else shown.block(width, ascii_only=options.ascii_only)
        lines = lines[: max(1, console.height - 1)]
        self._drawn = [line.cell_len for line in lines]
        yield Text("\n").join(lines)

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Go to the top of the block before it is drawn anew, if a narrower terminal has broken its lines into more than rich knows of."""
        width = max(1, self._console.width)
        broken = sum(max(0, length - 1) // width for length in self._drawn)
        if not broken:
            return renderables
        self._drawn = []
        steps: list[ControlType | tuple[ControlType, int]] = [ControlType.CARRIAGE_RETURN]
        for _ in range(broken):
            steps += [(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)]
        return [Control(*steps), *renderables]


class NotebookLine:
    """A line in the output of a notebook cell, replaced in place. Shown by IPython itself, so it needs no widgets."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, standing: Standing | str) -> None:
        """Replace the line."""
        from IPython.display import display

        text = standing if isinstance(standing, str) else render(standing.line()).plain
        content = {"text/plain": text}
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
