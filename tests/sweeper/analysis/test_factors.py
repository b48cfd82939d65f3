"""Which columns vary."""

from __future__ import annotations

from sweeper.analysis.factors import varying_columns


def test_a_column_varies_if_trials_of_a_task_differ_in_it():
    rows = [
        {"task": "a", "freezing": "full", "finetune_lr": 0.1, "align_betas": [0.9, 0.98], "proxy": "photos"},
        {"task": "a", "freezing": "full", "finetune_lr": 0.2, "align_betas": (0.9, 0.98)},
        {"task": "b", "freezing": "bias", "finetune_lr": 0.1, "align_betas": [0.9, 0.98], "proxy": None},
    ]
    assert varying_columns(rows, ["proxy", "freezing", "finetune_lr", "align_betas", "seed"]) == ["proxy", "finetune_lr"]
    assert varying_columns([], ["seed"]) == []
