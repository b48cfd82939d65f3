"""Numbers of the figures that show means over seeds: which trials a point is the mean of, and its interval."""

from __future__ import annotations

import dataclasses
import math

import pytest
from recorded import FROZEN, NOISE, record, record_floor, rich_error
from scipy import stats

from sweeper.show.figures import NotInTablesError, find_figure, read_tables
from sweeper.show.figures.levels import Level
from sweeper.show.figures.pretraining import amount_of, merge_levels


def read(tables, name):
    return find_figure(name).read(tables)


def panel_of(data, task):
    return next(panel for panel in data.panels if panel.task == task)


def line(panel, label):
    return next(series for series in panel.series if series.label == label)


def points(panel, label):
    return {point.x: point for point in line(panel, label).points}


def interval(values):
    """Student's interval of a mean, by scipy."""
    return stats.ttest_1samp(values, 0.0).confidence_interval(0.95)


SEEDS = range(3)


def seeds_of(**cells):
    """The errors of an arm of `rich` by seed."""
    return [rich_error({"task": "digits", "proxy": None, "freezing": "full", "seed": seed, **cells}) for seed in SEEDS]


def test_a_point_is_the_mean_over_seeds_with_students_interval(rich_tables):
    data = read(rich_tables, "proxies")
    panel = panel_of(data, "digits")
    assert [series.label for series in panel.series] == ["naive (not aligned)", "noise-matched:photos", "photos"]
    values = [error + 0.5 / 3 for error in seeds_of()]
    last = points(panel, "naive (not aligned)")[3]
    assert last.mean == pytest.approx(sum(values) / 3)
    assert (last.low, last.high) == pytest.approx(tuple(interval(values)))
    assert last.n == 3
    assert "3 seeds" in data.caption
    assert "95\u00a0% interval of the mean over seeds" in data.caption


def test_curves_are_compared_in_the_settings_that_all_lines_share(rich_tables):
    """Noise was tried with everything trained alone. So the lines of the others leave out the frozen body, which is far worse."""
    panel = panel_of(read(rich_tables, "proxies"), "digits")
    naive, photos, noise = (points(panel, label)[1].mean for label in ("naive (not aligned)", "photos", "noise-matched:photos"))
    assert photos == pytest.approx(naive)
    assert noise - naive == pytest.approx(NOISE)


def test_panels_of_2d_tasks_come_before_those_of_1d_tasks(rich_tables):
    data = read(rich_tables, "proxies")
    assert [(panel.task, panel.group) for panel in data.panels] == [("digits", "2D"), ("mnist1d", "1D")]


def test_the_best_floor_by_validation_is_a_line_of_its_task(rich_tables):
    for name in ("proxies", "freezing", "learning", "interaction"):
        data = read(rich_tables, name)
        assert panel_of(data, "digits").floor == ("svm", 0.02), name
        assert panel_of(data, "mnist1d").floor is None, name


def test_a_figure_of_validation_errors_has_the_validation_error_of_the_floor(rich):
    tables = read_tables(rich, "rich", metric="valid_error", task="digits")
    assert panel_of(read(tables, "freezing"), "digits").floor == ("svm", 0.01)
    assert read_tables(rich, "rich", metric="seconds").floor(tables.evidence.arms) is None


def test_freezing_does_not_mistake_proxies_for_alignment(rich_tables):
    """Alignment does nothing here. Averaged over whatever each line has, aligned arms would seem worse by half of what noise costs."""
    data = read(rich_tables, "freezing")
    panel = panel_of(data, "digits")
    assert [series.label for series in panel.series] == ["naive (not aligned)", "aligned, 2 epochs", "aligned, 4 epochs"]
    for series in panel.series:
        assert [point.x for point in series.points] == ["full", "frozen-body"]
        full, frozen = (point.mean for point in series.points)
        assert full == pytest.approx(sum(seeds_of()) / 3)
        assert frozen - full == pytest.approx(FROZEN)


def test_a_point_leaves_out_a_seed_that_lacks_a_trial(workspace):
    def error(cells):
        if cells["freezing"] == "full" and cells["seed"] == 1:
            return {"status": "FAIL", "cause": "cuda"}
        return 0.1 + 0.01 * cells["seed"]

    space = {"task": {"grid": ["digits"]}, "freezing": {"grid": ["full", "frozen-body"]}}
    record(workspace, {"name": "holes", "space": space, "seeds": 4}, error)
    data = read(read_tables(workspace, "holes"), "freezing")
    found = points(data.panels[0], "all trials")
    assert (found["full"].n, found["frozen-body"].n) == (3, 4)
    assert found["full"].mean == pytest.approx((0.10 + 0.12 + 0.13) / 3)
    assert "3 to 4 seeds" in data.caption


