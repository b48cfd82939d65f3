"""The numbers of probes, against closed forms and numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from orca_core.bodies.base import Geometry
from orca_core.bodies.bodiless import SequenceLayers, TransformerLayer
from orca_core.probing.attention import attention_weights, entropies_of
from orca_core.probing.calibration import expected_calibration_error, negative_log_likelihood
from orca_core.probing.forgetting import nearest_mean_error
from orca_core.probing.geometry import effective_rank, frechet_distance, linear_cka
from orca_core.probing.layers import layer_means
from orca_core.probing.reading import UnfitError
from orca_core.probing.robustness import add_noise, drop_channels, rescale
from orca_core.probing.weights import relative_change


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(width: int) -> torch.Tensor:
    return torch.linalg.qr(normal(width, width, seed=9)).Q


# ------------------------------------------------------------------------------------------------------------------- distance


def test_frechet_distance_of_diagonal_covariances_is_the_known_sum() -> None:
    """(2, 0), (-2, 0), (0, 1), (0, -1) has mean 0 and covariance diag(8/3, 2/3); half as wide and moved by (3, 4), diag(2/3, 1/6)."""
    x = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    by_hand = 25 + (math.sqrt(8 / 3) - math.sqrt(2 / 3)) ** 2 + (math.sqrt(2 / 3) - math.sqrt(1 / 6)) ** 2
    assert frechet_distance(x, x / 2 + torch.tensor([3.0, 4.0])) == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize(("n", "m", "width"), [(50, 40, 6), (5, 40, 12), (4, 5, 30)])
def test_frechet_distance_agrees_with_the_root_of_a_matrix(n: int, m: int, width: int) -> None:
    """The trace of a root is the sum of the roots of the eigenvalues."""
    x, y = normal(n, width), normal(m, width, seed=1) * 2 + 0.3
    covariances = x.T.cov(), y.T.cov()
    root = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp(min=0).sqrt().sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + covariances[0].trace() + covariances[1].trace() - 2 * root
    assert frechet_distance(x, y) == pytest.approx(expected.item(), rel=1e-5)  # of singular matrices, a root has few digits
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


# ----------------------------------------------------------------------------------------------------------- similarity, rank


def test_cka_worked_out_by_hand() -> None:
    """Centred, x is (-1, 0, 1) and y (-1, 2, -1) / 3 of one column and x of the other: |y'x|^2 = 4, |x'x| = 2, |y'y| = norm(2/3, 2)."""
    x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    y = torch.cat([torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64), x], 1)
    assert linear_cka(x, y) == pytest.approx(4 / (2 * math.hypot(2 / 3, 2)), rel=1e-12)


@pytest.mark.parametrize(("n", "width"), [(40, 5), (6, 20)])
def test_cka_is_1_up_to_rotation_scale_and_shift(n: int, width: int) -> None:
    x = normal(n, width)
    assert linear_cka(x, 3 * x @ rotation(width) + 7) == pytest.approx(1, rel=1e-12)
    assert linear_cka(x, normal(n, width, seed=1)) < 0.97
    with pytest.raises(UnfitError, match="same for all samples"):
        linear_cka(x, torch.ones(n, 3, dtype=torch.float64))


def test_cka_is_the_same_from_kernels_and_from_covariances() -> None:
    x, y = normal(30, 8), normal(30, 9, seed=1)
    kernels = [centred @ centred.T for centred in (x - x.mean(0), y - y.mean(0))]
    expected = (kernels[0] * kernels[1]).sum() / (kernels[0].norm() * kernels[1].norm())
    assert linear_cka(x, y) == pytest.approx(expected.item(), rel=1e-12)


def test_effective_rank_of_known_singular_values() -> None:
    """Three equal ones: 3. Of 3 and 1, shares 3/4 and 1/4: exp(3/4 ln 4/3 + 1/4 ln 4)."""
    equal = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], dtype=torch.float64)
    assert effective_rank(equal + 5) == pytest.approx(3, rel=1e-12)
    unequal = torch.tensor([[3.0, 0], [-3, 0], [0, 1], [0, -1]], dtype=torch.float64)
    assert effective_rank(unequal) == pytest.approx(math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4)), rel=1e-12)
    with pytest.raises(UnfitError):
        effective_rank(torch.ones(4, 2, dtype=torch.float64))


