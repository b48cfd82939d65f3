"""The test error on changed inputs: noise, missing channels, another scale. `clean` is the same samples unchanged.

Changes are in units of a channel's mean and standard deviation over the training samples that are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from orca_core.probing.reading import Measured, Outputs, Reading, UnfitError
from orca_core.scoring import SCORES
from orca_core.seeding import generator

NOISE = (0.1, 0.3, 1.0)
"""Standard deviations of the noise, in those of the channel."""

MISSING = (0.25, 0.5)
"""Shares of the channels that are missing, at least one and never all."""

SCALE = (0.5, 2.0)
"""Factors of the inputs' deviation from the channel's mean."""

Change = Callable[[Tensor], Tensor]


def add_noise(inputs: Tensor, std: Tensor, level: float, draws: torch.Generator) -> Tensor:
    """Inputs with normal noise of `level` standard deviations of their channel. (n, channels, ...), std (channels,)."""
    noise = torch.randn(inputs.shape, generator=draws).to(inputs)
    return inputs + level * _by_channel(std, inputs) * noise


def drop_channels(inputs: Tensor, mean: Tensor, missing: Tensor) -> Tensor:
    """Inputs in which some channels are at their mean everywhere. (n, channels, ...), mean (channels,), missing (k,) numbers of them."""
    changed = inputs.clone()
    changed[:, missing] = _by_channel(mean, inputs)[:, missing]
    return changed


def rescale(inputs: Tensor, mean: Tensor, factor: float) -> Tensor:
    """Inputs whose deviation from the channel's mean is multiplied. (n, channels, ...), mean (channels,)."""
    centre = _by_channel(mean, inputs)
    return centre + factor * (inputs - centre)


def with_noise(reading: Reading) -> Iterator[Measured]:
    """Test error with noise on the inputs."""
    std = _statistics(reading)[1]

    def changed(level: float) -> Change:
        draws = generator(reading.seed, "probe-inputs")
        return lambda inputs: add_noise(inputs, std, level, draws)

    yield from _errors(reading, {f"noise {level:g}": changed(level) for level in NOISE})


def with_missing_channels(reading: Reading) -> Iterator[Measured]:
    """Test error with some channels missing."""
    mean = _statistics(reading)[0]
    if len(mean) < 2:
        raise UnfitError("the inputs have one channel.")
    order = torch.randperm(len(mean), generator=generator(reading.seed, "probe-inputs"))

    def changed(count: int) -> Change:
        return lambda inputs: drop_channels(inputs, mean, order[:count].to(inputs.device))

    counts = {min(len(mean) - 1, max(1, round(share * len(mean)))) for share in MISSING}
    yield from _errors(reading, {f"{count} of {len(mean)}": changed(count) for count in sorted(counts)})


def with_other_scale(reading: Reading) -> Iterator[Measured]:
    """Test error with inputs of another scale."""
    mean = _statistics(reading)[0]

    def changed(factor: float) -> Change:
        return lambda inputs: rescale(inputs, mean, factor)

    yield from _errors(reading, {f"times {factor:g}": changed(factor) for factor in SCALE})


def _errors(reading: Reading, changes: dict[str, Change]) -> Iterator[Measured]:
    yield _error(reading, "clean", reading.plain_answers["test"])
    for setting, change in changes.items():
        yield _error(reading, setting, reading.answers("test", change))


def _error(reading: Reading, setting: str, answers: Outputs) -> Measured:
    decode = reading.data.decode or (lambda values: values)
    score = SCORES[reading.settings.task.score_name(reading.settings["reference_data"])]
    return Measured(score(decode(answers.outputs), decode(answers.y)), setting=setting, split="test", samples=answers.samples)


def _statistics(reading: Reading) -> tuple[Tensor, Tensor]:
    """(channels,) mean and standard deviation of the training samples that are read."""
    inputs = torch.cat(list(reading.parts("train"))).double().transpose(0, 1).flatten(1)
    return inputs.mean(1), inputs.std(1, correction=0)


def _by_channel(values: Tensor, inputs: Tensor) -> Tensor:
    return values.to(inputs).view(1, -1, *[1] * (inputs.dim() - 2))
