"""Commands that show a sweep as one page: report, watch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweeper.commands.options import ResultsOption, SweepArgument, report_errors

ENDINGS = {"html": [".html", ".htm"], "markdown": [".md", ".markdown"], "latex": [".tex"]}
"""Format -> endings of its files."""


@report_errors
def report(
    name: SweepArgument,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write.  [default: report.html; markdown and latex go to the terminal]")
    ] = None,
    format: Annotated[str, typer.Option("--format", help="html, markdown or latex.")] = "html",
    results: ResultsOption = "results",
) -> None:
    """Write one page about a sweep: question and verdict, floors, effects, figures, best arms, failures, fairness, cost, versions, methods.

    The HTML is one file that asks nothing of any server. As markdown or LaTeX: the verdicts, the tables for a paper, and the methods in
    words. The same tables give the same page.

    Example: `sweeper report quickstart -o quickstart.html`, `sweeper report quickstart --format latex -o tables.tex`
    """
    from orca_core.errors import ConfigError, Fault
    from sweeper.results.workspace import Workspace
    from sweeper.show.plot import write_whole
    from sweeper.show.report.making import report_text

    if output is not None and output.suffix.lower() not in ENDINGS.get(format, [output.suffix.lower()]):
        rule = f"must end in {' or '.join(ENDINGS[format])} with --format {format}"
        raise ConfigError([Fault("--output", rule, str(output), f"`sweeper plot {name}` writes figures as PDF; browsers print the page.")])
    text = report_text(Workspace(results), name, format).encode()
    if output is None and format != "html":
        typer.echo(text, nl=False)
        return
    path = output or Path("report.html")
    write_whole(path, text)
    typer.echo(f"{path}: {len(text) / 1e6:.1f} MB, the report of {name}")


@report_errors
def watch(
    name: SweepArgument,
    port: Annotated[int, typer.Option("--port", help="Port to listen at; 0 = any that is free.")] = 8700,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; by any other than the default, other machines can read the page.")
    ] = "127.0.0.1",
    results: ResultsOption = "results",
) -> int:
    """Serve the report of a sweep as a page that renews itself while the sweep runs. Ctrl-C ends it, and leaves the sweep alone.

    The page is made from the tables, so the sweep may run in another process, or on another machine whose results are reached here.

    Example: `sweeper watch quickstart`, `sweeper watch quickstart --results s3://bucket/results --port 9000`
    """
    from sweeper.results.workspace import Workspace
    from sweeper.show.report.watching import WatchedPage, make_server

    server = make_server(WatchedPage(Workspace(results), name), host, port)
    where = f"[{host}]" if ":" in host else host
    typer.echo(f"http://{where}:{server.server_address[1]}/ shows {name}; Ctrl-C ends it.")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        return 0
    finally:
        server.server_close()
    return 0
