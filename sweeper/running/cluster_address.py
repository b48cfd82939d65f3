"""The address of a Ray cluster as a text: what can be refused before Ray is loaded."""

from __future__ import annotations

from orca_core.errors import ConfigError, Fault

GCS_PORT = 6379
"""The port of `ray start --head`, unless it was given another one."""


def check_form(address: str) -> None:
    """Check that an address can be that of a cluster: `HOST:PORT`, or `auto`.

    Raises:
        ConfigError: If not.
    """
    if address == "auto":
        return
    if "://" in address:
        host = address.partition("://")[2].rpartition(":")[0] or "HEAD"
        raise address_fault(
            "must be the address of the cluster itself; Ray Client, at ray://, cannot run Ray Tune",
            address,
            f"Give --address {host}:{GCS_PORT}, the port of `ray start --head`, from a machine of the cluster or its network.",
        )
    host, colon, port = address.rpartition(":")
    if not host or not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        remedy = (
            f"Did you mean {host or port or 'HEAD'}:{GCS_PORT}? That is the port of `ray start --head`, unless it was given another one."
        )
        raise address_fault("must be HOST:PORT, or `auto` on a machine of the cluster", address, remedy)


def address_fault(rule: str, address: str, remedy: str) -> ConfigError:
    """A fault of the option `--address`."""
    return ConfigError([Fault("--address", rule, address, remedy)])


def describe_failure(error: OSError, address: str) -> tuple[str, str]:
    """Why no connection to an address came about, as a clause, and what to do about it."""
    import socket

    port = address.rpartition(":")[2]
    if isinstance(error, socket.gaierror):
        return "there is no host of this name", "Check the name, or give the IP address of the cluster's head."
    if isinstance(error, ConnectionRefusedError):
        return (
            "nothing listens there",
            f"Start a cluster there with `ray start --head --port={port}`, or check the port: it is usually {GCS_PORT}.",
        )
    if isinstance(error, TimeoutError):
        return "it does not answer", f"Check the address, and that the network and its firewalls let port {port} through."
    return error.strerror or str(error), "Check the address and the network."
