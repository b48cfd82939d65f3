"""How good the probabilities of a classification are: negative log-likelihood and expected calibration error, on validation and test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from orca_core.probing.reading import Measured, Outputs, Reading

BINS = 15
"""Bins of the calibration error, as in Guo et al. 2017."""


def negative_log_likelihood(logits: Tensor, y: Tensor) -> float:
    """Mean of -ln p(class), in nats. (n, c) logits, (n,) class ids."""
    return -torch.log_softmax(logits.double(), 1).gather(1, y.unsqueeze(1)).mean().item()


def expected_calibration_error(logits: Tensor, y: Tensor, bins: int = BINS) -> float:
    """Mean over samples of |accuracy - confidence| of the sample's bin, in [0, 1]. (n, c) logits, (n,) class ids.

    Bins are of equal width, ((m - 1) / bins, m / bins] for the probability of the answer: Guo et al. 2017, "On calibration of modern neural
    networks", arXiv 1706.04599, equation 3.
    """
    confidence, answer = torch.softmax(logits.double(), 1).max(1)
    number = (confidence * bins).ceil().clamp(1, bins).long() - 1
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, number, (answer == y).double() - confidence)
    return (gaps.abs().sum() / len(y)).item()


def likelihoods(reading: Reading) -> Iterator[Measured]:
    """Negative log-likelihood on each part of the data."""
    yield from _on_parts(reading, negative_log_likelihood)


def calibration_errors(reading: Reading) -> Iterator[Measured]:
    """Expected calibration error on each part of the data."""
    yield from _on_parts(reading, expected_calibration_error)


def _on_parts(reading: Reading, score: Callable[[Tensor, Tensor], float]) -> Iterator[Measured]:
    for split in reading.splits:
        answers: Outputs = reading.plain_answers[split]
        yield Measured(score(answers.outputs, answers.y), split=split, samples=answers.samples)
