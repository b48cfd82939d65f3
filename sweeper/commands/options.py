"""What commands share: options, errors as messages and exit codes, and `--set`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orca_core.errors import ConfigError, Fault, OrcaError, UnpinnedError
from sweeper.commands.completion import complete_setting, complete_space, complete_sweep, complete_words
from sweeper.workbench import choose_workbench

if TYPE_CHECKING:
    from sweeper.space.space import SearchSpace

SpaceArgument = Annotated[
    str, typer.Argument(metavar="SPACE", help="A YAML file, or a name from ./search_spaces or the package.", autocompletion=complete_space)
]
SweepArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the sweep.", autocompletion=complete_sweep)]
AnySweepArgument = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="Name of a sweep; default: all sweeps.", autocompletion=complete_sweep)
]
ResultsOption = Annotated[str, typer.Option("--results", help="Folder or URI (s3://, gs://) of the results.")]
StoreOption = Annotated[str | None, typer.Option("--store", help="Folder or URI of the stage store.  [default: RESULTS/artifacts]")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KNOB=VALUE",
        help="Set a knob of `base`, or a key of the sweep, like `sweep:seeds=1`. Repeatable.",
        autocompletion=complete_setting,
    ),
]
KnobOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KNOB=VALUE", help="Set a knob. Repeatable.", autocompletion=complete_setting),
]
NameOption = Annotated[str | None, typer.Option("--name", help="Name of the sweep, instead of the one in the file.")]
DataOption = Annotated[
    Path | None, typer.Option("--data", help="Folder of published data sets, see `sweeper tasks NAME`.  [default: $SWEEPER_DATA, ./data]")
]
FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        help="table, csv, json, markdown or latex.",
        autocompletion=complete_words("table", "csv", "json", "markdown", "latex"),
    ),
]
FileFormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="table, csv, json, markdown or latex.  [default: by the suffix of the output file, else table]",
        autocompletion=complete_words("table", "csv", "json", "markdown", "latex"),
    ),
]
OutputOption = Annotated[
    Path | None, typer.Option("-o", "--output", help="Write to a file: .csv, .json, .md, .tex or .parquet; others get an aligned table.")
]


def report_errors(command: Callable[..., int | None]) -> Callable[..., None]:
    """Run a command on the workbench of its `--data`. Print errors that users can cause to stderr, without traceback; exit code 2."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            with choose_workbench(kwargs.get("data")).use():
                code = command(*args, **kwargs)
        except ConfigError as error:
            if isinstance(error, UnpinnedError):
                _start_again_pinned()
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from None
        except OrcaError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(error.exit_code) from None
        except MemoryError:
            typer.echo("memory: must be enough for what the command reads, but is not", err=True)
            raise typer.Exit(2) from None
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                sys.stderr.close()
                raise typer.Exit(0) from None
            typer.echo(f"{error.filename or 'a file'}: cannot be used ({error.strerror or error})", err=True)
            raise typer.Exit(2) from None
        raise typer.Exit(code or 0)

    return wrapped


def _start_again_pinned() -> None:
    """Replace this process with the same command in the environment for portable bits; return if it has that environment already."""
    from orca_core.numerics import PORTABLE

    if PORTABLE.items() <= os.environ.items():
        return
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | PORTABLE)


def load_with_settings(space: str, values: list[str] | None, name: str | None) -> SearchSpace:
    """The search space of a command with its options `--set` and `--name`; faults of all of them are raised together."""
    from sweeper.space.reading import load_space

    parsed, faults = read_settings(values)
    try:
        loaded = load_space(space, parsed, name)
    except ConfigError as error:
        raise ConfigError([*faults, *error.faults], error.file) from None
    if faults:
        raise ConfigError(faults)
    return loaded


def read_settings(values: list[str] | None) -> tuple[dict[str, Any], list[Fault]]:
    """The options `--set KNOB=VALUE`, whose values are YAML, and the faults of those that have another form.

    A command hands both on, so that these faults are reported together with all others.
    """
    from sweeper.space.yaml_reader import parse_value

    faults, parsed = list[Fault](), {}
    for text in values or ():
        knob, equals, value = text.partition("=")
        if not equals or not knob.strip():
            faults.append(Fault("--set", "must have the form knob=value", text, "Example: --set finetune.lr=1e-4"))
        else:
            parsed[knob.strip()] = parse_value(value)
    return parsed, faults