def test_distances_are_those_after_alignment_and_none_of_naive_arms(rich_tables):
    data = read(rich_tables, "alignment")
    distances = points(panel_of(data.distances, "digits"), "distance")
    assert {x: point.mean for x, point in distances.items()} == pytest.approx({2: 9.0, 4: 7.0})  # 10 - epoch + mean seed
    errors = points(panel_of(data.errors, "digits"), "test error")
    assert set(errors) == {0, 2, 4}
    assert panel_of(data.distances, "digits").unit == "distance (otdd-exact)"
    # three settings: both proxies with everything trained, photos with a frozen body; the naive arms stand in each of them
    assert errors[2].mean == pytest.approx(errors[4].mean)
    assert errors[2].mean - errors[0].mean == pytest.approx(NOISE / 3)


def test_the_random_body_stands_at_0_of_the_pretraining_data(workspace):
    amounts = {None: 0.5, 0.1: 0.3, 1.0: 0.2}
    space = {
        "task": {"grid": ["digits"]},
        "body.weights": {"grid": ["random", "pretrained"]},
        "pretrain.fraction": {"grid": [0.1, 1.0], "when": {"body.weights": "pretrained"}},
        "align.epochs": {"grid": [0, 2]},
    }
    record(
        workspace,
        {"name": "ladder", "space": space, "seeds": 2},
        lambda cells: amounts[cells["pretrain_fraction"]] - 0.05 * (cells["align_epochs"] > 0) + 0.01 * cells["seed"],
    )
    data = read(read_tables(workspace, "ladder"), "pretraining")
    naive = points(data.panels[0], "naive (not aligned)")
    aligned = points(data.panels[0], "aligned, 2 epochs")
    assert {x: point.mean for x, point in naive.items()} == pytest.approx({0: 0.505, 0.1: 0.305, 1.0: 0.205})
    assert {x: point.mean for x, point in aligned.items()} == pytest.approx({0: 0.455, 0.1: 0.255, 1.0: 0.155})


def test_amounts_of_checkpoints_are_what_their_names_say():
    from sweeper.analysis.factors import Factor

    body = Factor("body", ("body_name", "body_weights"))
    assert amount_of(body, ("hf:nyu-mll/roberta-base-10M-1", "pretrained")) == 10_000_000
    assert amount_of(body, ("hf:nyu-mll/roberta-base-1B-3", "pretrained")) == 1_000_000_000
    assert amount_of(body, ("hf:roberta-base", "random")) == 0
    assert amount_of(body, ("hf:roberta-base", "pretrained")) == "roberta-base"
    assert amount_of(Factor("body.weights", ("body_weights",)), "random") == 0


def test_amounts_of_checkpoints_that_say_what_they_have_seen_are_their_tokens():
    from sweeper.analysis.factors import Factor

    def level(name: str, tokens: int | None) -> Level:
        return Level((f"hf:{name}", "pretrained"), {0: [{"pretrain_tokens": tokens, "test_error": 0.1}]})

    body = Factor("body", ("body_name", "body_weights"))
    steps = [level("pythia-160m@step8", 16_777_216), level("pythia-160m@step1", 2_097_152), level("pythia-160m@step0", 0)]
    assert [merged.level for merged in merge_levels(steps, body)] == [0, 2_097_152, 16_777_216]
    # Where one of them does not say, names count for all.
    assert next(merged.level for merged in merge_levels([*steps, level("x-10M-1", None)], body)) == 10_000_000


def test_low_data_has_a_floor_for_each_number_of_samples(workspace):
    space = {"task": {"grid": ["digits"]}, "train_samples": {"grid": [100, 300, None]}, "align.epochs": {"grid": [0, 2]}}
    record(workspace, {"name": "low", "space": space, "seeds": 2}, lambda cells: 10 / (cells["train_samples"] or 1000))
    record_floor(workspace, "digits", "svm", 0.3, train_samples=100)
    record_floor(workspace, "digits", "svm", 0.1)
    panel = read(read_tables(workspace, "low"), "low-data").panels[0]
    assert panel.floors == ((100, 0.3), (None, 0.1))
    assert [point.x for point in line(panel, "naive (not aligned)").points] == [100, 300, None]
    assert [point.mean for point in line(panel, "aligned, 2 epochs").points] == pytest.approx([0.1, 10 / 300, 0.01])


