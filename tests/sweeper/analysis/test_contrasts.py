"""Which trials are paired: those of a seed that differ in the factor alone, whatever nothing reads."""

from __future__ import annotations

import pytest
from made_rows import cross

from orca_core.errors import ConfigError
from sweeper.analysis.contrasts import paired_differences

SEEDS = [0, 1, 2]


def by_level(contrasts):
    return {contrast.level: contrast for contrast in contrasts}


def test_differences_are_averaged_over_contexts_within_a_seed():
    """Errors by hand: in seed 0 the differences are -0.1 and -0.3, in seed 1 they are 0.1 and 0."""
    errors = {(0, 0, "full"): 0.5, (0, 0, "bias"): 0.6, (0, 5, "full"): 0.4, (0, 5, "bias"): 0.3}
    errors |= {(1, 0, "full"): 0.5, (1, 0, "bias"): 0.7, (1, 5, "full"): 0.6, (1, 5, "bias"): 0.7}
    knobs = {"seed": [0, 1], "align_epochs": [0, 5], "freezing": ["full", "bias"]}
    rows = cross(knobs, lambda cells: errors[cells["seed"], cells["align_epochs"], cells["freezing"]])
    (found,) = paired_differences(rows, "align.epochs", 0)
    assert found.differences == pytest.approx((-0.2, 0.05))
    assert (found.keys, found.level) == (((0,), (1,)), 5)
    assert found.level_values == pytest.approx((0.35, 0.65))
    assert found.baseline_values == pytest.approx((0.55, 0.6))
    assert [found.name_context(context) for context in found.contexts] == [{"freezing": "full"}, {"freezing": "bias"}]


GRID = {"seed": SEEDS, "align_epochs": [0, 5, 10], "proxy": ["photos", "noise"], "freezing": ["full", "bias"]}


def proxy_error(cells):
    return 0.5 + 0.01 * cells["seed"] - {None: 0, "photos": 0.1, "noise": 0.02}[cells["proxy"]] - 0.001 * cells["align_epochs"]


def test_an_arm_that_does_not_read_a_knob_is_paired_with_each_value_of_it():
    found = by_level(paired_differences(cross(GRID, proxy_error), "align.epochs", "0"))
    assert set(found) == {5, 10}
    assert len(found[5].contexts) == 4, "two proxies and two freezings, though the trials without alignment have no proxy"
    assert found[5].differences == pytest.approx([-0.06 - 0.005] * 3)
    assert not found[5].left_out


@pytest.mark.parametrize(
    ("baseline", "level", "expected"), [("none", "photos", -0.1075), ("photos", None, 0.1075), ("noise", "photos", -0.08)]
)
def test_the_null_level_of_a_knob_is_paired_though_what_decides_it_differs(baseline, level, expected):
    """Without a proxy there is no alignment: `align.epochs` must differ. Each of its values is a context."""
    found = by_level(paired_differences(cross(GRID, proxy_error), "proxy", baseline))
    assert found[level].differences == pytest.approx([expected] * 3)
    contexts = [found[level].name_context(context) for context in found[level].contexts]
    assert sorted((context["align.epochs"], context["freezing"]) for context in contexts) == [
        (5, "bias"),
        (5, "full"),
        (10, "bias"),
        (10, "full"),
    ]


def test_arms_that_differ_in_another_knob_are_no_pair_and_it_is_named():
    rows = cross({"seed": SEEDS, "align_epochs": [0, 10]}, lambda cells: 0.5)
    rows = [
        row | {"finetune_lr": 1e-3 if row["align_epochs"] else 1e-4, "proxy": "photos" if row["align_epochs"] else None} for row in rows
    ]
    for factor, baseline in (("align.epochs", 0), ("proxy", None)):
        (found,) = paired_differences(rows, factor, baseline)
        assert (found.keys, found.also_differs) == ((), ("finetune.lr",))


def test_null_is_a_value_like_any_other_in_a_knob_that_may_be_null():
    rows = cross(
        {"seed": SEEDS, "align_epochs": [0, 10], "train_samples": [100, None]}, lambda cells: 0.1 if cells["train_samples"] else 0.2
    )
    (found,) = paired_differences(rows, "align.epochs", 0)
    assert len(found.contexts) == 2
    assert set(found.differences) == {0.0}


