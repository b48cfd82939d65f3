"""Numbers of the other figures: effects, shares, ranks, distances, costs, and what ran when."""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime, timedelta

import pytest
from recorded import record

from sweeper.analysis.associations import distance_against_error
from sweeper.show.comparison import compare_sweep
from sweeper.show.figures import NotInTablesError, available, find_figure, read_tables
from sweeper.show.figures.pareto import mark_best
from sweeper.show.figures.ranks import join_ranks
from sweeper.show.figures.series import Point

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def read(tables, name):
    return find_figure(name).read(tables)


# ----------------------------------------------------------------------------------------------------------- effects and shares


def test_effects_are_those_of_compare_as_shares_of_the_baselines_error(rich, rich_tables):
    data = read(rich_tables, "effects")
    effects = compare_sweep(rich, "rich", {}).effects
    assert [(row.task, row.label, row.n, row.verdict) for row in data.rows] == [(e.task, str(e.level), e.n, e.verdict) for e in effects]
    for row, effect in zip(data.rows, effects, strict=True):
        assert row.relative == effect.relative
        scale = effect.baseline_mean if effect.task is not None else 1.0
        assert row.low == pytest.approx(effect.low / scale)
        assert row.margin == pytest.approx(effect.margin / scale)
    assert data.rows[-1].task is None
    assert data.title == "Effects of align.epochs, against 0"


def test_without_a_question_every_varied_knob_is_compared_with_its_usual_baseline(workspace):
    space = {
        "task": {"grid": ["digits"]},
        "freezing": {"grid": ["frozen-body", "full", "layernorm"]},
        "body.weights": {"grid": ["pretrained", "random"]},
    }
    record(workspace, {"name": "s", "space": space, "seeds": 2}, lambda cells: 0.1 + 0.1 * (cells["freezing"] != "full"))
    rows = read(read_tables(workspace, "s"), "effects").rows
    found = {row.label: (row.relative, row.text) for row in rows}
    assert set(found) == {"freezing frozen-body", "freezing layernorm", "body.weights pretrained"}
    assert found["freezing layernorm"][0] == pytest.approx(1.0)
    assert found["body.weights pretrained"][1].startswith("+0.0 %")


def test_a_baseline_near_0_has_no_share(workspace):
    space = {"task": {"grid": ["digits"]}, "freezing": {"grid": ["full", "frozen-body"]}}
    record(workspace, {"name": "s", "space": space, "seeds": 2}, lambda cells: 0.1 * (cells["freezing"] != "full"))
    (row,) = read(read_tables(workspace, "s"), "effects").rows
    assert (row.relative, row.low) == (None, None)
    assert row.text.startswith("+0.1, baseline near 0, n 2")


def test_shares_of_variance_are_bars_and_small_ones_are_added_up(rich_tables, monkeypatch):
    whole = read(rich_tables, "importance").bars["digits"]
    assert [bar.label for bar in whole][-2:] in (["seed", "rest"], ["rest", "seed"])
    assert whole[0].label == "freezing"
    monkeypatch.setattr("sweeper.show.figures.importance.MAX_BARS", 1)
    short = read(dataclasses.replace(rich_tables), "importance").bars["digits"]
    assert short[0] == whole[0]
    assert short[1].label == f"{len(whole) - 3} smaller ones"
    assert math.fsum(bar.share for bar in short) == pytest.approx(math.fsum(bar.share for bar in whole))


def test_ranks_and_the_critical_difference_are_those_of_demsar(workspace):
    errors = {"full": 0.1, "layernorm": 0.2, "frozen-body": 0.3}
    levels = {"task": ["digits", "mnist1d", "digits-shifted"], "freezing": list(errors)}

    def error(cells):
        swapped = {"layernorm": 0.3, "frozen-body": 0.2}
        return swapped.get(cells["freezing"], 0.1) if cells["task"] == "mnist1d" else errors[cells["freezing"]]

    record(workspace, {"name": "s", "space": {knob: {"grid": values} for knob, values in levels.items()}, "seeds": 2}, error)
    data = read(read_tables(workspace, "s"), "ranks")
    assert dict(data.ranks) == pytest.approx({"full": 1.0, "layernorm": 7 / 3, "frozen-body": 8 / 3})
    # Demsar 2006, table 5: q at 5 % of 3 levels is 2.343
    assert data.critical_difference == pytest.approx(2.343 * math.sqrt(3 * 4 / (6 * 3)), abs=1e-3)
    assert data.groups == ((0, 2),)


