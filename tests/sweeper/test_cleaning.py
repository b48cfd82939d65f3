"""Making room: by age, size and sweep, never what a running sweep needs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from orca_core.addresses import Address
from orca_core.errors import ConfigError
from orca_core.store import Store
from sweeper.planning.planner import make_plan
from sweeper.results import Workspace
from sweeper.running.plan_note import plan_note
from sweeper.space.reading import parse_space
from sweeper.upkeep.cleaning import GIB, clean, remove_sweep
from sweeper.upkeep.doctor import examine

RUN = "20260101T000000-a"
PLAN = {"metric": "valid_error", "trials": {}, "proposed_later": 0}


def put(store: Store, address: Address, days: float = 0.0) -> None:
    """Store an artifact of some 1000 bytes, written so many days ago."""
    store.put(address, {}, {"rows": ["x" * 1000]})
    for file in Path(store.uri, str(address)).rglob("*.json"):
        os.utime(file, (time.time() - days * 86400 - 60,) * 2)


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    """Two sweeps: both need align/b, one alone align/a, the other alone align/c. a is two days old, b one, c new."""
    workspace = Workspace(tmp_path / "results", store=tmp_path / "store")
    workspace.results.save_plan("first", "p", PLAN | {"places": ["align/a", "align/b"]})
    workspace.results.save_plan("second", "p", PLAN | {"places": ["align/b", "align/c"]})
    for days, name in ((2, "a"), (1, "b"), (0, "c")):
        put(workspace.artifacts, Address.after("align", name, 1), days)
    return workspace


def left(workspace: Workspace, kind: str = "align") -> list[str]:
    return sorted(entry.address.key for entry in workspace.artifacts.entries() if entry.address.kind == kind)


def run_elsewhere(workspace: Workspace, sweep: str, **more: float) -> None:
    """Let a sweep look as if another machine ran it."""
    workspace.results.write_claim(sweep, RUN, {"host": "elsewhere", "pid": 1, "holds": True, "began": time.time()} | more)


@pytest.mark.parametrize(
    ("bounds", "stays"),
    [
        ({"older_than_days": 1.5}, ["b", "c"]),
        ({"older_than_days": 0.5}, ["c"]),
        ({"max_gib": 2000 / GIB}, ["c"]),
        ({"max_gib": 1.0}, ["a", "b", "c"]),
        ({"sweep": "first"}, ["b", "c"]),
        ({"sweep": "second"}, ["a", "b"]),
    ],
    ids=str,
)
def test_the_oldest_go_first_and_only_what_no_other_sweep_needs(workspace, bounds, stays):
    planned = clean(workspace, dry_run=True, **bounds)
    assert left(workspace) == ["a", "b", "c"]
    done = clean(workspace, **bounds)
    assert left(workspace) == stays
    assert [entry.address for entry in done.dropped] == [entry.address for entry in planned.dropped]
    assert done.remaining == sum(entry.size for entry in workspace.artifacts.entries())


def test_what_a_running_sweep_needs_stays(workspace):
    run_elsewhere(workspace, "second")
    assert clean(workspace, max_gib=0.0).protected == ("second",)
    assert left(workspace) == ["b", "c"]


def test_what_was_written_since_a_running_sweep_began_stays_whether_a_plan_lists_it_or_not(workspace):
    """Under tpe its trials are not known beforehand."""
    put(workspace.artifacts, Address.after("align", "proposed", 1))
    run_elsewhere(workspace, "second", began=time.time() - 3600)
    clean(workspace, max_gib=0.0)
    assert left(workspace) == ["b", "c", "proposed"]


@pytest.fixture
def planned(workspace) -> str:
    """A sweep as a driver notes it, with the model that its trial kept; its result key."""
    plan = make_plan(parse_space({"name": "third", "base": {"task": "digits"}}))
    workspace.results.save_plan("third", plan.hash, plan_note(plan))
    key = plan.trials[0].result_key
    put(workspace.artifacts, Address.model(key, "best"))
    return key


def test_models_that_a_running_sweep_has_kept_stay(workspace, planned):
    put(workspace.artifacts, Address.model("of another sweep", "best"))
    run_elsewhere(workspace, "third")
    clean(workspace, max_gib=0.0)
    assert left(workspace, "model") == [planned]


def test_the_models_of_a_sweep_go_with_its_stages(workspace, planned):
    put(workspace.artifacts, Address.model("of another sweep", "best"))
    clean(workspace, sweep="third")
    assert left(workspace, "model") == ["of another sweep"]
    assert left(workspace) == ["a", "b", "c"]


def test_models_and_stages_of_trials_that_no_plan_lists_are_known_by_their_rows(workspace):
    """Plans of version 0.1 have no models, and none of what tpe proposed later."""
    for sweep, key in (("first", "k1"), ("second", "k2")):
        row = {"trial": "t", "attempt": 1, "sequence": 0, "status": "COMPLETE", "result_key": key}
        workspace.results.append("trials", sweep, [row])
        workspace.results.append("stages", sweep, [{"trial": "t", "attempt": 1, "stage": "source", "key": key}])
        put(workspace.artifacts, Address.model(key, "last"))
        put(workspace.artifacts, Address("source", key, "whole"))
    clean(workspace, sweep="first")
    assert (left(workspace, "model"), left(workspace, "source")) == (["k2"], ["k2"])
    run_elsewhere(workspace, "second")
    clean(workspace, max_gib=0.0)
    assert (left(workspace, "model"), left(workspace, "source")) == (["k2"], ["k2"])


@pytest.fixture
def private(workspace) -> Store:
    """The private store of a trial of `first`, which was run with --no-share."""
    store = Store(workspace.private_uri("first", "trial"))
    put(store, Address.after("align", "a", 1))
    return store


def test_private_stores_are_not_looked_at_while_their_sweep_runs(workspace, private):
    run_elsewhere(workspace, "first")
    for bounds in ({"max_gib": 0.0}, {"older_than_days": 0.0}, {"sweep": "first"}, {"sweep": "second"}):
        clean(workspace, **bounds)
    assert len(private.entries()) == 1


def test_private_stores_of_a_sweep_go_when_it_is_cleaned(workspace, private):
    clean(workspace, max_gib=0.0)
    clean(workspace, sweep="second")
    clean(workspace, sweep="first", dry_run=True)
    assert len(private.entries()) == 1
    clean(workspace, sweep="first")
    assert private.entries() == []


def test_a_doctor_takes_private_stages_for_sound_and_leaves_them(workspace, private):
    old = workspace.artifacts  # where version 0.1 had them: in the shared store
    put(Store(f"{old.uri}/unshared/trial"), Address.after("align", "a", 1))
    report, healthy = examine(workspace, repair=True)
    assert healthy
    assert "incomplete" not in report
    assert len(private.entries()) == len(Store(f"{old.uri}/unshared/trial").entries()) == 1


def test_a_bound_must_be_given(workspace):
    with pytest.raises(ConfigError, match="--older-than, --most or --sweep"):
        clean(workspace)
    with pytest.raises(ConfigError, match="Did you mean 'first'"):
        clean(workspace, sweep="firs")


def test_a_sweep_is_removed_with_its_rows_unless_it_runs(workspace):
    results = workspace.results
    results.append("trials", "first", [{"trial": "t", "attempt": 1, "sequence": 0, "status": "COMPLETE"}])
    run_elsewhere(workspace, "first")
    with pytest.raises(ConfigError, match=r"is being run by process 1 on elsewhere\. .*`sweeper stop first --results "):
        remove_sweep(results, "first")
    results.drop_claim("first", RUN)
    assert "the rows of 1 trials" in remove_sweep(results, "first")
    assert results.sweeps() == ["second"]
