"""From reports to rows: attempts are counted, the older ones go, and no row stands without its trial."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from orca_core.config.resolve import resolve_config
from orca_core.rows import EpochRow, StageRow
from sweeper.planning.planner import make_plan
from sweeper.planning.trials import PlannedTrial
from sweeper.results import Results, ResultStore
from sweeper.running.recorder import Recorder, score_of
from sweeper.space.reading import parse_space

COMPLETE = {"status": "COMPLETE", "valid_error": 0.25, "test_error": 0.5}
STAGE = StageRow(stage="align", key="k", epochs=2, reused_epochs=1, seconds=3.0, saved_s=1.5)


def epoch(number: int, error: float = 0.5) -> EpochRow:
    return EpochRow(stage="finetune", epoch=number, valid_error=error, seconds=0.1)


@pytest.fixture
def planned() -> PlannedTrial:
    (trial,) = make_plan(parse_space({"name": "s", "base": {"task": "digits", "freezing": "frozen-body:2"}})).trials
    return trial


@pytest.fixture
def store(tmp_path) -> ResultStore:
    return ResultStore(tmp_path / "results")


def ask(store: ResultStore, sql: str) -> list[tuple]:
    return [tuple(row.values()) for row in Results(store.uri).sql(sql).rows()]


def test_a_trial_is_running_then_complete_in_one_row(store, planned):
    recorder = Recorder(store, "s", "valid_error")
    recorder.start(planned, device="cpu")
    recorder.flush()
    assert ask(store, "select status, attempt, sequence, freezing, align_epochs from trial_status") == [
        ("RUNNING", 1, 0, "frozen-body:2", 10)
    ]
    assert recorder.running == 1
    recorder.locate(planned.id, "elsewhere", 77)
    recorder.add_rows(planned.id, [STAGE, epoch(1), epoch(2)])
    recorder.end(planned.id, COMPLETE)
    recorder.flush()
    columns = "status, sequence, host, pid, valid_error, seconds_align, seconds_finetune, saved_s, score, in_plan"
    assert ask(store, f"select {columns} from trial_status") == [("COMPLETE", 1, "elsewhere", 77, 0.25, 3.0, 0.0, 1.5, "1-accuracy", True)]
    assert ask(store, "select trial, attempt, epoch from metrics order by epoch") == [(planned.id, 1, 1), (planned.id, 1, 2)]
    assert recorder.running == 0


@pytest.mark.parametrize(("reference", "score"), [(False, "1-position-auroc"), (True, "1-position-auroc-of-signs")])
def test_the_score_column_names_the_score_that_is_computed(store, planned, reference, score):
    config = resolve_config({"task": "nb360/cosmic", "recipe": "laptop", "reference_data": reference})
    recorder = Recorder(store, "s", "valid_error")
    recorder.start(replace(planned, config=config), device="cpu")
    recorder.flush()
    assert ask(store, "select score from trial_status") == [(score,)]


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_pause_is_no_end_and_what_was_computed_before_it_is_not_reused(store, planned):
    recorder = Recorder(store, "s", "valid_error", clock := Clock())
    recorder.start(planned, device="cpu")
    assert not recorder.resume(planned.id), "it is not paused"
    clock.now = 3.0
    recorder.add_rows(planned.id, [STAGE])
    clock.now = 10.0
    recorder.add_rows(planned.id, [epoch(1)])
    recorder.pause(planned.id)
    assert (recorder.running, recorder.paused) == (0, 1)
    clock.now = 50.0
    assert recorder.seconds(planned.id) == 10.0
    assert recorder.resume(planned.id)
    clock.now = 51.0
    again = StageRow(stage="align", key="k", epochs=2, reused_epochs=2, seconds=0.0, saved_s=4.5)
    recorder.add_rows(planned.id, [again, epoch(1)])
    tuned = StageRow(stage="finetune", key="f", epochs=2, reused_epochs=1, seconds=2.0, saved_s=6.5)
    clock.now = 53.0
    recorder.add_rows(planned.id, [epoch(2), tuned])
    recorder.end(planned.id, COMPLETE)
    recorder.flush()
    assert ask(store, "select attempt, sequence, seconds, seconds_align, seconds_finetune, saved_s from trial_status") == [
        (1, 1, 13.0, 3.0, 9.0, 1.5)
    ]
    assert ask(store, "select stage, reused_epochs, seconds, saved_s from stages order by stage") == [
        ("align", 1, 3.0, 1.5),
        ("finetune", 0, 9.0, 0.0),
    ]
    assert ask(store, "select epoch from metrics order by epoch") == [(1,), (2,)]


def test_a_trial_that_is_stopped_while_it_is_paused_has_the_time_that_it_ran(store, planned):
    recorder = Recorder(store, "s", "valid_error", clock := Clock())
    recorder.start(planned, device="cpu")
    clock.now = 4.0
    recorder.add_rows(planned.id, [epoch(1)])
    recorder.pause(planned.id)
    clock.now = 60.0
    recorder.end(planned.id, {"status": "PRUNED", "cause": "asha after epoch 1", "valid_error": 0.5})
    recorder.flush()
    assert ask(store, "select status, seconds, seconds_finetune from trial_status") == [("PRUNED", 4.0, 4.0)]


def test_rows_of_an_older_attempt_are_gone_when_a_trial_ran_again(store, planned):
    first = Recorder(store, "s", "valid_error")
    first.start(planned, device="cpu")
    first.add_rows(planned.id, [epoch(1, 0.9), epoch(2, 0.9), epoch(3, 0.9)])
    first.end(planned.id, {"status": "FAIL", "cause": "infrastructure"})
    first.flush()
    again = Recorder(store, "s", "valid_error")
    again.start(planned, device="cpu")
    again.add_rows(planned.id, [epoch(1, 0.1)])
    again.end(planned.id, COMPLETE)
    again.flush()
    assert ask(store, "select status, attempt, cause from trial_status") == [("COMPLETE", 2, None)]
    assert ask(store, "select epoch, valid_error from metrics") == [(1, 0.1)]
    assert store.curves("s", "valid_error") == {planned.id: {1: 0.1}}


@pytest.mark.parametrize("outcome", [COMPLETE, {"status": "PRUNED", "cause": "asha after epoch 1"}, {"status": "FAIL", "cause": "data"}])
def test_the_distances_of_the_proxy_are_the_trials_however_it_ends(store, planned, outcome):
    aligned = EpochRow(stage="align", epoch=1, valid_error=0.5, proxy_distance=3.5, proxy_distance_unlabelled=1.25)
    recorder = Recorder(store, "s", "valid_error")
    recorder.start(planned, device="cpu")
    recorder.add_rows(planned.id, [aligned, EpochRow(stage="align", epoch=2), epoch(1)])
    recorder.end(planned.id, outcome)
    recorder.flush()
    assert ask(store, "select proxy_distance, proxy_distance_unlabelled from trial_status") == [(3.5, 1.25)]
    in_epochs = ask(store, "select stage, epoch, proxy_distance, proxy_distance_unlabelled from metrics order by all")
    assert in_epochs == [("align", 1, 3.5, 1.25), ("align", 2, None, None), ("finetune", 1, None, None)]


def test_a_trial_that_starts_again_in_the_same_run_is_another_attempt(store, planned):
    recorder = Recorder(store, "s", "valid_error")
    for _ in range(3):
        recorder.start(planned, device="cpu")
    recorder.end(planned.id, COMPLETE)
    recorder.flush()
    assert ask(store, "select attempt, status from trial_status") == [(3, "COMPLETE")]


def test_no_row_is_ever_seen_without_its_trial(store, planned, monkeypatch):
    """Whoever reads between two files of a batch sees a whole picture: the trial first, its rows, its end last."""
    written = []
    append = store.append
    monkeypatch.setattr(store, "append", lambda table, sweep, rows: written.append((table, len(rows))) or append(table, sweep, rows))
    recorder = Recorder(store, "s", "valid_error")
    recorder.start(planned, device="cpu")
    recorder.add_rows(planned.id, [STAGE, epoch(1)])
    recorder.end(planned.id, COMPLETE)
    recorder.flush()
    assert [entry for entry in written if entry[1]] == [("trials", 1), ("stages", 1), ("metrics", 1), ("trials", 1)]


def test_a_trial_that_never_began_leaves_no_row(store, planned):
    recorder = Recorder(store, "s", "valid_error")
    recorder.end(planned.id, COMPLETE)
    recorder.flush()
    assert store.live_trials("s") == []


def test_a_trial_leaves_the_plan_and_comes_back(store, planned):
    recorder = Recorder(store, "s", "valid_error")
    recorder.start(planned, device="cpu")
    recorder.end(planned.id, COMPLETE)
    recorder.flush()
    for in_plan in (False, True):
        recorder.set_in_plan(store.live_trials("s"), in_plan)
        recorder.flush()
        assert ask(store, "select in_plan, status, valid_error from trial_status") == [(in_plan, "COMPLETE", 0.25)]


def test_cells_of_a_config_are_its_canonical_knobs(planned):
    cells = planned.cells()
    assert cells["align_lr_steps"] == [20, 40, 60]
    assert (cells["freezing"], cells["align_momentum"], cells["recipe"]) == ("frozen-body:2", None, None)


@pytest.mark.parametrize(
    ("row", "score"),
    [
        (COMPLETE, 0.25),
        ({"status": "PRUNED", "valid_error": 0.75}, 0.75),
        ({"status": "FAIL", "valid_error": None}, math.inf),
        ({"status": "FAIL", "valid_error": 0.1}, math.inf),
    ],
)
def test_a_failed_trial_ranks_behind_all_others(row, score):
    assert score_of(row, "valid_error") == score


def test_an_attempt_is_counted_whichever_table_knows_of_it(store, planned):
    recorder = Recorder(store, "s", "valid_error")
    recorder.start(planned, device="cpu")
    recorder.add_rows(planned.id, [STAGE])
    recorder.flush()
    for number in range(2):  # files that code their trials differently
        store.append("metrics", "s", [{"trial": f"other{number}", "attempt": number + 3, "epoch": 1}])
        store.append("stages", "s", [{"trial": planned.id, "attempt": number + 1}, {"trial": f"more{number}", "attempt": 1}])
    assert store.attempts("s") == {planned.id: 2, "other0": 3, "other1": 4, "more0": 1, "more1": 1}
    assert store.attempts("unknown") == {}
    again = Recorder(store, "s", "valid_error")
    again.start(planned, device="cpu")
    again.flush()
    assert ask(store, f"select attempt from trial_status where trial = '{planned.id}'") == [(3,)]