def test_groups_of_ranks_are_the_longest_within_the_critical_difference():
    assert join_ranks([1.0, 1.5, 2.4, 4.0], 1.0) == ((0, 1), (1, 2))
    assert join_ranks([1.0, 3.0], 1.0) == ()
    assert join_ranks([1.0, 1.2, 1.4], 5.0) == ((0, 2),)


# ----------------------------------------------------------------------------------------------------------- distances and costs


def test_distances_against_errors_have_the_correlation_of_findings(workspace):
    space = {"task": {"grid": ["digits"]}, "align.epochs": {"grid": [1, 2, 3, 4, 5]}}
    record(
        workspace,
        {"name": "s", "space": space, "seeds": 3},
        lambda cells: 0.1 + 0.01 * ((cells["align_epochs"] * 2 + cells["seed"]) % 5),
        distance=lambda cells, epoch: 20.0 - epoch + 0.1 * cells["seed"],
    )
    tables = read_tables(workspace, "s")
    (cloud,) = read(tables, "distance-error").clouds
    expected = distance_against_error(tables.evidence.arms, tables.evidence.distances)["digits"]
    assert cloud.association == expected
    assert expected.arms == 5
    assert list(cloud.points) == [f"align.epochs {epochs}" for epochs in range(1, 6)]
    assert cloud.points["align.epochs 5"] == tuple(pytest.approx(point) for point in ((15.0, 0.1), (15.1, 0.11), (15.2, 0.12)))


def test_an_arm_is_best_if_no_other_is_better_and_cheaper():
    points = [Point(cost, error, None, None, 1) for cost, error in ((1, 0.5), (2, 0.6), (2, 0.4), (3, 0.4), (4, 0.1))]
    arms = mark_best([(str(number), point) for number, point in enumerate(points)])
    assert [(arm.label, arm.is_best) for arm in arms] == [("0", True), ("2", True), ("1", False), ("3", False), ("4", True)]


def test_costs_are_the_time_without_reuse_and_the_most_parameters_that_train(rich_tables):
    fronts = {(front.task, front.cost): front for front in read(rich_tables, "pareto").fronts}
    seconds = {arm.label: arm.error.x for arm in fronts["digits", "computing time of a trial (s)"].arms}
    assert seconds["align.epochs 0, freezing full"] == pytest.approx(1.25)
    assert seconds["align.epochs 2, proxy photos, freezing full"] == pytest.approx(1.75)
    trained = {arm.label: arm.error.x for arm in fronts["digits", "trained parameters"].arms}
    assert trained["align.epochs 0, freezing full"] == 1000
    assert trained["align.epochs 0, freezing frozen-body"] == 10


def test_label_distances_are_means_over_seeds_of_the_first_and_last_epoch(rich_tables):
    maps = {(one.task, one.proxy): one for one in read(rich_tables, "label-distances").maps}
    assert set(maps) == {("digits", "photos"), ("digits", "noise-matched:photos"), ("mnist1d", "pydoc"), ("mnist1d", "noise-matched:pydoc")}
    one = maps["digits", "photos"]
    assert (one.first_epoch, one.last_epoch, one.seeds) == (1, 4, 3)
    assert one.first == ((3.0, 4.0, 5.0), (4.0, 5.0, 6.0))  # row + column + 1 + mean of 0, 2, 4
    assert one.last[1] == (7.0, 8.0, 9.0)


# ------------------------------------------------------------------------------------------------------------- what ran when


def attempt(trial, start, end, *, status="COMPLETE", number=1, host="a", cause=None, **cells):
    """A row of an attempt, with times in minutes."""
    times = {"started_at": BEGIN + timedelta(minutes=start), "ended_at": BEGIN + timedelta(minutes=end)}
    return {"trial": trial, "attempt": number, "run": "r", "status": status, "host": host, "cause": cause, **times, **cells}


def stage(trial, kind, seconds, saved=0.0, *, number=1):
    return {"trial": trial, "attempt": number, "run": "r", "stage": kind, "phase": 0, "fold": None, "seconds": seconds, "saved_s": saved}


def test_probes_are_means_over_seeds_by_layer_and_moment(rich_tables):
    panels = read(rich_tables, "probes").panels
    assert len(panels) == 6  # the three best arms of two tasks
    aligned = next(panel for panel in panels if "align.epochs 4" in panel.task and panel.task.startswith("digits: effective-rank\n"))
    lines = {series.label: [(point.x, point.mean, point.n) for point in series.points] for series in aligned.series}
    assert lines == {
        moment: [(layer, layer + len(moment) + 2.0, 3) for layer in range(3)] for moment in ("start", "aligned", "fine-tuned")
    }  # seeds 0, 1 and 2
    assert {series.label for panel in panels if "align.epochs 0" in panel.task for series in panel.series} == {"start", "fine-tuned"}


