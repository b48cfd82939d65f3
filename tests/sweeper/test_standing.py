"""Where a sweep stands, as a block on a terminal: what it says, that it fits, and that it leaves the terminal as it was."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

import pyte
import pytest
from rich.console import Console

from sweeper.running.live import TerminalBlock, is_live_terminal
from sweeper.running.standing import Best, Standing, format_elapsed
from sweeper.running.tally import Failure

STANDING = Standing(
    sweep="quickstart",
    metric="valid_error",
    total=40,
    least=40,
    done=19,
    pruned=3,
    failed=1,
    running=2,
    paused=1,
    earlier=4,
    slots=2,
    computed=45,
    reused=31,
    saved_s=725.0,
    best=[Best("digits", 0.03125, 0.01111), Best("mnist1d", 0.1288, None)],
    failure=Failure("3f2a1b7c", "user-error", "ValueError: " + "a reason that takes many words " * 6),
    elapsed_s=205.0,
    left_s=250.0,
    why="a trial was lost and goes on from its last stored state",
)


def lines_of(standing: Standing, width: int) -> list[str]:
    return [line.plain for line in standing.block(width)]


def test_the_block_says_what_there_is_to_say():
    lines = lines_of(STANDING, 78)
    assert lines[0].startswith("quickstart ━")
    assert lines[0].endswith("─ 19/40 trials  47 %")
    assert len(lines[0]) == 78
    assert lines[0].count("━") == round(47 * 20 / 40), "19 done and one failed, of a bar of 47"
    assert lines[1:] == [
        "trials  2 of 2 slots in use, 1 paused, 17 waiting, 1 failed, 3 pruned,",
        "        4 from earlier runs",
        "stages  45 computed, 31 reused (12 min saved)",
        "time    3:25 elapsed, about 5 min left (a trial was lost and goes on from its",
        "        last stored state)",
        "best    valid_error of digits 0.03125 (floor 0.01111), mnist1d 0.1288",
        "failed  3f2a1b7c (user-error): ValueError: a reason that takes many words a",
        "        reason that takes many words a reason that takes many words a reaso...",
    ]


def test_trials_of_a_group_share_a_slot():
    grouped = replace(STANDING, running=18, in_use=1)
    assert lines_of(grouped, 78)[1].startswith("trials  18 running on 1 of 2 slots, 1 paused, 1 waiting, ")


@pytest.mark.parametrize("width", [20, 38, 78, 200])
def test_no_line_is_longer_than_the_terminal(width):
    for standing in (STANDING, Standing(sweep="a-name-" * 11, metric="valid_error", total=10000, least=300)):
        assert max(map(len, lines_of(standing, width))) <= width


def test_without_unicode_the_bar_is_plain():
    assert "#" * 23 + "-" in STANDING.block(78, ascii_only=True)[0].plain


def test_what_is_not_known_is_not_said():
    standing = Standing(sweep="s", metric="valid_error", total=8, least=8)
    assert [line.split()[0] for line in lines_of(standing, 78)] == ["s", "trials"]
    assert format_elapsed(3725.4) == "1:02:05"


class Terminal(io.StringIO):
    """A terminal in memory: what is written to it appears on a screen."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.screen = pyte.Screen(columns, 24)
        self.stream = pyte.Stream(self.screen)
        self.console = Console(file=self, force_terminal=True, width=columns, height=24, color_system=None)

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.stream.feed(text.replace("\n", "\r\n"))
        return super().write(text)

    def narrow(self, columns: int) -> None:
        """Make it narrower. Like most terminals it breaks the lines that are too long for it now."""
        self.screen = pyte.Screen(columns, 24)
        self.stream = pyte.Stream(self.screen)
        self.stream.feed(self.getvalue().replace("\n", "\r\n"))
        self.console.size = (columns, 24)

    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display if line.strip()]


def test_messages_stand_above_the_block_and_nothing_of_it_stays(monkeypatch):
    terminal = Terminal(80)
    monkeypatch.setattr(sys, "stderr", terminal)
    block = TerminalBlock(terminal.console)
    block.show("starting workers")
    assert terminal.lines() == ["starting workers"]
    sys.stderr.write("warning: of a library\n")
    block.show(STANDING)
    terminal.console.print("quickstart: the driver is waiting for storage.")
    block.show(STANDING)
    lines = terminal.lines()
    assert lines[:3] == ["warning: of a library", "quickstart: the driver is waiting for storage.", lines_of(STANDING, 78)[0]]
    assert len(lines) == 2 + len(lines_of(STANDING, 78)), "the block stands there once"
    block.close()
    assert terminal.lines() == lines[:2]
    assert not terminal.screen.cursor.hidden
    assert sys.stderr is terminal


def test_a_terminal_that_becomes_narrower_has_one_block_still(monkeypatch):
    terminal = Terminal(80)
    monkeypatch.setattr(sys, "stderr", terminal)
    terminal.console.print("said before")
    block = TerminalBlock(terminal.console)
    block.show(STANDING)
    terminal.narrow(40)
    assert len(terminal.lines()) > 1 + len(lines_of(STANDING, 78)), "its lines are broken"
    block.show(STANDING)
    assert terminal.lines() == ["said before", *(line.rstrip() for line in lines_of(STANDING, 38))]
    block.close()
    assert terminal.lines() == ["said before"]


def test_a_pipe_gets_no_block_whatever_force_color_says(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not is_live_terminal(Console(file=io.StringIO()))
    monkeypatch.setenv("TERM", "dumb")
    assert not is_live_terminal(Terminal(80).console)