def test_learning_curves_are_those_of_the_arms_that_validate_best(rich_tables):
    data = read(rich_tables, "learning")
    panel = panel_of(data, "digits")
    assert len(panel.series) == 5
    assert not any("frozen-body" in series.label for series in panel.series)  # 5 arms train everything, and are better
    assert line(panel, "align.epochs 2, proxy photos").points[0].mean == pytest.approx(sum(seeds_of()) / 3 + 0.5)
    assert "6 more are not shown" in data.caption  # 3 with a frozen body on each of 2 tasks


def test_interaction_is_of_the_pair_that_the_question_is_about(rich_tables, workspace):
    assert read(rich_tables, "interaction").title == "Interaction of align.epochs and freezing"
    space = {
        "task": {"grid": ["digits"]},
        "freezing": {"grid": ["full", "frozen-body"]},
        "body.weights": {"grid": ["random", "pretrained"]},
    }

    def error(cells):
        return 0.1 + 0.2 * (cells["freezing"] == "frozen-body" and cells["body_weights"] == "random") + 0.001 * cells["seed"]

    record(workspace, {"name": "crossed", "space": space, "seeds": 3}, error)
    data = read(read_tables(workspace, "crossed"), "interaction")
    effect = {
        series.label: points(data.panels[0], series.label)["frozen-body"].mean - points(data.panels[0], series.label)["full"].mean
        for series in data.panels[0].series
    }
    assert effect == pytest.approx({"body.weights pretrained": 0.0, "body.weights random": 0.2})


def test_a_tuned_arm_is_shown_by_its_best_candidate(workspace):
    """Its learning rate, which differs between arms, is no setting that they would have to share."""
    space = {
        "task": {"grid": ["digits"]},
        "freezing": {"grid": ["full", "frozen-body"]},
        "finetune.lr": {"loguniform": [1e-4, 1e-2]},
    }
    errors = {"full": 0.1, "frozen-body": 0.3}
    record(
        workspace,
        {"name": "tuned", "space": space, "seeds": 2, "search": {"algorithm": "random", "trials": 3}},
        lambda cells: errors[cells["freezing"]] + 0.01 * cells["candidate"] + 0.001 * cells["seed"],
    )
    found = points(read(read_tables(workspace, "tuned"), "freezing").panels[0], "all trials")
    assert {level: point.mean for level, point in found.items()} == pytest.approx({"full": 0.1005, "frozen-body": 0.3005})


def test_a_level_that_reads_fewer_knobs_stands_in_every_setting_of_the_others(workspace):
    """A bodiless arm has neither weights nor alignment; the body has two settings of weights. Ranks are of the means over both."""
    space = {
        "task": {"grid": ["digits", "mnist1d"]},
        "body": {"grid": ["recipe", "none", "cnn"]},
        "body.weights": {"grid": ["pretrained", "random"]},
    }
    record(
        workspace,
        {"name": "bodiless", "space": space, "seeds": 2, "question": {"factor": "body.name", "baseline": "none"}},
        lambda cells: {"none": 0.3, "cnn": 0.1}.get(cells["body_name"], 0.2),
    )
    data = read(read_tables(workspace, "bodiless"), "ranks")
    assert dict(data.ranks) == {"cnn": 1.0, "none": 2.0}  # the body has another name on each task
    assert "Not on all tasks: mini-roberta, mini-swin." in data.caption


def test_epochs_of_folds_are_averaged_where_the_final_training_has_no_validation_error(rich_tables):
    rows = [
        {"trial": "t", "stage": "finetune", "fold": fold, "epoch": 1, "valid_error": valid, "test_error": test}
        for fold, valid, test in ((0, 0.2, 0.5), (1, 0.4, 0.7), (None, None, 0.1))
    ]
    assert dataclasses.replace(rich_tables, epochs=rows, metric="valid_error").curves() == {"t": {1: pytest.approx(0.3)}}
    assert dataclasses.replace(rich_tables, epochs=rows).curves() == {"t": {1: 0.1}}
    with pytest.raises(NotInTablesError, match="epochs have no seconds"):
        dataclasses.replace(rich_tables, metric="seconds").curves()


def test_one_seed_has_no_interval(workspace):
    space = {"task": {"grid": ["digits"]}, "freezing": {"grid": ["full", "frozen-body"]}}
    record(workspace, {"name": "one", "space": space, "seeds": 1}, lambda cells: 0.1, curve=lambda cells, epoch: 0.1)
    data = read(read_tables(workspace, "one"), "freezing")
    assert all(point.low is None and point.high is None and math.isfinite(point.mean) for point in data.panels[0].series[0].points)
    assert "1 seed, so there are no intervals" in data.caption