def test_timeline_lays_attempts_into_slots_and_stages_end_to_end(rich_tables):
    attempts = [
        attempt("t1", 0, 60),
        attempt("t2", 0, 30, status="INTERRUPTED", cause="infrastructure"),
        attempt("t2", 30, 60, number=2),
        attempt("t3", 10, 20, host="b", status="FAIL", cause="cuda"),
        attempt("t4", 0, 1, reused_from="other"),
        {"trial": "t5", "attempt": 1, "run": "r", "status": "RUNNING", "started_at": BEGIN, "ended_at": None},
    ]
    stages = [stage("t1", "finetune", 1800.0), stage("t1", "align", 900.0, 450.0), stage("t2", "finetune", 3600.0, number=2)]
    data = read(dataclasses.replace(rich_tables, attempts=attempts, stages=stages), "timeline")
    assert [(one.trial, one.slot) for one in data.attempts] == [("t1", 0), ("t2", 1), ("t2", 1), ("t3", 2)]
    assert data.slots == ("a", "a", "b")
    assert [(part.stage, part.start, part.end) for part in data.attempts[0].parts] == [("align", 0, 0.25), ("finetune", 0.25, 0.75)]
    (long,) = data.attempts[2].parts  # an hour in an attempt of half an hour
    assert (long.start, long.end) == pytest.approx((0.5, 1.0))
    assert (data.hours["align"].computed, data.hours["align"].reused) == pytest.approx((0.25, 0.125))
    assert data.taken_over == 1
    assert "1 cuda, 1 infrastructure" in data.caption


def test_best_so_far_counts_a_candidate_when_its_last_seed_has_finished(workspace):
    space = {"task": {"grid": ["digits"]}, "freezing": {"grid": ["full", "frozen-body", "layernorm"]}}
    errors = {"full": 0.3, "frozen-body": 0.1, "layernorm": 0.2}
    ends = {("frozen-body", 0): 1, ("layernorm", 0): 2, ("full", 0): 3, ("full", 1): 4, ("layernorm", 1): 5, ("frozen-body", 1): 6}
    record(
        workspace,
        {"name": "s", "space": space, "seeds": 2},
        lambda cells: {"test_error": errors[cells["freezing"]], "valid_error": 0.5 * errors[cells["freezing"]]},
    )
    tables = read_tables(workspace, "s")
    attempts = [attempt(row["trial"], 0, ends[row["freezing"], row["seed"]]) for row in tables.sweep.rows]
    (progress,) = read(dataclasses.replace(tables, attempts=attempts), "best-so-far").tasks
    assert [(step.trials, step.objective, step.error) for step in progress.steps] == [
        (4, pytest.approx(0.15), pytest.approx(0.3)),
        (5, pytest.approx(0.1), pytest.approx(0.2)),
        (6, pytest.approx(0.05), pytest.approx(0.1)),
    ]
    assert progress.trials == 6


# ----------------------------------------------------------------------------------------------------------------- what cannot be


def reasons(workspace, name):
    return {kind.name: reason for kind, reason in available(read_tables(workspace, name))}


def test_a_sweep_that_has_not_started_feeds_nothing(workspace):
    record(
        workspace, {"name": "s", "space": {"freezing": {"grid": ["full", "frozen-body"]}, "task": {"grid": ["digits"]}}}, lambda cells: None
    )
    assert all(reasons(workspace, "s").values())


def test_a_sweep_that_failed_altogether_feeds_its_timeline_alone(workspace):
    space = {"freezing": {"grid": ["full", "frozen-body"]}, "task": {"grid": ["digits"]}, "align.epochs": {"grid": [0, 2]}}
    record(workspace, {"name": "s", "space": space, "seeds": 2}, lambda cells: {"status": "FAIL", "cause": "cuda"})
    assert [name for name, reason in reasons(workspace, "s").items() if reason is None] == ["timeline"]


def test_the_reason_names_what_the_sweep_does_not_vary(rich_tables):
    found = {kind.name: reason for kind, reason in available(rich_tables)}
    assert found["low-data"] == "the sweep does not vary train_samples"
    assert [name for name, reason in found.items() if reason is not None] == ["explain", "pretraining", "low-data", "published"]
    with pytest.raises(NotInTablesError, match="train_samples"):
        read(rich_tables, "low-data")
