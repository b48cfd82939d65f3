"""The address of a cluster: what is wrong with it is said in one sentence, with what to do, and as early as it can be known."""

from __future__ import annotations

import socket

import pytest
from typer.testing import CliRunner

from orca_core.errors import ConfigError
from sweeper.cli import app
from sweeper.running.cluster_address import check_form, describe_failure
from sweeper.sweep import run_space


@pytest.mark.parametrize("address", ["auto", "head:6379", "10.0.0.1:7001", "[::1]:6379"])
def test_what_can_be_an_address_passes(address):
    check_form(address)


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("head", "Did you mean head:6379?"),
        ("head:", "Did you mean head:6379?"),
        (":6379", "or `auto` on a machine of the cluster, but got ':6379'."),
        ("head:http", "Did you mean head:6379?"),
        ("head:99999", "Did you mean head:6379?"),
        ("ray://10.0.0.1:10001", "Give --address 10.0.0.1:6379, the port of `ray start --head`"),
    ],
)
def test_what_cannot_be_one_is_refused_before_anything_is_loaded(address, remedy):
    result = CliRunner().invoke(app, ["run", "no-such-space", "--address", address])
    assert result.exit_code == 2
    assert result.output.startswith("--address: must be ")
    assert remedy in result.output
    assert "no-such-space" not in result.output


def test_an_address_at_which_nothing_listens_is_no_fault_of_the_file(load, tmp_path):
    with socket.socket() as taken:  # bound, so that nobody else gets the port, but it does not listen
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError) as caught:
            run_space(load("name: s\nbase: {task: digits}\n"), tmp_path / "results", address=address, quiet=True)
    assert str(caught.value).startswith(
        f"--address: must be the address of a running Ray cluster (nothing listens there), but got '{address}'. Start a cluster there "
    )


def test_a_host_that_is_not_known_or_does_not_answer_has_a_remedy_of_its_own():
    unknown = describe_failure(socket.gaierror(-2, "Name or service not known"), "heda:6379")
    assert unknown == ("there is no host of this name", "Check the name, or give the IP address of the cluster's head.")
    why, remedy = describe_failure(TimeoutError("timed out"), "10.0.0.1:6379")
    assert why == "it does not answer"
    assert "firewalls let port 6379 through" in remedy
