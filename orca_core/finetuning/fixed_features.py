"""What never changes in a phase of fine-tuning is computed once: what the predictor reads, or what a ladder beside the body reads, or
what the lowest layers give that do not train."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from orca_core.adapters.side import SideAdapter
from orca_core.finetuning.prefix import Given, prefix_outputs, replaced_blocks, untrained_blocks
from orca_core.finetuning.terms.adapter import AdapterTerm
from orca_core.finetuning.terms.base import Term
from orca_core.freezing.schedule import Phase
from orca_core.memory import fits
from orca_core.model.cross_modal import CrossModalModel
from orca_core.tasks import TaskData

MOST_NUMBERS = 2**28
"""Most that is held of tokens (attention pooling), in numbers of float32: 1 GiB. More is computed anew in every epoch. A constant, as the
two ways need not give the same bits: which one a trial takes must not depend on the machine."""

LADDER_BYTES = 2**31
"""Most that a ladder's readings of all splits may take, in bytes of float32; likewise."""


PREFIX_BYTES = 2**31
"""Most that the outputs of the layers below those that train may take for all splits, in bytes of float32; likewise."""


class FixedFeatures(ABC):
    """Features of a phase, and what is left to compute from them."""

    def __init__(self, model: CrossModalModel) -> None:
        self.model = model
        self.fits_device = True

    def fit(self, sample: Tensor, samples: int) -> bool:
        """Whether the features of so many samples are small enough to be kept; `sample` is (1, channels, ...)."""
        size = 4 * samples * self.of(sample).numel()
        self.fits_device = fits(2 * size, sample.device)  # their parts are joined, so for a moment they are there twice
        return self.is_small(size)

    @abstractmethod
    def is_small(self, num_bytes: int) -> bool:
        """Whether features of that size in float32 are kept at all, whatever the machine."""

    def kept(self, features: Tensor) -> Tensor:
        """Features where they are kept until they are used: on the device, or on the CPU if they do not fit there."""
        return features if self.fits_device else features.cpu()

    @abstractmethod
    def of(self, x: Tensor) -> Tensor:
        """(n, channels, ...) inputs -> (n, ...) features."""

    @abstractmethod
    def outputs(self, features: Tensor) -> Tensor:
        """(n, ...) features -> the predictor's outputs."""

    def inferred(self, features: Tensor) -> Tensor:
        """`outputs` without gradients."""
        return self.outputs(features)


class PooledFeatures(FixedFeatures):
    """What the predictor reads, where nothing but the predictor trains: pooled tokens, or all tokens where it pools them itself."""

    def is_small(self, num_bytes: int) -> bool:
        return not self.model.predictor.pools_late or num_bytes <= 4 * MOST_NUMBERS

    def of(self, x: Tensor) -> Tensor:
        return self.model.inferred_features(x)

    def outputs(self, features: Tensor) -> Tensor:
        outputs: Tensor = self.model.predictor(features)
        return outputs


class PrefixFeatures(FixedFeatures):
    """What the lowest block that trains is given, where neither the embedder nor a block below it trains.

    The body's own forward pass runs as ever, but the blocks below hand on what they are given, and the last of them gives what it gave
    when features were computed. So whatever a family does around its blocks stays its own: masks, rotations, merged patches.

    Args:
        model: The model.
        lowest: Number of blocks below the one that trains; 0 = the embedder's tokens are kept.
    """

    def __init__(self, model: CrossModalModel, lowest: int) -> None:
        super().__init__(model)
        self.lowest = lowest
        self.tokens = self.given = torch.Size()
        self.readings, self.companions = 1, Given([]).companions

    def fit(self, sample: Tensor, samples: int) -> bool:
        if self.lowest and prefix_outputs(self.model.body, self.model.embedder(torch.cat([sample, sample])), self.lowest) is None:
            return False
        return super().fit(sample, samples)

    def is_small(self, num_bytes: int) -> bool:
        return num_bytes <= PREFIX_BYTES

    def of(self, x: Tensor) -> Tensor:
        tokens = self.model.embedder(x)
        return torch.cat([self._given(piece) for piece in self.model.pieces(tokens, tokens[:1].numel())])

    def _given(self, tokens: Tensor) -> Tensor:
        given = prefix_outputs(self.model.body, tokens, self.lowest) if self.lowest else Given([tokens])
        assert given is not None, "which `fit` has seen to"
        self.tokens, self.given = tokens.shape[1:], given.readings[0].shape[1:]
        self.readings, self.companions = len(given.readings), given.companions
        return torch.cat([one.flatten(1) for one in given.readings], dim=1)

    def inferred(self, features: Tensor) -> Tensor:
        return torch.cat([self.outputs(piece) for piece in self.model.pieces(features, self.tokens.numel())])

    def outputs(self, features: Tensor) -> Tensor:
        given = [one.unflatten(1, tuple(self.given)) for one in features.chunk(self.readings, dim=1)]
        if self.lowest:
            with replaced_blocks(self.model.body, self.lowest, Given(given, self.companions)):
                read = self.model.body(features.new_zeros(len(features), *self.tokens))
        else:
            read = self.model.body(given[0])
        outputs: Tensor = self.model.predictor(self.model.predictor.pool(read))
        return outputs


class LadderReadings(FixedFeatures):
    """What a ladder reads from a body, where the embedder does not train.

    Args:
        model: The model.
        side: Its adapter.
    """

    def __init__(self, model: CrossModalModel, side: SideAdapter) -> None:
        super().__init__(model)
        self.side = side

    def is_small(self, num_bytes: int) -> bool:
        return num_bytes <= LADDER_BYTES

    def of(self, x: Tensor) -> Tensor:
        return self.side.pack(self.side.read(self.model.embedder(x)))

    def outputs(self, features: Tensor) -> Tensor:
        outputs: Tensor = self.model.predictor(self.model.predictor.pool(self.side.combine(self.side.unpack(features))))
        return outputs


def fixed_features(
    model: CrossModalModel, phase: Phase, data: TaskData, terms: Sequence[Term], *, prefix: bool = False
) -> FixedFeatures | None:
    """The features that a phase computes once; None if it must go through the model in every epoch.

    Args:
        model: The model.
        phase: Of the freezing schedule.
        data: The task's data.
        terms: Those of the phase. A ladder's readings, and a prefix's, do only for terms that leave batches and tokens alone.
        prefix: Whether the lowest layers are computed once where they do not train (`finetune.prefix`).
    """
    if data.augment is not None or any(term.needs_forward for term in terms):
        return None
    if phase.train == ("predictor",):
        return PooledFeatures(model)
    side = model.adapter
    if "embedder" in phase.train or any(_reads_batches(term) for term in terms):
        return None
    if isinstance(side, SideAdapter):
        return LadderReadings(model, side)
    return PrefixFeatures(model, untrained_blocks(model.body)) if prefix and side is None else None


def _reads_batches(term: Term) -> bool:
    """Whether a term does something that readings in the place of inputs would not do for."""
    kind = type(term)
    return not isinstance(term, AdapterTerm) and (
        term.changes_tokens or term.reads_body or kind.before is not Term.before or kind.penalty is not Term.penalty
    )
