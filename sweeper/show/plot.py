"""What `sweeper plot` prints and writes: the figures that a sweep can feed, or one of them as a file."""

from __future__ import annotations

import os
import re
import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

from orca_core.errors import ConfigError, Fault
from sweeper.results.store import results_option
from sweeper.results.workspace import Workspace
from sweeper.show.figures import FigureKind, FigureTables, NotInTablesError, available, find_figure, read_tables, render
from sweeper.show.figures.saving import FORMATS
from sweeper.show.tables import terminal_width


def list_figures(workspace: Workspace, name: str, metric: str, task: str | None) -> str:
    """The figures that a sweep can feed, and why it cannot feed the others.

    Raises:
        ConfigError: If the sweep, the metric or the task is unknown.
    """
    found = available(read_tables(workspace.results, name, metric=metric, task=task))
    can = [(kind.name, kind.title) for kind, reason in found if reason is None]
    cannot = [(kind.name, f"{reason}. It needs {kind.needs}.") for kind, reason in found if reason is not None]
    text = ""
    if can:
        text += f"Figures of {name}:\n{_columns(can)}"
        example = f"sweeper plot {shlex.quote(name)} {can[0][0]}{results_option(workspace.uri)} -o {can[0][0]}.pdf"
        text += f"\n{_fill(f'`{example}` writes one.')}"
    if cannot:
        text += f"{chr(10) if can else ''}{name} cannot feed:\n{_columns(cannot)}"
    return text


def _columns(lines: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in lines) + 4
    return "".join(_fill(f"  {name:<{width - 2}}{text}", " " * width) for name, text in lines)


def _fill(text: str, indent: str = "") -> str:
    lines = textwrap.wrap(text, terminal_width(), subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
    return "".join(f"{line}\n" for line in lines)


def write_figure(workspace: Workspace, name: str, figure: str, output: Path | None, metric: str, task: str | None) -> str:
    """Write a figure of a sweep to a file, and say where it is and what it shows.

    Args:
        workspace: Where the results are.
        name: Name of the sweep.
        figure: Name of the figure.
        output: The file, whose ending is the format; None = NAME-FIGURE.svg, or NAME-FIGURE-TASK.svg, in the current folder.
        metric: The column that is shown as the error.
        task: Only this task; None = all.

    Raises:
        ConfigError: With all faults: if the sweep, the figure, the metric, the task or the ending is unknown, if the tables do not have
            what the figure shows, or if the file cannot be written.
    """
    of_task = "" if task is None else f"-{re.sub(r'[^A-Za-z0-9._-]', '-', task)}"
    file = output or Path(f"{name}-{figure}{of_task}.svg")
    faults: list[Fault] = []
    kind: FigureKind | None = None
    tables: FigureTables | None = None
    try:
        kind = find_figure(figure)
    except ConfigError as error:
        faults += error.faults
    format = file.suffix.removeprefix(".").lower()
    if format not in FORMATS:
        faults.append(Fault("--output", "must end in .svg, .pdf or .png", str(file)))
    try:
        tables = read_tables(workspace.results, name, metric=metric, task=task)
    except ConfigError as error:
        faults += error.faults
    if faults or kind is None or tables is None:
        raise ConfigError(faults)
    try:
        data = kind.read(tables)
    except NotInTablesError as error:
        see = f"It needs {kind.needs}; `sweeper plot {shlex.quote(name)}{results_option(workspace.uri)}` lists those that can be drawn."
        raise ConfigError([Fault("FIGURE", f"must be one that {name} can feed: {error}", figure, see)]) from None
    write_whole(file, render(kind, data, format))
    return f"written: {file}\n{_fill(data.caption)}"


def write_whole(file: Path, content: bytes) -> None:
    """Write a file of `--output` as a whole, or not at all.

    Raises:
        ConfigError: If it cannot be written.
    """
    try:
        with NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}-", delete=False) as partial:
            partial.write(content)
        os.chmod(partial.name, 0o666 & ~_umask())
        os.replace(partial.name, file)
    except OSError as error:
        if "partial" in locals():
            Path(partial.name).unlink(missing_ok=True)
        raise ConfigError([Fault("--output", f"must be writable ({error.strerror})", str(file))]) from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
