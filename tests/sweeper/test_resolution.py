"""What `best` says about a ranking that cannot be trusted."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.analysis.resolution import describe_resolution, is_at_majority


def arm(
    *errors: float, test: float = 0.1, samples: int | None = 10, majority: float | None = 0.36, score: str = "1-accuracy"
) -> list[dict[str, Any]]:
    """The rows of an arm with these validation errors, one for each seed."""
    known = {"test_error": test, "valid_samples": samples, "majority_error": majority, "score": score}
    return [{"valid_error": error} | known for error in errors]


def test_arms_closer_than_one_validation_sample_cannot_be_told_apart():
    arms = [arm(0.1, 0.3), arm(0.2, 0.2), arm(0.2, 0.3), arm(0.3, 0.3)]  # means 0.2, 0.2, 0.25, 0.3
    (note,) = describe_resolution("valid_error", arms)
    assert note == "The first 3 arms cannot be told apart: their validation errors differ by less than 0.1, one of 10 samples."


def test_arms_one_sample_apart_or_more_are_told_apart():
    assert describe_resolution("valid_error", [arm(0.2), arm(0.3)]) == []
    assert describe_resolution("valid_error", [arm(0.2, samples=500), arm(0.203, samples=500)]) == []


def test_nothing_is_said_where_errors_are_not_counted_in_samples_or_their_number_is_unknown():
    assert describe_resolution("valid_error", [arm(0.2, score="1-auroc"), arm(0.2, score="1-auroc")]) == []
    assert describe_resolution("valid_error", [arm(0.2, samples=None), arm(0.2)]) == []
    assert describe_resolution("valid_loss", [arm(0.2), arm(0.2)]) == []


@pytest.mark.parametrize(("test", "majority", "expected"), [(0.36, 0.36, True), (0.4, 0.36, True), (0.35, 0.36, False), (0.9, None, None)])
def test_an_arm_at_the_error_of_a_constant_answer_is_known(test, majority, expected):
    assert is_at_majority(arm(0.15, 0.2, test=test, majority=majority)) is expected