def test_knobs_that_recipes_set_are_no_settings_if_the_sweep_says_what_it_varies():
    rows = cross({"seed": SEEDS, "body_name": ["mini-swin", "hf:x"]}, lambda cells: 0.5)
    rows = [row | {"finetune_epochs": 5 if row["body_name"] == "hf:x" else 10} for row in rows]
    (strict,) = paired_differences(rows, "body.name", "mini-swin")
    (found,) = paired_differences(rows, "body.name", "mini-swin", varied=["body_name"])
    assert (strict.keys, strict.also_differs) == ((), ("finetune.epochs",))
    assert (len(found.keys), found.along) == (3, ("finetune.epochs",))


def test_knobs_that_a_plan_does_not_know_are_settings_if_trials_are_not_told_apart_without_them():
    rows = cross(
        {"seed": SEEDS, "align_epochs": [0, 5], "freezing": ["full", "bias"]}, lambda cells: 0.5 - 0.1 * bool(cells["align_epochs"])
    )
    (found,) = paired_differences(rows, "align.epochs", 0, varied=["align_epochs"])
    assert len(found.contexts) == 2


def test_a_section_is_one_factor():
    rows = cross({"seed": SEEDS, "body_name": ["a", "b"], "body_weights": ["random", "pretrained"]}, lambda cells: 0.5)
    found = paired_differences(rows, "body", "{name: a, weights: random}")
    assert [contrast.factor.to_data(contrast.level) for contrast in found] == [
        {"name": "a", "weights": "pretrained"},
        {"name": "b", "weights": "pretrained"},
        {"name": "b", "weights": "random"},
    ]
    assert all(len(contrast.contexts) == 1 for contrast in found)


def test_variants_are_a_factor_and_a_trial_may_belong_to_two():
    knobs = {"seed": SEEDS, "variant": ["naive,short", "long"], "freezing": ["full", "bias"]}
    rows = cross(knobs, lambda cells: 0.3 if cells["variant"] == "long" else 0.4)
    rows = [
        row | {"align_epochs": 50 if row["variant"] == "long" else 0, "finetune_lr": 1e-3 if row["variant"] == "long" else 1e-4}
        for row in rows
    ]
    found = by_level(paired_differences(rows, "variant", "naive"))
    assert found["long"].differences == pytest.approx([-0.1] * 3)
    assert len(found["long"].contexts) == 2, "freezing is crossed with the variants; alignment and rate are what they set"
    assert found["short"].differences == (0, 0, 0)


def test_within_looks_at_each_value_of_a_knob():
    def error(cells):
        return 0.5 - (0.2 if cells["freezing"] == "bias" and cells["align_epochs"] else 0)

    found = paired_differences(cross(GRID, error), "align.epochs", 0, within="freezing")
    assert {(c.level, c.within): c.differences[0] for c in found} == {
        (5, ("freezing", "bias")): pytest.approx(-0.2),
        (5, ("freezing", "full")): 0,
        (10, ("freezing", "bias")): pytest.approx(-0.2),
        (10, ("freezing", "full")): 0,
    }
    assert {len(contrast.contexts) for contrast in found} == {2}


def test_seeds_that_also_redraw_the_split_are_paired_by_both():
    knobs = {"seed": [0, 1], "split_seed": [0, 1], "align_epochs": [0, 5]}
    rows = cross(knobs, lambda cells: 0.5 + 0.1 * cells["split_seed"] if cells["seed"] == cells["split_seed"] else None)
    (found,) = paired_differences(rows, "align.epochs", 0, ("seed", "split_seed"))
    assert found.keys == ((0, 0), (1, 1))
    assert not found.missing


# --------------------------------------------------------------------------------------------------------------------- missing


