"""What the shell offers for an argument when TAB is pressed. Each answer takes a fraction of a second: no torch, no Ray, no tables.

Names of sweeps are those of folders of the results, so none are offered for results in an object store.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import typer

Completer = Callable[[typer.Context, str], list[str]]


def complete_sweep(context: typer.Context, incomplete: str) -> list[str]:
    """Sweeps in the folder of `--results`, if that stands before on the line."""
    results = Path(context.params.get("results") or "results")
    plans = (entry for entry in _folders(results / "sweeps"))
    rows = (entry.removeprefix("sweep=") for entry in _folders(results / "trials"))
    return _begin_with(incomplete, {*plans, *rows})


def complete_space(incomplete: str) -> list[str]:
    """Search spaces by name, and YAML files and folders by path."""
    from sweeper.space.shelf import available_spaces

    folder = os.path.dirname(incomplete)
    paths = Path(folder or ".").glob("*")
    files = [os.path.join(folder, path.name) + ("/" if path.is_dir() else "") for path in paths if path.is_dir() or path.suffix in YAML]
    return _begin_with(incomplete, {*available_spaces(), *(file for file in files if incomplete or not file.endswith("/"))})


YAML = (".yaml", ".yml")


def complete_task(incomplete: str) -> list[str]:
    """Names of tasks."""
    from orca_core.tasks import TASK_CATALOGUE

    return _begin_with(incomplete, TASK_CATALOGUE.entries())


def complete_proxy(incomplete: str) -> list[str]:
    """Names of proxies."""
    from orca_core.proxies import PROXY_CATALOGUE

    return _begin_with(incomplete, PROXY_CATALOGUE.entries())


def complete_body(incomplete: str) -> list[str]:
    """Names of bodies."""
    from orca_core.bodies import BODY_CATALOGUE

    return _begin_with(incomplete, BODY_CATALOGUE.entries())


def complete_figure(incomplete: str) -> list[str]:
    """Names of figures."""
    from sweeper.show.figures import FIGURES

    return _begin_with(incomplete, (kind.name for kind in FIGURES))


def complete_setting(incomplete: str) -> list[str]:
    """Knobs for `--set`, with the `=` that follows."""
    from orca_core.config.paths import KNOBS

    return _begin_with(incomplete, (f"{knob}=" for knob in KNOBS))


def complete_command(context: typer.Context, incomplete: str) -> list[str]:
    """Names of commands."""
    program = context.find_root().command
    return _begin_with(incomplete, getattr(program, "commands", {}))


def complete_words(*words: str) -> Callable[[str], list[str]]:
    """A completer that offers these words."""
    return lambda incomplete: _begin_with(incomplete, words)


def _begin_with(incomplete: str, names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))


def _folders(parent: Path) -> Iterator[str]:
    if parent.is_dir():
        yield from (entry.name for entry in parent.iterdir() if entry.is_dir())
