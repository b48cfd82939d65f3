"""What `sweeper doctor --address` says of nodes that do not answer, and of a cluster without any."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from sweeper.cli import app
from sweeper.tune import examination
from sweeper.tune.examination import describe_silence


@pytest.mark.parametrize(
    ("free_cpus", "reason", "remedy"),
    [
        (None, "Ray no longer hears from it", "Start its Ray again."),
        (1.0, "3 of its 4 CPUs are in use, so it may only be busy", "Examine it again once they are free"),
        (4.0, "none of its CPUs is in use", "`uptime` and `free -h`"),
    ],
)
def test_a_node_that_is_busy_is_told_from_one_that_hangs_or_is_gone(free_cpus, reason, remedy):
    said = describe_silence(4.0, free_cpus)
    assert reason in said
    assert remedy in said


def test_a_cluster_without_nodes_is_a_finding_with_a_remedy(monkeypatch):
    monkeypatch.setattr(examination, "examine_cluster", lambda *_: [])
    result = CliRunner().invoke(app, ["doctor", "--address", "10.0.0.1:6379"])
    assert result.exit_code == 1
    assert result.output.startswith("WRONG  the cluster at 10.0.0.1:6379 has no node with CPUs. Start one with `ray start")