# ------------------------------------------------------------------------------------------------------------------ attention


class OneBlock(SequenceLayers):
    """A body of one block, which `attend` computes."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__([block])
        self.geometry = Geometry("none", 4, 4, 16)


class Attends(nn.Module):
    """Attention of tokens to themselves with given scores, by torch's own function or by a softmax."""

    def __init__(self, scores: torch.Tensor, how: str, causal: bool = False) -> None:
        super().__init__()
        self.scores, self.how, self.causal = scores, how, causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value = x.unsqueeze(1)
        scores = self.scores.to(x).expand(len(x), 1, -1, -1)
        if self.how == "softmax":
            return (scores.softmax(-1) @ value).squeeze(1)
        if self.how == "mask":
            empty = torch.zeros_like(value)
            return F.scaled_dot_product_attention(empty, empty, value, attn_mask=scores).squeeze(1)
        return F.scaled_dot_product_attention(value * 0, value, value, is_causal=self.causal).squeeze(1)


@pytest.mark.parametrize("how", ["softmax", "mask"])
def test_attention_entropy_of_known_weights(how: str) -> None:
    """Rows 1/2, 1/2, 0, 0; all equal; one alone; 1/4, 3/4: ln 2, ln 4, 0 and 3/4 ln 4/3 + 1/4 ln 4, of which the mean is taken."""
    none = -1e9
    rows = [[0.0, 0.0, none, none], [1.0, 1, 1, 1], [0.0, none, none, none], [0.0, math.log(3), none, none]]
    body = OneBlock(Attends(torch.tensor(rows), how)).eval()
    expected = (math.log(2) + math.log(4) + 0 + 0.75 * math.log(4 / 3) + 0.25 * math.log(4)) / 4
    assert entropies_of(body, iter([torch.randn(3, 4, 4), torch.randn(1, 4, 4)])) == {1: pytest.approx(expected, abs=1e-6)}


def test_attention_entropy_of_a_causal_body_without_preference() -> None:
    """Query k sees k tokens, all alike: the mean of ln 1 to ln 5."""
    body = OneBlock(Attends(torch.zeros(5, 5), "causal", causal=True)).eval()
    assert entropies_of(body, iter([torch.randn(2, 5, 4)])) == {1: pytest.approx(sum(math.log(k) for k in range(1, 6)) / 5, abs=1e-6)}


def test_attention_weights_are_those_of_torch() -> None:
    query, key, value = (normal(2, 4, 6, 8, seed=seed).float() for seed in range(3))
    mask = torch.rand(6, 6) < 0.7
    mask[:, 0] = True
    for more in ({}, {"is_causal": True}, {"attn_mask": mask}, {"attn_mask": normal(6, 6).float()}, {"scale": 0.3}):
        expected = F.scaled_dot_product_attention(query, key, value, **more)
        assert torch.allclose((attention_weights(query, key, **more) @ value.double()).float(), expected, rtol=1e-4, atol=1e-5)
    grouped = key[:, :2]
    expected = F.scaled_dot_product_attention(query, grouped, value[:, :2], enable_gqa=True)
    weights = attention_weights(query, grouped, enable_gqa=True)
    assert torch.allclose((weights @ value[:, :2].repeat_interleave(2, 1).double()).float(), expected, rtol=1e-4, atol=1e-5)


def test_watching_attention_leaves_the_outputs_alone() -> None:
    body = SequenceLayers([TransformerLayer(64, 4, 0.0)]).eval()
    tokens = torch.randn(2, 5, 64)
    with torch.no_grad():
        before = body(tokens)
        assert 0 < entropies_of(body, iter([tokens]))[1] < math.log(5)
        assert torch.equal(body(tokens), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in body.modules())


# --------------------------------------------------------------------------------------------------------------------- others


