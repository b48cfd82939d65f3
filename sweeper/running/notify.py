"""Runs the user's command (`sweeper run --notify COMMAND`) when a sweep cannot go on, and when it can again."""

from __future__ import annotations

import json
import queue
import shlex
import shutil
import subprocess
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from orca_core.errors import ConfigError, Fault
from sweeper.running.reasons import Notice

TIMEOUT_S = 30.0
"""Seconds after which the command is ended."""

LAST_S = 10.0
"""Seconds for which the end of a run waits for commands that have not ended."""


def parse_command(text: str) -> list[str]:
    """Split a command as a shell does, without running one: no variables, no pipes.

    Raises:
        ConfigError: If it cannot be split, or its program does not exist.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError([Fault("--notify", f"must be a command ({error})", text)]) from None
    if not words or shutil.which(words[0]) is None:
        rule = "must be a command whose program exists and may be run"
        raise ConfigError([Fault("--notify", rule, text, "For pipes and variables, put them into a script.")])
    return words


class Notifier:
    """Runs a command for each notice, one after the other, in a thread of its own.

    The command gets the text as its last argument, and as JSON on its standard input. If it fails, that is a warning.

    Args:
        command: The command and its arguments.
        timeout_s: Seconds after which it is ended.
    """

    def __init__(self, command: list[str], timeout_s: float = TIMEOUT_S) -> None:
        self._command, self._timeout_s = command, timeout_s
        self._notices: queue.Queue[Notice | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run_all, daemon=True, name="notify")

    def tell(self, notice: Notice) -> None:
        """Run the command for a notice, later."""
        self._notices.put(notice)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within: notices are passed on. At the end the last ones are waited for, for a while."""
        self._thread.start()
        try:
            yield
        finally:
            self._notices.put(None)
            self._thread.join(LAST_S)

    def _run_all(self) -> None:
        while (notice := self._notices.get()) is not None:
            if problem := self._run(notice):
                warnings.warn(f"--notify: {shlex.join(self._command)} {problem}", RuntimeWarning, stacklevel=1)

    def _run(self, notice: Notice) -> str:
        """Run the command. Returns what went wrong."""
        text = notice.text
        data = json.dumps(notice.cells() | {"message": text})
        try:
            done = subprocess.run([*self._command, text], input=data, text=True, capture_output=True, timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            return f"took longer than {self._timeout_s:g} s and was ended"
        except OSError as error:
            return f"could not be started ({error.strerror})"
        if done.returncode == 0:
            return ""
        said = (done.stderr or done.stdout).strip().splitlines()
        return f"ended with exit code {done.returncode}" + (f" ({said[-1][:200]})" if said else "")
