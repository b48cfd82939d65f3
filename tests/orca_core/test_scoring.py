"""Losses and scores against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from orca_core.errors import NotFiniteError
from orca_core.scoring import LOSSES, SCORES
from orca_core.scoring.thresholds import area_under_roc, average_precision
from orca_core.tasks import TASKS


def logits(*shares: tuple[float, ...]) -> torch.Tensor:
    """Logits whose softmax is the given shares."""
    return torch.tensor(shares).log()


def two_classes(*second: float) -> torch.Tensor:
    return logits(*((1 - share, share) for share in second))


def test_every_task_names_a_loss_and_a_score_that_exist():
    assert {spec.loss for spec in TASKS.values()} <= set(LOSSES)
    assert {spec.score for spec in TASKS.values()} <= set(SCORES)


# Losses


def test_cross_entropy_is_the_mean_surprise():
    loss = LOSSES["cross-entropy"](torch.tensor([0, 1]))
    assert loss(two_classes(0.5, 0.75), torch.tensor([0, 1])).item() == pytest.approx(-(math.log(0.5) + math.log(0.75)) / 2)


def test_balanced_cross_entropy_weighs_a_sample_by_the_inverse_of_its_class_share():
    loss = LOSSES["balanced-cross-entropy"](torch.tensor([0, 0, 0, 1]))  # weights 4/3 and 4
    expected = -(4 / 3 * math.log(0.5) + 4 * math.log(0.75)) / (4 / 3 + 4)
    assert loss(two_classes(0.5, 0.75), torch.tensor([0, 1])).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["nrmse", "relative-l2"])
def test_a_normalised_error_is_relative_to_each_sample_by_itself(name):
    targets = torch.tensor([[[3.0, 4.0]], [[0.0, 10.0]]])  # norms 5 and 10
    outputs = torch.tensor([[[3.0, 5.0]], [[0.0, 5.0]]])  # errors of norms 1 and 5
    expected = (1 / 5 + 5 / 10) / 2
    assert LOSSES[name](targets)(outputs, targets).item() == pytest.approx(expected)
    assert SCORES[name](outputs, targets) == pytest.approx(expected)


def test_a_normalised_error_is_over_all_channels_and_positions():
    targets = torch.ones(1, 2, 3, 3)
    assert SCORES["relative-l2"](targets * 1.5, targets) == pytest.approx(0.5)


def test_a_target_of_zeros_does_not_divide_by_zero():
    assert math.isfinite(SCORES["nrmse"](torch.ones(1, 1, 4), torch.zeros(1, 1, 4)))


@pytest.mark.parametrize(("name", "weight"), [("bce", 1), ("bce-weight-4", 4), ("bce-weight-10", 10)])
def test_binary_cross_entropy_weighs_what_is_there(name, weight):
    outputs = torch.tensor([[0.0, math.log(3.0)], [math.log(3.0), 5.0]])  # shares 1/2 and 3/4; 3/4 and one that does not count
    targets = torch.tensor([[1.0, 1.0], [0.0, math.nan]])
    expected = -(weight * math.log(1 / 2) + weight * math.log(3 / 4) + math.log(1 / 4)) / 3
    assert LOSSES[name](targets)(outputs, targets).item() == pytest.approx(expected)


def test_mean_squared_error_leaves_out_what_does_not_count():
    targets = torch.tensor([[1.0, math.nan], [3.0, math.nan]])
    outputs = torch.tensor([[2.0, 9.0], [6.0, 9.0]], requires_grad=True)
    loss = LOSSES["mse"](targets)(outputs, targets)
    loss.backward()
    assert loss.item() == (1 + 9) / 2
    assert outputs.grad.tolist() == [[1, 0], [3, 0]]


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_passes_a_gradient_to_the_outputs(name):
    classes = name.endswith("cross-entropy")
    outputs = torch.randn(4, 3) if classes else torch.randn(4, 1, 6)
    targets = torch.tensor([0, 1, 2, 1]) if classes else torch.randn(4, 1, 6)
    outputs.requires_grad_()
    LOSSES[name](targets)(outputs, targets).backward()
    assert torch.isfinite(outputs.grad).all()
    assert outputs.grad.abs().sum() > 0


# Scores


def test_one_minus_accuracy_is_the_share_of_wrong_classes():
    outputs = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 3.0, 1.0], [5.0, 1.0, 1.0]])
    assert SCORES["1-accuracy"](outputs, torch.tensor([0, 1, 1, 2])) == 0.5


@pytest.mark.parametrize(
    ("shares", "targets", "area"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 1.0),
        ([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1], 0.0),
        ([0.1, 0.6, 0.4, 0.9], [0, 0, 1, 1], 3 / 4),  # one of four pairs in the wrong order
        ([0.5, 0.5, 0.5, 0.9], [0, 0, 1, 1], 3 / 4),  # two pairs are ties and count for a half
        ([0.5, 0.5, 0.5, 0.5], [0, 1, 0, 1], 1 / 2),
    ],
)
def test_auroc_of_two_classes_is_the_share_of_pairs_in_order(shares, targets, area):
    assert SCORES["1-auroc"](two_classes(*shares), torch.tensor(targets)) == pytest.approx(1 - area)


def test_auroc_of_three_classes_is_the_mean_over_pairs_of_classes():
    outputs = logits((0.6, 0.3, 0.1), (0.3, 0.6, 0.1), (0.2, 0.7, 0.1), (0.5, 0.4, 0.1), (0.1, 0.2, 0.7))
    # Classes 0 and 1, two samples each: by the share of 0, and by the share of 1, three of four pairs are in order.
    # Class 2 against either: its one sample has the largest share of 2, and the smallest share of the other.
    assert SCORES["1-auroc"](outputs, torch.tensor([0, 0, 1, 1, 2])) == pytest.approx(1 - (3 / 4 + 1 + 1) / 3)


@pytest.mark.parametrize("present", [(0, 2), (1, 2)])
def test_auroc_leaves_out_a_class_that_the_set_lacks(present):
    first, second = present
    outputs = torch.full((4, 3), -1.0)
    outputs[:, second] = torch.tensor([0.0, 2.0, 1.0, 3.0])
    outputs[:, first] = 1.0
    assert SCORES["1-auroc"](outputs, torch.tensor([first, first, second, second])) == pytest.approx(1 / 4)


def test_auroc_of_more_classes_leaves_out_one_that_the_set_lacks():
    outputs = torch.eye(4)[[0, 0, 2, 3]] * 5
    assert SCORES["1-auroc"](outputs, torch.tensor([0, 0, 2, 3])) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [(two_classes(0.1, 0.2), [1, 1]), (torch.tensor([[0.0, float("nan")], [0.0, 1.0]]), [0, 1])],
    ids=["one-class", "nan"],
)
def test_auroc_that_is_not_defined_is_no_number(outputs, targets):
    with pytest.raises(NotFiniteError):
        SCORES["1-auroc"](outputs, torch.tensor(targets))


def test_macro_f1_is_the_mean_over_the_classes_there_are():
    outputs = torch.eye(4)[[0, 0, 1, 1, 3]]  # class 2 is neither predicted nor true, 3 only predicted
    # Class 0: precision 1/2, recall 1. Class 1: precision 1, recall 1/2, without the last sample 2/3. Class 3: 0.
    assert SCORES["1-macro-f1"](outputs, torch.tensor([0, 1, 1, 1, 1])) == pytest.approx(1 - (2 / 3 + 2 / 3 + 0) / 3)
    assert SCORES["1-macro-f1"](outputs[:4], torch.tensor([0, 1, 1, 1])) == pytest.approx(1 - (2 / 3 + 4 / 5) / 2)


def test_mean_auroc_leaves_out_labels_that_do_not_vary():
    outputs = torch.tensor([[0.1, 3.0, 0.0], [0.6, 2.0, 0.0], [0.4, 1.0, 9.0], [0.9, 0.0, 9.0]])
    targets = torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 0.0, 1.0]])
    assert SCORES["1-mean-auroc"](outputs, targets) == pytest.approx(1 - (3 / 4 + 1) / 2)


def test_macro_map_is_the_mean_of_average_precisions():
    outputs = torch.tensor([[0.9, 0.1, 0.5], [0.8, 0.9, 0.5], [0.1, 0.2, 0.5]])
    targets = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    # Label 0: precision 1 at recall 1/2, and 2/3 at recall 1. Label 1: first of all. Label 2 is never there.
    assert SCORES["1-macro-map"](outputs, targets) == pytest.approx(1 - ((1 / 2 + 2 / 3 / 2) + 1) / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("step", [None, 0.5])
def test_areas_and_precisions_are_those_of_scikit_learn_to_the_last_bit(dtype, step):
    draws = torch.Generator().manual_seed(0)
    targets = (torch.rand(500, 5, generator=draws) < 0.2).float()
    outputs = (torch.randn(500, 5, generator=draws) + targets).to(dtype)
    if step is not None:
        outputs = (outputs / step).round() * step  # equal ones, and zeros of both signs
        assert (outputs == 0).any()
        assert torch.signbit(outputs[outputs == 0]).any()
    pairs = [(targets[:, label].numpy(), outputs[:, label].numpy()) for label in range(5)]
    assert [area_under_roc(*pair) for pair in pairs] == [roc_auc_score(*pair) for pair in pairs]
    assert [average_precision(*pair) for pair in pairs] == [average_precision_score(*pair) for pair in pairs]


def test_position_auroc_is_of_the_outputs_and_in_the_reference_of_their_signs():
    outputs = torch.tensor([[-1.0, 2.0], [-0.5, 4.0]]).view(2, 1, 1, 2)
    targets = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).view(2, 1, 1, 2)
    assert SCORES["1-position-auroc"](outputs, targets) == pytest.approx(1 / 4)  # three of four pairs are in order
    assert SCORES["1-position-auroc-of-signs"](outputs, targets) == pytest.approx(1 - (1 / 2 + 1 / 2) / 2)


def test_a_position_that_does_not_count_is_left_out_and_in_the_reference_a_zero():
    outputs = torch.tensor([-1.0, 2.0, -0.5, 4.0, 9.0])
    targets = torch.tensor([0.0, 0.0, 1.0, 1.0, math.nan])
    assert SCORES["1-position-auroc"](outputs, targets) == pytest.approx(1 / 4)
    assert SCORES["1-position-auroc-of-signs"](outputs, targets) == pytest.approx(1 - (1 / 2 + 2 / 3) / 2)


def test_mae_8_is_over_far_pairs_that_are_near_in_truth():
    size = 26  # pairs at least 24 apart: (0, 24), (0, 25), (1, 25)
    true = torch.full((3, 1, size, size), math.nan)
    outputs = torch.zeros(3, 1, size, size)
    true[0, 0, 0, 24], true[0, 0, 0, 25], true[0, 0, 1, 25], true[0, 0, 0, 3] = 5.0, 9.0, 8.0, 1.0
    outputs[0, 0, 0, 24], outputs[0, 0, 24, 0] = 6.0, 8.0  # 7 on both sides: off by 2
    outputs[0, 0, 1, 25] = -3.0  # floored at 0.01: off by 7.99
    true[1, 0, 0, 24] = 4.0
    outputs[1, 0, 0, 24] = outputs[1, 0, 24, 0] = 5.0
    true[2, 0, 0, 24] = 30.0  # no near pair: left out
    assert SCORES["mae-8"](outputs, true) == pytest.approx(((2 + 7.99) / 2 + 1) / 2)


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("1-mean-auroc", torch.ones(3, 2)),
        ("1-macro-map", torch.zeros(3, 2)),
        ("1-position-auroc", torch.ones(3, 2)),
        ("mae-8", torch.full((1, 1, 30, 30), 9.0)),
    ],
)
def test_a_score_that_is_not_defined_is_no_number(name, targets):
    with pytest.raises(NotFiniteError):
        SCORES[name](torch.zeros_like(targets), targets)


@pytest.mark.parametrize("name", SCORES)
def test_a_perfect_model_has_no_error(name):
    truth = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    targets, outputs = {
        "1-accuracy": (torch.tensor([0, 1, 2, 1]), torch.eye(3)[[0, 1, 2, 1]]),
        "1-auroc": (torch.tensor([0, 1, 2, 1]), torch.eye(3)[[0, 1, 2, 1]]),
        "1-macro-f1": (torch.tensor([0, 1, 2, 1]), torch.eye(3)[[0, 1, 2, 1]]),
        "1-mean-auroc": (truth, truth - 0.5),
        "1-macro-map": (truth, truth - 0.5),
        "1-position-auroc": (truth, truth - 0.5),
        "1-position-auroc-of-signs": (truth, truth - 0.5),
        "mae-8": (torch.full((2, 1, 30, 30), 5.0),) * 2,
    }.get(name, (torch.arange(1.0, 25.0).view(4, 1, 6),) * 2)
    assert SCORES[name](outputs, targets) == pytest.approx(0.0)