def test_missing_pairs_are_named_with_the_reason():
    rows = cross({"seed": SEEDS, "align_epochs": [0, 5], "freezing": ["full", "bias"]}, lambda cells: 0.5)

    def spoil(row):
        key = (row["seed"], row["align_epochs"], row["freezing"])
        if key == (1, 5, "full"):
            return row | {"status": "FAIL", "cause": "not-finite", "test_error": None}
        return None if key == (2, 0, "bias") else row

    rows = [changed for row in rows if (changed := spoil(row)) is not None]
    (found,) = paired_differences(rows, "align.epochs", 0)
    assert [(m.key, m.context, m.side, m.why) for m in found.missing] == [
        ((1,), ("full",), "level", "FAIL not-finite"),
        ((2,), ("bias",), "baseline", "no such trial"),
    ]
    assert [len(found.pairs[key]) for key in found.keys] == [2, 1, 1]


def test_of_a_plan_that_is_known_only_planned_trials_are_missing():
    """Seeds that were added to one level alone have no counterpart, and none is missing."""
    rows = cross({"seed": SEEDS, "align_epochs": [0, 5]}, lambda cells: None if cells["seed"] == 2 and cells["align_epochs"] else 0.5)
    (known,) = paired_differences(rows, "align.epochs", 0, lists_plan=True)
    (unknown,) = paired_differences(rows, "align.epochs", 0)
    assert (len(known.missing), len(unknown.missing), len(known.keys)) == (0, 1, 2)
    pending = {"trial": "later", "task": "digits", "seed": 2, "align_epochs": 5, "status": None}
    (planned,) = paired_differences([*rows, pending], "align.epochs", 0, lists_plan=True)
    assert [missing.why for missing in planned.missing] == ["not started"]


def test_arms_without_a_counterpart_are_left_out_on_both_sides():
    rows = cross(GRID, lambda cells: 0.5 if cells["freezing"] == "full" or cells["proxy"] != "noise" else None)
    found = by_level(paired_differences(rows, "freezing", "full"))
    assert len(found["bias"].contexts) == 3  # not aligned; photos for 5 and for 10 epochs
    assert len(found["bias"].left_out) == 2  # noise for 5 and for 10 epochs
    assert not found["bias"].missing


# ----------------------------------------------------------------------------------------------------------------------- tuning


def tuned(valid, test, arm, level, role=None, seeds=(0, 1)):
    """The rows of a tuned arm: for each candidate its validation and test error."""
    return [
        {
            "trial": f"{arm}{number}{seed}{role}",
            "task": "digits",
            "seed": seed,
            "arm": arm,
            "candidate": number,
            "status": "COMPLETE",
            "role": role,
        }
        | {"align_epochs": level, "finetune_lr": 0.1 * (number + 1), "valid_error": v, "test_error": t}
        for number, (v, t) in enumerate(zip(valid, test, strict=True))
        for seed in seeds
    ]


def test_a_tuned_arm_is_compared_at_its_best_candidate_by_validation():
    rows = tuned([0.3, 0.2], [0.1, 0.35], "a", 5) + tuned([0.3, 0.4], [0.3, 0.1], "b", 0)
    (found,) = paired_differences(rows, "align.epochs", 0)
    assert found.differences == pytest.approx([0.05, 0.05]), "0.35 of the second candidate against 0.3 of the first"


def test_a_candidate_counts_with_all_of_its_seeds_or_not_at_all():
    rows = tuned([0.3, 0.2], [0.1, 0.35], "a", 5) + tuned([0.3, 0.4], [0.3, 0.1], "b", 0)
    rows = [row | ({"status": "PRUNED"} if (row["arm"], row["candidate"], row["seed"]) == ("a", 1, 1) else {}) for row in rows]
    (found,) = paired_differences(rows, "align.epochs", 0)
    assert found.differences == pytest.approx([-0.2, -0.2])
    lost = [row | ({"status": "FAIL"} if row["arm"] == "a" and row["seed"] == 1 else {}) for row in rows]
    (found,) = paired_differences(lost, "align.epochs", 0)
    assert (found.keys, {missing.side for missing in found.missing}) == ((), {"level"})


