"""Averages of weights: uniform and greedy model soups (Wortsman et al. 2022, arXiv 2203.05482), and of a trial's start and end (WiSE-FT).

Weights of models that were fine-tuned from the same start lie in one basin often enough that their average is as good as the best of them,
or better, at the cost of one. Of models with other starts (another seed draws other embedders and predictors) it rarely is: so a soup
says whether its members share their start.

Between the weights that one fine-tuning starts with and those that it leaves lies a line of models, (1 - alpha) start + alpha end (WiSE-FT,
Wortsman et al. 2022, arXiv 2109.01903). Their start is a classifier made of text; here the predictor is drawn at random at the start, so
that models near it answer at random. `keep_predictor` takes the predictor of the end all along, and moves embedder and body alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from orca_core.config.knobs import TrialConfig
from orca_core.errors import DataError
from orca_core.export import Which, find_weights
from orca_core.finetuning.loop import Finetuning
from orca_core.model.cross_modal import CrossModalModel
from orca_core.pipeline import model_before_tuning
from orca_core.settings import Settings
from orca_core.store import Store
from orca_core.trial_stages import TrialStages
from orca_core.workbench import Workbench

Kind = Literal["uniform", "greedy"]
"""Which members are averaged: all of them, or those with which the validation error does not rise."""

Weights = dict[str, Tensor]
"""All floating-point tensors of a network by name, on the CPU."""


@dataclass(frozen=True)
class Soup:
    """An average of fine-tuned weights, and what it scores.

    Args:
        weights: The average.
        averaged: Positions of the members that are in it, ascending.
        shares_start: Whether fine-tuning of all members began with the same weights, bit for bit.
        valid_loss, valid_error, test_error: Of the average, by the core's own evaluation.
        params_total: Parameters of the network.
    """

    weights: Weights
    averaged: tuple[int, ...]
    shares_start: bool
    valid_loss: float
    valid_error: float
    test_error: float
    params_total: int


def make_soup(
    members: Sequence[TrialConfig],
    store: Store,
    kind: Kind = "uniform",
    which: Which = "best",
    *,
    device: str = "cpu",
    workbench: Workbench | None = None,
) -> Soup:
    """Average the fine-tuned weights of some trials, and evaluate the average on validation and test.

    Weights are added in float64 in the order of the members, and rounded once. The greedy soup starts with the first member and takes in
    each further one if the validation error does not rise; test data decide nothing.

    Args:
        members: Trials of one task and split, without folds; for `greedy` the best by validation first.
        store: Where their stages and weights are; what it lacks is computed again, to the same bits.
        kind: Which of them are averaged.
        which: The weights of the best epoch on the selection split, or of the last.
        device: Device type, `cpu` or `cuda`.
        workbench: Where data lies and what stays loaded; None = the current one.

    Raises:
        DataError: If the members are not of one architecture; all that differ are named.
        OrcaError: If data, body or store cannot be used.
    """
    with (workbench or Workbench.current()).use():
        tasting = _Tasting(members[0], store, device)
        total: Weights = {}
        averaged: list[int] = []
        starts: set[str] = set()
        best = (math.inf, math.inf, math.inf)
        for position, config in enumerate(members):
            start, weights = _weights_of(config, store, which, device)
            starts.add(start)
            tasting.check(weights, position)
            more = {name: value.double() + total[name] if total else value.double() for name, value in weights.items()}
            if kind == "uniform":
                total = more
                averaged.append(position)
                continue
            scores = tasting.taste(_mean(more, len(averaged) + 1))
            if not averaged or scores[1] <= best[1]:
                total, best = more, scores
                averaged.append(position)
        soup = _mean(total, len(averaged))
        if kind == "uniform":
            best = tasting.taste(soup)
        return Soup(soup, tuple(averaged), len(starts) == 1, *best, tasting.params_total)


@dataclass(frozen=True)
class Interpolation:
    """A model on the line from the start of a fine-tuning to its end, and what it scores.

    Args:
        alpha: 0 at the start, 1 at the end.
        valid_loss, valid_error, test_error: By the core's own evaluation.
    """

    alpha: float
    valid_loss: float
    valid_error: float
    test_error: float


def interpolate(
    config: TrialConfig,
    store: Store,
    alphas: Sequence[float],
    which: Which = "best",
    *,
    keep_predictor: bool = False,
    device: str = "cpu",
    workbench: Workbench | None = None,
) -> list[Interpolation]:
    """Evaluate models on the line from the weights that a trial's fine-tuning starts with to those that it left.

    Weights are added in float64 and rounded once; alpha 0 and 1 are start and end, bit for bit.

    Args:
        config: A trial without folds.
        store: Where its stages and weights are; what it lacks is computed again, to the same bits.
        alphas: Shares of the end, in [0, 1].
        which: The end: the weights of the best epoch on the selection split, or of the last.
        keep_predictor: Take the predictor of the end at every alpha.
        device: Device type, `cpu` or `cuda`.
        workbench: Where data lies and what stays loaded; None = the current one.

    Raises:
        OrcaError: If data, body or store cannot be used.
    """
    with (workbench or Workbench.current()).use():
        tasting = _Tasting(config, store, device)
        start = {name: value.clone() for name, value in _floats(tasting.model).items()}
        _, end = _weights_of(config, store, which, device)
        if keep_predictor:
            start |= {name: value for name, value in end.items() if name.startswith("predictor.")}
        return [Interpolation(alpha, *tasting.taste(_between(start, end, alpha))) for alpha in alphas]


def _between(start: Weights, end: Weights, alpha: float) -> Weights:
    """Weights on the line; those that are the same at both ends stay so to the bit."""
    return {
        name: torch.where(value == end[name], value, ((1 - alpha) * value.double() + alpha * end[name].double()).float())
        for name, value in start.items()
    }


class _Tasting:
    """Evaluates weights in the network of a trial, on its data.

    Args:
        config: The trial.
        store: Where its stages are.
        device: Device type.
    """

    def __init__(self, config: TrialConfig, store: Store, device: str) -> None:
        stages = TrialStages(config, store, device)
        data = stages.load_data()
        self.model = model_before_tuning(config, store, device=device)
        self.params_total = self.model.num_parameters()
        self._shapes = {name: value.shape for name, value in _floats(self.model).items()}
        self._tuning = Finetuning(Settings.of(config, "finetune"), self.model, data, stages.device)

    def check(self, weights: Weights, position: int) -> None:
        """Check that weights fit into the network."""
        wrong = [name for name, value in weights.items() if self._shapes.get(name) != value.shape]
        wrong += self._shapes.keys() - weights.keys()
        if wrong:
            number = f"member {position + 1} differs from the first in {len(wrong)} of {len(self._shapes)} tensors, as in {min(wrong)}"
            raise DataError(f"a soup's members must have one architecture, but {number}. Choose trials with the same body and adapter.")

    def taste(self, weights: Weights) -> tuple[float, float, float]:
        """Validation loss and error, and test error."""
        self.model.load_state_dict(weights, strict=False)
        valid_loss, valid_error, test_error = self._tuning.evaluate()
        if valid_loss is None or valid_error is None or test_error is None:
            raise DataError("a soup's members must have validation and test samples")
        return valid_loss, valid_error, test_error


def _weights_of(config: TrialConfig, store: Store, which: Which, device: str) -> tuple[str, Weights]:
    """A digest of the weights with which a trial's fine-tuning began, and those that it left."""
    from safetensors.torch import load

    model = model_before_tuning(config, store, device=device)
    start = hashlib.sha256()
    for name, value in sorted(_floats(model).items()):
        start.update(f"{name} {tuple(value.shape)} ".encode() + value.reshape(-1).view(torch.uint8).numpy().tobytes())
    model.load_state_dict(load(find_weights(config, store, which, device).files["tensors.safetensors"]), strict=False)
    return start.hexdigest(), _floats(model)


def _floats(model: CrossModalModel) -> Weights:
    return {name: value.detach().cpu() for name, value in model.state_dict().items() if value.is_floating_point()}


def _mean(total: Weights, number: int) -> Weights:
    return {name: (value / number).float() for name, value in total.items()}
