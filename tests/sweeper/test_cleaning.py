"""Making room: by age, size and sweep, never what a running sweep needs."""

from __future__ import annotations

import os
import time

import pytest

from orca_core.errors import ConfigError
from orca_core.store import Store
from sweeper.results import ResultStore
from sweeper.upkeep.cleaning import GIB, clean, remove_sweep

PLAN = {"metric": "valid_error", "trials": {}, "proposed_later": 0}


@pytest.fixture
def results(tmp_path) -> ResultStore:
    """Two sweeps: both need align/b, one alone align/a, the other alone align/c."""
    results = ResultStore(tmp_path / "results")
    results.save_plan("first", "p", PLAN | {"places": ["align/a", "align/b"]})
    results.save_plan("second", "p", PLAN | {"places": ["align/b", "align/c"]})
    return results


@pytest.fixture
def store(tmp_path) -> Store:
    """a is two days old, b one, c new; each is of some 1000 bytes."""
    store = Store(tmp_path / "store")
    for age, name in ((2, "a"), (1, "b"), (0, "c")):
        store.put(f"align/{name}/e00001", {}, {"rows": ["x" * 1000]})
        for file in (tmp_path / "store" / "align" / name).rglob("*.json"):
            os.utime(file, (time.time() - age * 86400 - 60,) * 2)
    return store


def left(store: Store) -> list[str]:
    return sorted(entry.place.removeprefix("align/") for entry in store.entries())


@pytest.mark.parametrize(
    ("bounds", "stays"),
    [
        ({"older_than_days": 1.5}, ["b", "c"]),
        ({"older_than_days": 0.5}, ["c"]),
        ({"most_gib": 2000 / GIB}, ["c"]),
        ({"most_gib": 1.0}, ["a", "b", "c"]),
        ({"sweep": "first"}, ["b", "c"]),
        ({"sweep": "second"}, ["a", "b"]),
    ],
    ids=str,
)
def test_the_oldest_go_first_and_only_what_no_other_sweep_needs(results, store, bounds, stays):
    planned = clean(results, store, dry_run=True, **bounds)
    assert left(store) == ["a", "b", "c"]
    done = clean(results, store, **bounds)
    assert left(store) == stays
    assert [entry.address for entry in done.dropped] == [entry.address for entry in planned.dropped]
    assert done.kept == sum(entry.size for entry in store.entries())


def test_what_a_running_sweep_needs_stays(results, store):
    results.beat("second", {"host": "elsewhere", "pid": 1, "time": time.time()})
    assert clean(results, store, most_gib=0.0).protected == ("second",)
    assert left(store) == ["b", "c"]


def test_a_bound_must_be_given(results, store):
    with pytest.raises(ConfigError, match="--older-than, --most or --sweep"):
        clean(results, store)
    with pytest.raises(ConfigError, match="Did you mean 'first'"):
        clean(results, store, sweep="firs")


def test_a_sweep_is_removed_with_its_rows_unless_it_runs(results):
    results.append("trials", "first", [{"trial": "t", "attempt": 1, "sequence": 0, "status": "COMPLETE"}])
    results.beat("first", {"host": "elsewhere", "pid": 1, "time": time.time()})
    with pytest.raises(ConfigError, match="process 1 on elsewhere runs first"):
        remove_sweep(results, "first")
    results.beat("first", {"host": "elsewhere", "pid": 1, "time": 0.0})
    assert "the rows of 1 trials" in remove_sweep(results, "first")
    assert results.sweeps() == ["second"]