def test_replicates_take_the_place_of_the_trials_by_which_they_were_chosen():
    rows = tuned([0.3, 0.2], [0.1, 0.35], "a", 5) + tuned([0.3, 0.4], [0.3, 0.1], "b", 0)
    fresh = [*tuned([0.3, 0.2], [0.9, 0.4], "a", 5, "replicate", (7, 8))[2:], *tuned([0.3], [0.5], "b", 0, "replicate", (7, 8))]
    assert len({row["finetune_lr"] for row in fresh}) == 2, "each arm has a rate of its own, which is no setting of the arm"
    others = [row | {"role": "tuning"} for row in rows] + [row | {"role": "derived", "test_error": 0.0} for row in rows]
    (found,) = paired_differences([*fresh, *others], "align.epochs", 0)
    assert (found.keys, found.differences) == (((7,), (8,)), pytest.approx((-0.1, -0.1)))


def test_tuned_knobs_and_what_seeds_vary_are_no_factors():
    rows = tuned([0.3, 0.2], [0.1, 0.35], "a", 5) + tuned([0.3, 0.4], [0.3, 0.1], "b", 0)
    with pytest.raises(ConfigError, match=r"--factor: must not be tuned within the arms, but got 'finetune.lr'"):
        paired_differences(rows, "finetune.lr", "7")
    rows = cross({"seed": [0, 1], "split_seed": [0, 1], "align_epochs": [0, 5]}, lambda cells: 0.5)
    with pytest.raises(ConfigError, match="--factor: must not be varied by the seeds"):
        paired_differences(rows, "split_seed", 0, ("seed", "split_seed"))


# ------------------------------------------------------------------------------------------------------------------------ faults


def test_a_mistyped_knob_gets_the_nearest_name_even_where_nothing_varies():
    rows = cross({"seed": SEEDS}, lambda cells: 0.5)
    for name, remedy in (("freezin", r"Did you mean 'freezing'\? No knob differs here\."), ("freezing", r"No knob differs here\.")):
        with pytest.raises(ConfigError, match=rf"but got '{name}'\. {remedy}$"):
            paired_differences(rows, name, "full")


@pytest.mark.parametrize(
    ("factor", "baseline", "options", "messages"),
    [
        (
            "align.epoch",
            "0",
            {},
            ["--factor: must be a knob, a section of knobs or `variant`, but got 'align.epoch'. Did you mean 'align.epochs'?"],
        ),
        ("selection", "test", {}, ["--factor: must be a knob that differs between trials of a task, but got 'selection'. Known: "]),
        ("align.epochs", "7", {}, ["--baseline: must be a level of align.epochs, but got '7'. Known: 0, 10, 5."]),
        ("freezing", "ful", {}, ["--baseline: must be a level of freezing, but got 'ful'. Did you mean 'full'? Known: bias, full."]),
        ("align.epochs", "0", {"within": "seed"}, ["--within: must be a knob"]),
        ("align.epochs", "7", {"metric": "error", "within": "x"}, ["--metric: ", "--baseline: "]),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(factor, baseline, options, messages):
    with pytest.raises(ConfigError) as caught:
        paired_differences(cross(GRID, proxy_error), factor, baseline, **options)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(messages), lines
    assert all(line.startswith(message) for line, message in zip(lines, messages, strict=True)), lines


@pytest.mark.parametrize(("typed", "level"), [("1e-4", 1e-4), ("0.001", 1e-3), ("none", None), (1e-4, 1e-4)])
def test_levels_are_known_by_their_value_however_they_are_typed(typed, level):
    rows = cross({"seed": SEEDS, "finetune_clip": [1e-4, 1e-3, None]}, lambda cells: 0.5)
    assert {contrast.baseline for contrast in paired_differences(rows, "finetune_clip", typed)} == {level}


def test_trials_that_cannot_be_told_apart_are_refused():
    rows = cross({"seed": SEEDS, "align_epochs": [0, 5]}, lambda cells: 0.5)
    with pytest.raises(ConfigError, match="trials of digits with seed 0 and the same settings must be one trial"):
        paired_differences([*rows, rows[0] | {"trial": "another"}], "align.epochs", 0)
    assert paired_differences([*rows, rows[0]], "align.epochs", 0), "the same trial twice is one"
