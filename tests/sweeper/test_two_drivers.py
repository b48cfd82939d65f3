"""Two drivers that got in all the same: every view shows one attempt of one run, however their rows were written and compacted."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orca_core.rows import EpochRow, StageRow
from sweeper.planning.planner import make_plan
from sweeper.planning.trials import PlannedTrial
from sweeper.results import Results, ResultStore, Workspace
from sweeper.running.recorder import Recorder
from sweeper.space.reading import parse_space
from sweeper.upkeep.doctor import _find_doubled, examine

EARLY, LATE = "20260101T000000-b", "20260101T000002-a"
EPOCHS = 2

Step = Callable[[], object]


@pytest.fixture
def store(tmp_path) -> ResultStore:
    return ResultStore(tmp_path / "results")


@pytest.fixture(scope="module")
def trials() -> list[PlannedTrial]:
    space = {"name": "s", "base": {"task": "digits", "body.weights": "random", "finetune.epochs": EPOCHS}, "seeds": 2}
    return list(make_plan(parse_space(space)).trials)


def driver(store: ResultStore, trial: PlannedTrial, run: str | None, end: dict[str, Any] | None) -> Iterator[Step]:
    """What a driver does for a trial, step by step; errors tell the run."""
    recorder = Recorder(store, "s", "valid_error", run=run)
    error = 0.5 if run == LATE else 0.25

    def report(epoch: int) -> None:
        recorder.add_rows(trial.id, [EpochRow(stage="finetune", epoch=epoch, valid_error=error)])

    yield lambda: recorder.start(trial, device="cpu")
    yield recorder.flush
    for epoch in range(1, EPOCHS + 1):
        yield lambda epoch=epoch: report(epoch)
        yield recorder.flush
    stage = StageRow(stage="finetune", key="k", epochs=EPOCHS, reused_epochs=0, seconds=1.0, saved_s=0.0)
    yield lambda: recorder.add_rows(trial.id, [stage])
    if end is not None:
        yield lambda: recorder.end(trial.id, end)
    yield recorder.flush


COMPLETE = {"status": "COMPLETE", "valid_error": 0.1, "best_epoch": 1}
FAIL = {"status": "FAIL", "cause": "stopped", "error": "the sweep was stopped"}


@pytest.mark.parametrize(
    ("first", "early", "late"),
    [(EARLY, COMPLETE, COMPLETE), (EARLY, COMPLETE, FAIL), (EARLY, FAIL, COMPLETE), (EARLY, None, COMPLETE), (None, COMPLETE, COMPLETE)],
    ids=["both complete", "the later fails", "the earlier fails", "the earlier is killed", "the earlier is of version 0.1"],
)
def test_no_view_doubles_a_row(store, trials, first, early, late):
    """Both read the attempts at once, so both make attempt 1. Their steps mix at random, and so do compactions."""
    draws = random.Random(f"{first} {early} {late}")
    trial = trials[0]
    steps = [driver(store, trial, first, early), driver(store, trial, LATE, late)]
    for one in steps:
        next(one)()
    while steps:
        one = draws.choice(steps)
        step = next(one, None)
        if step is None:
            steps.remove(one)
        else:
            step()
        if draws.random() < 0.2:
            store.compact("s")
            check_views(store)
    check_views(store, is_over=True, is_complete=late == COMPLETE)
    store.compact("s")
    check_views(store, is_over=True, is_complete=late == COMPLETE)
    assert _find_doubled(Workspace(store.uri)) == {}


ROWS = """
    select 'metrics' as view, trial, run, epoch, valid_error from metrics union all
    select 'stages', trial, run, null, null from stages union all
    select 'trial_status', trial, run, null, null from trial_status union all
    select 'trials', trial, run, null, null from trials union all
    select 'distinct_trials', trial, run, null, null from distinct_trials
