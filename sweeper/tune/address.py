"""Checks the address of a cluster before Ray joins it: Ray itself would retry for minutes, or end the process."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
from typing import Any

import ray
from ray._private.services import find_gcs_addresses

from sweeper.running.cluster_address import GCS_PORT, address_fault, check_form, describe_failure

CONNECT_S = 5.0
"""Seconds in which something has to listen at the address."""

ANSWER_S = 15.0
"""Seconds in which Ray has to answer there, with those in which a process starts that asks."""

_OMIT = "Without --address the sweep runs on this machine."

_START = f"Start one with `ray start --head`. {_OMIT}"

_TOKEN = (
    "Copy the file ~/.ray/auth_token of its head to this machine, or set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH; "
    "RAY_AUTH_MODE must be `token` here or unset."
)


def check_address(address: str) -> None:
    """Check that a Ray cluster answers at an address, that it takes our token, and that it has our versions of Ray and Python.

    Raises:
        ConfigError: If not.
    """
    check_form(address)
    target = _resolve(address)
    check_form(target)  # $RAY_ADDRESS may be anything
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        why, remedy = describe_failure(error, target)
        raise address_fault(f"must be the address of a running Ray cluster ({why})", address, f"{remedy} {_OMIT}") from None
    _check_versions(_ask(address, target), address)


def _resolve(address: str) -> str:
    """The address that Ray would join."""
    if address != "auto":
        return address
    if (given := os.environ.get("RAY_ADDRESS", "auto")) != "auto":
        return given
    if found := sorted(find_gcs_addresses()):
        return found[0]
    raise address_fault("must be that of a cluster: `auto` found no Ray on this machine", address, _START)


def _ask(address: str, target: str) -> dict[str, Any]:
    """What the cluster says about itself: `ray_version` and `python_version`."""
    try:
        done = subprocess.run([sys.executable, "-c", _QUESTION, target], capture_output=True, text=True, timeout=ANSWER_S)
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        rule = f"must be the address of a Ray cluster; what listens there has not answered for {ANSWER_S:g} s"
        remedy = f"Check the port, usually {GCS_PORT}, and whether the machine is overloaded. {_OMIT}"
        raise address_fault(rule, address, remedy) from None
    except (IndexError, ValueError):  # Ray's C++ part ended the process
        lines = done.stderr.strip().splitlines() or ["no answer"]
        answer = {"error": lines[-1]}
    if wrong := answer.get("token"):
        raise address_fault(f"must be a cluster that lets us in; {wrong}", address, _TOKEN)
    if error := answer.get("error"):
        rule = f"must be the address of a Ray cluster; what listens there is none ({error[:200]})"
        raise address_fault(rule, address, f"Give the port of `ray start --head`, usually {GCS_PORT}.")
    return answer


_QUESTION = """
import json, os, sys
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._raylet import AuthenticationTokenLoader, GcsClient
from ray.exceptions import AuthenticationError

def ask():
    sends = maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    if sends and not AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
        return {"token": "RAY_AUTH_MODE is `token` here, but this machine has no token"}
    try:
        return json.loads(GcsClient(address=sys.argv[1]).internal_kv_get(b"CLUSTER_METADATA", b"cluster", timeout=5) or b"{}")
    except AuthenticationError:
        return {"token": "the token of this machine is not that of the cluster" if sends else "it wants a token, and none was given"}
    except Exception as error:
        return {"error": (str(error).strip().splitlines() or [type(error).__name__])[0]}

print(json.dumps(ask()))
"""
"""Asked in a process of its own: after any of this `ray.init` starts no actors, and at some errors Ray ends the process."""


def _check_versions(about: dict[str, Any], address: str) -> None:
    there = {"Ray": about.get("ray_version"), "Python": about.get("python_version")}
    here = {"Ray": ray.__version__, "Python": platform.python_version()}
    other = [f"{name} {there[name]} instead of {here[name]}" for name in here if there[name] and there[name] != here[name]]
    if other:
        rule = f"must be a cluster with the versions of this machine; it has {' and '.join(other)}"
        raise address_fault(rule, address, "Install the same versions on both.")
