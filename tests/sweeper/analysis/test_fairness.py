"""Comparisons that are not fair get no verdict, and say why; what does not go with the arm is a note."""

from __future__ import annotations

from typing import Any

import pytest
from made_rows import cross

from sweeper.analysis.comparison import compare

SEEDS = [0, 1, 2, 3]
NOISE = [0.001, -0.002, 0.0015, 0.0]


def error(cells) -> float:
    return 0.5 - 0.1 * bool(cells["align_epochs"]) + NOISE[cells["seed"]] * (1 if cells["align_epochs"] else -1)


def fair_rows(**more: Any) -> list[dict[str, Any]]:
    return cross({"seed": SEEDS, "align_epochs": [0, 5], **more}, error, selection="valid")


def effect_of(rows, **options):
    (effect,) = compare(rows, "align.epochs", 0, **options).effects
    return effect


def change(rows, condition, **cells):
    return [row | (cells if condition(row) else {}) for row in rows]


def candidates(rows, counts, **cells):
    """The rows with as many candidates as `counts` says for each level, all but the first with a higher validation error."""
    return [
        row
        | {"arm": f"a{row['align_epochs']}", "candidate": number, "valid_error": 0.2 + number, "finetune_lr": 1e-3 / (1 + number)}
        | {"trial": f"{row['trial']}-{number}"}
        | (cells if number and row["align_epochs"] else {})
        for row in rows
        for number in range(counts[row["align_epochs"]])
    ]


def replicated(counts):
    """Arms that were tuned with so many candidates and then compared on fresh seeds, each at its own best rate."""
    tuning = [row | {"role": "tuning"} for row in candidates(fair_rows(), counts)]
    best = {0: 0, 5: 1}
    chosen = [row for row in tuning if row["candidate"] == best[row["align_epochs"]]]
    return [*tuning, *(row | {"role": "replicate", "trial": f"r{row['trial']}"} for row in chosen)]


def level(row):
    return row["align_epochs"] == 5


UNFAIR = {
    "unequal-tuning of replicates": (replicated({0: 2, 5: 3}), {}),
    "unequal-tuning": (candidates(fair_rows(), {0: 2, 5: 3}), {}),
    "best-of-unequal": (candidates(fair_rows(), {0: 3, 5: 3}, status="FAIL", cause="not-finite"), {}),
    "early-stopped": (candidates(fair_rows(), {0: 3, 5: 3}, status="PRUNED", cause="asha after epoch 2"), {}),
    "unequal-replication": (change([row | {"arm": row["align_epochs"]} for row in fair_rows()], level, role="replicate"), {}),
    "stopped-among-task": (fair_rows(), {"scheduler": {"name": "asha", "among": "task"}}),
    "test-selected": (change(fair_rows(), level, selection="test"), {}),
    "missing-in-one-arm": (change(fair_rows(), lambda row: level(row) and row["seed"] == 3, status="FAIL", cause="out-of-memory"), {}),
    "machines-go-with-arm": (change([row | {"device_name": "A"} for row in fair_rows()], level, device_name="B"), {}),
}


@pytest.mark.parametrize("case", UNFAIR)
def test_what_is_not_fair_is_flagged_and_gets_no_verdict_unless_it_is_asked_for(case):
    (rows, options), flag = UNFAIR[case], case.partition(" ")[0]
    effect = effect_of(rows, **options)
    assert effect.flags == (flag,)
    assert effect.verdict is None
    assert any(note.startswith(f"{flag}: ") for note in effect.notes)
    allowed = effect_of(rows, **options, allow_unfair=True)
    assert (allowed.flags, allowed.verdict) == ((flag,), "helps")
    assert allowed.p == effect.p, "the numbers are there in any case"


FAIR = {
    "nothing is the matter": (fair_rows(), {}),
    "equal tuning, then replicates": (replicated({0: 3, 5: 3}), {}),
    "equal tuning": (candidates(fair_rows(), {0: 3, 5: 3}), {}),
    "candidates stopped on both sides": (
        change(candidates(fair_rows(), {0: 3, 5: 3}), lambda row: row["candidate"] > 0, status="PRUNED"),
        {"scheduler": {"name": "asha", "among": "arm"}},
    ),
    "both chose by test": (change(fair_rows(), lambda row: True, selection="test"), {}),
    "a seed that both sides lack": (change(fair_rows(), lambda row: row["seed"] == 3, status="FAIL", cause="data"), {}),
    "machines by seed": (change([row | {"device_name": "A"} for row in fair_rows()], lambda row: row["seed"] > 1, device_name="B"), {}),
    "a machine that few trials had": (
        change([row | {"device_name": "A"} for row in fair_rows()], lambda row: level(row) and row["seed"] == 0, device_name="B"),
        {},
    ),
    "one rule of early stopping that has no rung": (fair_rows(), {"scheduler": {"name": "fifo", "among": "task"}}),
}


@pytest.mark.parametrize("name", FAIR)
def test_a_fair_comparison_has_no_flag(name):
    rows, options = FAIR[name]
    effect = effect_of(rows, **options)
    assert (effect.flags, effect.verdict) == ((), "helps")


def test_what_does_not_go_with_the_arm_is_a_note():
    assert any(
        "both sides ran on 2 kinds of machine, which differ in device_name" in note for note in effect_of(FAIR["machines by seed"][0]).notes
    )
    lost = effect_of(FAIR["a seed that both sides lack"][0])
    assert "Missing pairs: seed 3: neither trial has a result (FAIL data)." in lost.notes
    assert lost.pairs_missing == ({"seed": 3, "context": {}, "side": "both", "why": "FAIL data"},)
    assert any("chose their epochs by test error" in note for note in effect_of(FAIR["both chose by test"][0]).notes)


def test_what_a_tuned_arm_stands_for_is_told():
    notes = effect_of(candidates(fair_rows(), {0: 3, 5: 3})).notes
    assert "Each arm stands for the best of its 3 candidates by valid_error." in notes
    assert (
        "Each arm stands for the best of its 3 candidates by valid_error, run again on fresh seeds."
        in effect_of(replicated({0: 3, 5: 3})).notes
    )


def test_candidates_that_were_chosen_by_test_error_are_a_note():
    rows = candidates(fair_rows(), {0: 3, 5: 3})
    assert any("Candidates were chosen by test_error" in note for note in effect_of(rows, objective="test_error").notes)
    assert not any("Candidates were chosen" in note for note in effect_of(rows).notes)


def test_the_missing_trial_is_named():
    effect = effect_of(UNFAIR["missing-in-one-arm"][0])
    assert effect.pairs_missing == ({"seed": 3, "context": {}, "side": "level", "why": "FAIL out-of-memory"},)
    assert any("seed 3: level is missing (FAIL out-of-memory)" in note for note in effect.notes)
    assert effect.n == 3


def test_a_level_that_early_stopping_ended_everywhere_is_known():
    effect = effect_of(change(fair_rows(), level, status="PRUNED", cause="median after epoch 1"))
    assert "early-stopped" in effect.flags
    assert (effect.n, effect.verdict) == (0, None)


def test_one_unfair_task_takes_the_verdict_over_tasks_away():
    other = [row | {"task": "mnist1d", "trial": f"m{row['trial']}"} for row in fair_rows()]
    effects = compare([*UNFAIR["test-selected"][0], *other], "align.epochs", 0).effects
    assert [(effect.task, effect.flags, effect.verdict) for effect in effects] == [
        ("digits", ("test-selected",), None),
        ("mnist1d", (), "helps"),
        (None, ("test-selected",), None),
    ]
