"""Keeps Ray's own log lines and tracebacks off the terminal: they go to a file, which is named if Ray said more than at every start."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

LOGGERS = ("ray", "ray.tune", "ray.train", "ray.air", "ray.data")
"""Ray's loggers; those below them pass on what they are told."""


FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
"""How a line of the file looks."""

ROUTINE = ("Token authentication is enabled",)
"""How messages begin that Ray logs as warnings whenever it starts. The user is not sent to the file for them."""


class RayLog:
    """The file.

    Args:
        folder: Where it is; None = in the folder for temporary files.
        sweep: Name of the sweep.
    """

    def __init__(self, folder: str | None, sweep: str) -> None:
        self._has_news = False
        self.path = Path(folder) / "sweeps" / sweep / "ray.log" if folder is not None else Path(tempfile.gettempdir()) / f"{sweep}-ray.log"

    @property
    def note(self) -> str:
        """A sentence that names the file; empty if it has nothing but what Ray says at every start."""
        return f"Ray's own messages are in {self.path}." if self._has_news else ""

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Within: what Ray says goes to the file. A file of an earlier run is replaced.

        That is what its Python code logs, warnings and worse, and the errors of nodes that it prints on the driver, whatever
        `log_to_driver` is: when a node is killed, the last lines of its log.
        """
        import ray._private.worker as ray_worker

        self.path.unlink(missing_ok=True)
        handler = logging.FileHandler(self.path, encoding="utf-8", delay=True)
        handler.setFormatter(logging.Formatter(FORMAT))
        handler.setLevel(logging.WARNING)
        handler.addFilter(self._notice)
        before = {name: (logger := logging.getLogger(name)).handlers[:] for name in LOGGERS}
        passed = {name: logging.getLogger(name).propagate for name in LOGGERS}
        for name in LOGGERS:
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = ([handler], False) if name == "ray" else ([], True)
        printing = ray_worker.print_to_stdstream
        ray_worker.print_to_stdstream = _log_printed
        try:
            yield
        finally:
            ray_worker.print_to_stdstream = printing
            for name in LOGGERS:
                logger = logging.getLogger(name)
                logger.handlers, logger.propagate = before[name], passed[name]
            handler.close()

    def _notice(self, record: logging.LogRecord) -> bool:
        self._has_news = self._has_news or not record.getMessage().startswith(ROUTINE)
        return True


def _log_printed(data: Mapping[str, Any], ignore_prefix: bool) -> None:
    """Log what Ray would print on the driver, without the codes of colours."""
    for line in data.get("lines", ()):
        logging.getLogger("ray").error("(%s) %s", data.get("pid"), _COLOUR.sub("", str(line)))