def test_layer_means_weigh_tokens() -> None:
    body = SequenceLayers([nn.Linear(2, 2, bias=False)]).eval()
    nn.init.eye_(body.layers[0].weight)
    tokens = torch.tensor([[[1.0, 0.0], [3.0, 4.0], [9.0, 9.0]]])
    with torch.no_grad():
        even = layer_means(body, tokens)
        some = layer_means(body, tokens, torch.tensor([[1.0, 1.0, 0.0]]))
    assert [layer.tolist() for layer in even] == [[[pytest.approx(13 / 3), pytest.approx(13 / 3)]]] * 2
    assert [layer.tolist() for layer in some] == [[[2.0, 2.0]]] * 2


def test_relative_change_is_over_all_tensors_of_a_group() -> None:
    before, after = [torch.tensor([3.0]), torch.tensor([0.0, 4.0])], [torch.tensor([3.0]), torch.tensor([1.0, 4.0])]
    assert relative_change(before, after) == pytest.approx(1 / 5)
    assert relative_change([torch.zeros(2)], [torch.ones(2)]) is None


def test_likelihood_and_calibration_worked_out_by_hand() -> None:
    """Probabilities 0.9 right, 0.9 wrong, 0.6 right: bins of 0.9 (accuracy 1/2) and of 0.6 (1): (2 * 0.4 + 0.4) / 3."""
    logits = torch.log(torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]], dtype=torch.float64))
    y = torch.tensor([0, 1, 1])
    assert negative_log_likelihood(logits, y) == pytest.approx(-(math.log(0.9) + math.log(0.1) + math.log(0.6)) / 3)
    assert expected_calibration_error(logits, y) == pytest.approx((2 * abs(0.5 - 0.9) + abs(1 - 0.6)) / 3)
    assert expected_calibration_error(torch.tensor([[50.0, 0.0]]), torch.tensor([0])) == pytest.approx(0)
    # A bin is a fifteenth wide: 0.799 and 0.75 share the one that ends at 12/15, 0.801 is in the next.
    near_edge = torch.log(torch.tensor([[0.799, 0.201], [0.75, 0.25], [0.801, 0.199]], dtype=torch.float64))
    assert expected_calibration_error(near_edge, torch.tensor([1, 0, 0])) == pytest.approx((abs(1 - 0.799 - 0.75) + abs(1 - 0.801)) / 3)


def test_nearest_mean_error_worked_out_by_hand() -> None:
    """Means of the even places: 0 and 10. Of the odd ones 6 of class 0 is nearer to 10, and 4 and 11 of class 1 are tested: 4 is wrong."""
    features = torch.tensor([[0.0], [6.0], [10.0], [4.0], [0.0], [1.0], [10.0], [11.0], [50.0]])
    labels = torch.tensor([0, 0, 7, 7, 0, 0, 7, 7, 3])  # a class of a single sample is left out
    assert nearest_mean_error(features, labels) == (0.5, 4)
    with pytest.raises(UnfitError, match="fewer than two classes"):
        nearest_mean_error(features[:2], labels[:2])


def test_changed_inputs() -> None:
    inputs = torch.tensor([[[1.0, 3.0], [5.0, 5.0], [0.0, 8.0]]])
    mean, std = torch.tensor([2.0, 5.0, 4.0], dtype=torch.float64), torch.tensor([1.0, 0.0, 4.0], dtype=torch.float64)
    assert drop_channels(inputs, mean, torch.tensor([2, 0])).tolist() == [[[2, 2], [5, 5], [4, 4]]]
    assert rescale(inputs, mean, 2.0).tolist() == [[[0, 4], [5, 5], [-4, 12]]]
    noisy = add_noise(inputs.expand(4000, -1, -1), std, 0.5, torch.Generator().manual_seed(0)) - inputs
    assert noisy.std((0, 2)).tolist() == [pytest.approx(0.5, rel=0.05), 0, pytest.approx(2, rel=0.05)]
    assert inputs[0, 0].tolist() == [1, 3]