"""


def check_views(store: ResultStore, is_over: bool = False, is_complete: bool = False) -> None:
    rows = Results(store.uri).sql(ROWS).rows()
    of = {view: [row for row in rows if row["view"] == view] for view in ("metrics", "stages", "trial_status", "trials", "distinct_trials")}
    assert len(of["trial_status"]) == len(store.live_trials("s", ["trial"])) <= 1
    assert len({row["run"] for row in rows}) <= 1
    epochs = [row["epoch"] for row in of["metrics"]]
    assert len(epochs) == len(set(epochs))
    if is_over:
        assert {row["run"] for row in rows} == {LATE}
        assert (sorted(epochs), len(of["stages"])) == ([1, 2], 1)
        assert {row["valid_error"] for row in of["metrics"]} == {0.5}
        assert store.curves("s", "valid_error") == {rows[0]["trial"]: {1: 0.5, 2: 0.5}}
        assert len(of["trials"]) == len(of["distinct_trials"]) == is_complete


def test_a_later_attempt_of_an_earlier_run_counts(store, trials):
    """The numbers of attempts come first: they are right even if a clock went back between two runs."""
    for run, error in ((LATE, 0.5), (EARLY, 0.25)):
        for step in driver(store, trials[0], run, COMPLETE):
            step()
        assert store.attempts("s")[trials[0].id] == (1 if run == LATE else 2)
        assert Results(store.uri).sql("select distinct run, valid_error from metrics").rows() == [{"run": run, "valid_error": error}]


def test_rows_that_an_earlier_run_writes_after_compaction_do_not_count(store, trials):
    early, late = driver(store, trials[0], EARLY, None), driver(store, trials[0], LATE, COMPLETE)
    next(early)(), next(late)()
    next(early)()
    for step in late:
        step()
    store.compact("s")
    check_views(store, is_over=True, is_complete=True)
    for step in early:
        step()
    check_views(store, is_over=True, is_complete=True)
    store.compact("s")
    check_views(store, is_over=True, is_complete=True)


# ------------------------------------------------------------------------------------------------------------------- doctor


def write_twice(store: ResultStore, trials: list[PlannedTrial], lost: int = 0) -> None:
    """Two complete trials as two drivers of version 0.1 wrote them; the second one lacks rows of epochs."""
    for trial, missing in zip(trials, (0, lost), strict=True):
        for _ in range(2):
            recorder = Recorder(store, "s", "valid_error")
            recorder._attempts = {}
            recorder.start(trial, device="cpu")
            rows = [EpochRow(stage="finetune", epoch=epoch, valid_error=0.5) for epoch in range(1, EPOCHS + 1 - missing)]
            stage = StageRow(stage="finetune", key="k", epochs=EPOCHS, reused_epochs=0, seconds=1.0, saved_s=0.0)
            recorder.add_rows(trial.id, [*rows, stage])
            recorder.end(trial.id, COMPLETE)
            recorder.flush()
    store.save_plan("s", "p", {"metric": "valid_error", "trials": {}, "proposed_later": 0})


def test_a_doctor_tells_doubled_rows_from_missing_ones_and_mends_both(store, trials):
    write_twice(store, trials, lost=1)
    count = "select trial, count(*) as n from {} group by all order by n"
    assert [row["n"] for row in Results(store.uri).sql(count.format("metrics")).rows()] == [2, 4]
    text, is_fine = examine(Workspace(store.uri))
    assert not is_fine
    assert "s: 2 trials have doubled rows" in text
    assert "s: 1 trials lack rows" in text

    text, _ = examine(Workspace(store.uri), repair=True)
    assert "s: 2 trials had doubled rows; one of each was kept" in text
    assert "s: 1 trials lack rows; the next run of the sweep restores them" in text
    assert [row["n"] for row in Results(store.uri).sql(count.format("metrics")).rows()] == [1, 2]
    assert [row["n"] for row in Results(store.uri).sql(count.format("stages")).rows()] == [1, 1]
    status = {row["trial"]: row["status"] for row in store.live_trials("s")}
    assert status == {trials[0].id: "COMPLETE", trials[1].id: "FAIL"}
    text, is_fine = examine(Workspace(store.uri))
    assert "s: rows are complete" in text
    assert "doubled rows" not in text


def test_doubled_rows_alone_are_no_missing_ones(store, trials):
    write_twice(store, trials)
    assert "lack rows" not in examine(Workspace(store.uri))[0]
    examine(Workspace(store.uri), repair=True)
    assert {row["status"] for row in store.live_trials("s")} == {"COMPLETE"}


def test_a_doctor_leaves_the_rows_of_a_running_sweep_alone(store, trials):
    write_twice(store, trials, lost=1)
    store.write_claim("s", EARLY, {"host": "elsewhere", "pid": 1, "holds": True})
    before = Results(store.uri).sql("select * from metrics order by all").rows()
    assert "s: process 1 on elsewhere runs it" in examine(Workspace(store.uri), repair=True)[0]
    assert Results(store.uri).sql("select * from metrics order by all").rows() == before
