"""Commands for the machines of a cluster, for people and for the files in `deploy/`: node describe, node watch, node drain."""

from __future__ import annotations

import shlex
from datetime import datetime
from typing import Annotated

import typer

from sweeper.commands.options import report_errors

app = typer.Typer(
    no_args_is_help=True,
    help="Take this machine out of its cluster, or watch for the cloud's notice that it will be taken away.\n\n"
    "Example: `sweeper node drain --seconds 600 --wait`",
)

WAIT_S = 60.0
"""Seconds that `drain --wait` waits without `--seconds`."""

AddressOption = Annotated[
    str | None, typer.Option("--address", help="Address of the Ray cluster.  [default: $RAY_ADDRESS, the Ray of this machine]")
]
NodeIpOption = Annotated[
    str | None, typer.Option("--node-ip", help="Only the Ray node of this IP address.  [default: all of this machine]")
]


@app.command()
@report_errors
def describe() -> None:
    """Print what the cloud says of this machine, for a shell: SWEEPER_INSTANCE_TYPE and SWEEPER_ZONE. Nothing, if it is in no cloud.

    Example: `eval "$(sweeper node describe)"`
    """
    from sweeper.tune.spot import find_metadata

    metadata = find_metadata()
    try:
        variables = metadata.describe() if metadata else {}
    except OSError as error:
        typer.echo(f"the metadata service does not answer ({error})", err=True)
        variables = {}
    if variables:
        typer.echo("export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items()))


@app.command()
@report_errors
def watch(
    address: AddressOption = None,
    node_ip: NodeIpOption = None,
    interval: Annotated[float, typer.Option("--interval", min=0.1, help="Seconds between two looks.")] = 5.0,
    ignore_rebalance: Annotated[bool, typer.Option("--ignore-rebalance", help="Wait for AWS's notice of the end itself.")] = False,
) -> int:
    """Wait for the cloud's notice that this spot machine will be taken away, then drain its Ray node. Ends when it has.

    Example: `sweeper node watch --address $RAY_HEAD_IP:6379`
    """
    from sweeper.tune.spot import drain_nodes, find_metadata
    from sweeper.tune.spot import watch as watch_machine

    metadata = find_metadata(heed_rebalance=not ignore_rebalance)
    if metadata is None:
        typer.echo("no cloud's metadata service answers on this machine, so there is no notice to wait for", err=True)
        return 1

    def say(line: str) -> None:
        typer.echo(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}")

    say(f"waiting for {metadata.cloud}'s notice")
    watch_machine(metadata, lambda notice: drain_nodes(notice, address, node_ip), say, interval=interval)
    return 0


@app.command()
@report_errors
def drain(
    address: AddressOption = None,
    node_ip: NodeIpOption = None,
    seconds: Annotated[float | None, typer.Option("--seconds", min=0, help="Time until this machine ends.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when the node has ended, or after --seconds, a minute without it, with exit code 1.")
    ] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the logs.")] = "this machine is taken out of the cluster",
) -> int:
    """Drain the Ray node of this machine: no new trials; those that run save their state and continue elsewhere.

    Example: `sweeper node drain --seconds 100 --wait`
    """
    from sweeper.tune.spot import Notice, drain_nodes, wait_until_gone

    typer.echo(drain_nodes(Notice(reason, seconds), address, node_ip))
    if not wait:
        return 0
    limit_s = WAIT_S if seconds is None else seconds
    if wait_until_gone(limit_s, address, node_ip):
        typer.echo("drained: the Ray node has ended, and no trial runs on it any more")
        return 0
    typer.echo(
        f"the Ray node has not ended within {limit_s:g} s; trials that still run on it go on elsewhere from their last stored state "
        "when it is stopped",
        err=True,
    )
    return 1
