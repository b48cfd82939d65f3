"""Fused fine-tuning: several trials train as one batched model (`finetune.fused`).

Small models spend much of a step on starting operations rather than on arithmetic. Here the weights of several models lie stacked, and one
forward and backward pass and one optimiser step train them all; each has a learning rate, a weight decay and draws of its own. A *group*
always has `finetune.fused` members: copies of the first, whose results are thrown away, fill it up. There are three forms of a pass: for
linear heads on features that are computed once the gradient is written out (`heads`); members are folded into the batch where every layer
with weights has a batched counterpart (`folded`); else the model is vectorised by `torch.func`.

A fused step does not have the bits of a single one, so the knob is in ids and keys. But a member's bits depend neither on the trials beside
it, nor on its place among them, nor on who else is finished:

- every operation has one shape for a given number of members, and treats each of them by itself;
- a member's rows of a stacked tensor start at the same offset within a cache line, and have a multiple of 32 numbers, so that vector
  instructions cut every member alike;
- orders and augmentations are drawn from each member's own generators, outside the batched computation;
- after each epoch weights and the optimiser's state go back to the members, so any other group may follow. A group whose members stay the
  same goes on with what it has.

The second holds for what is stacked here; tensors inside the model are laid out by torch. That bits do not depend on the place is shown by
tests, on odd sizes, too. Members are evaluated together as they are trained; one by one if they are vectorised, or heads whose score is no
error rate. What has no such independence is refused in `orca_core.config.training_faults`. `orca_core.finetuning.group` computes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from time import perf_counter

import torch
from torch import Tensor

from orca_core.finetuning.fixed_features import FixedFeatures, PooledFeatures
from orca_core.finetuning.folded import FoldedFeatures, FoldedModel
from orca_core.finetuning.group import Group, Scores
from orca_core.finetuning.loop import Finetuning
from orca_core.fusing import shared_settings, smooths_labels
from orca_core.rows import EpochRow
from orca_core.settings import Settings


class FusedFinetuning(Finetuning):
    """Fine-tuning of one trial as a member of a group. `train_together` trains it beside others; otherwise it trains among copies.

    Attributes:
        share_s: Seconds of the latest epoch's training that fall to it: those of its group over the number of members.
        place: The group that has its weights and the optimiser's state as they are now, and its number there; None if there is none.
    """

    share_s = 0.0
    place: tuple[Group, int] | None = None
    _trained: tuple[float, float] | Exception | None = None
    _scored: Scores | None = None
    _of_phase: tuple[bool, str] | None = None

    def start_phase(self, settings: Settings) -> None:
        """Begin a phase, see `Finetuning.start_phase`."""
        super().start_phase(settings)
        self._of_phase = self.place = None

    def run_epoch(self, epoch: int) -> EpochRow:
        """The epoch that `train_together` has trained, else one that is trained now."""
        self.prepare()
        if not self.fuses:
            return super().run_epoch(epoch)
        if self._trained is None:
            train_together([(self, epoch)])
            self.share_s = 0.0  # the caller of this function has seen it pass
        trained, self._trained = self._trained, None
        if isinstance(trained, Exception):
            raise trained
        assert trained is not None
        return self.row_after(epoch, *trained)

    @property
    def is_ahead(self) -> bool:
        """Whether its next epoch has been trained by `train_together`."""
        return self._trained is not None

    def prepare_beside(self, others: Sequence[FusedFinetuning]) -> None:
        """As `prepare`, but take features that are computed once from another trial if they are the same ones.

        Args:
            others: Trials that have been prepared.
        """
        if self.inputs is None and self.phase.train == ("predictor",):
            for other in others:
                if isinstance(other.passes.fixed, PooledFeatures) and other.inputs is not None and self._has_features_of(other):
                    self.inputs, self.passes.fixed = other.inputs, PooledFeatures(self.model)
                    return
        self.prepare()

    def _fixed_features(self) -> FixedFeatures | None:
        fixed = super()._fixed_features()
        folded = FoldedModel.of(self.model) if isinstance(fixed, PooledFeatures) and self.settings.body.pretrained_here else None
        return fixed if folded is None else FoldedFeatures(self.model, folded)

    def _has_features_of(self, other: FusedFinetuning) -> bool:
        if shared_settings(self.settings) != shared_settings(other.settings):
            return False
        parts = ("embedder",) if self.model.body is other.model.body else ("embedder", "body")
        for part in parts:
            own, its = (model.get_submodule(part).state_dict() for model in (self.model, other.model))
            if own.keys() != its.keys() or not all(torch.equal(tensor, its[name]) for name, tensor in own.items()):
                return False
        return True

    @property
    def fuses(self) -> bool:
        """Whether its phase trains in a group: if anything trains, and, of a body that is not a mini body, the predictor alone."""
        return self._describe_phase()[0]

    @property
    def signature(self) -> Hashable:
        """Trials of one signature can be members of one group in their next epoch."""
        return self._describe_phase()[1], self._steps_differ()

    def _describe_phase(self) -> tuple[bool, str]:
        """Whether its phase trains in a group, and what members of one have in common. After `prepare`."""
        if self._of_phase is None:
            state = [(name, tensor.shape) for name, tensor in self.model.state_dict().items()]
            trained = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]
            is_fixed = self.passes.fixed is not None
            fuses = bool(trained) and (is_fixed or self.settings.body.pretrained_here)
            self._of_phase = fuses, repr((shared_settings(self.settings), smooths_labels(self.settings), state, trained, is_fixed))
        return self._of_phase

    def _steps_differ(self) -> bool:
        """Whether parameters that train have seen different numbers of steps, as after the thawing of layers."""
        if self.settings["finetune.optimizer"] == "sgd":
            return False
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"] if parameter.requires_grad]
        return len({float(self.optimizer.state.get(parameter, {}).get("step", 0)) for parameter in trained}) > 1

    def hold(self, trained: tuple[float, float] | Exception, scores: Scores | None = None, seconds: float = 0.0) -> None:
        """Take what training it in a group has come to, for its next `run_epoch`.

        Args:
            trained: Mean loss and last learning rate, or what went wrong.
            scores: What the group has found on validation and test set; None if it is evaluated on its own.
            seconds: Its share of the time.
        """
        self._trained, self._scored, self.share_s = trained, scores, seconds

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a state, see `Finetuning.load_state`."""
        super().load_state(tensors)
        self.place = None

    def _scores(
        self, inputs: tuple[Tensor, Tensor, Tensor], tests: Callable[[float | None], bool] = lambda error: True
    ) -> tuple[float | None, float | None, float | None]:
        scored, self._scored = self._scored, None
        return super()._scores(inputs, tests) if scored is None else scored

    def asks_test(self, epoch: int, valid_error: float | None) -> bool:
        """Whether the test error of its latest epoch is asked for."""
        return self.tested.asks(epoch, valid_error)

    def scores_of(self, outputs: Tensor, place: int) -> tuple[float, float] | Exception:
        """Loss and score of the outputs for its validation set (1) or test set (2), or what went wrong."""
        (_, y), group = (self.valid, self.data.valid.group) if place == 1 else (self.test, self.data.test.group)
        try:
            return self._scores_of(outputs.float(), y, group)
        except Exception as error:
            return error


def train_together(due: Sequence[tuple[FusedFinetuning, int]]) -> None:
    """Train each of some trials for its next epoch, in groups of those that can. Their next `run_epoch` evaluates it and returns its row.

    An error in what belongs to one of them, such as its augmentation, is raised by its `run_epoch` alone.

    Args:
        due: Trials, each with the number of its next epoch; on the same device, with the same `finetune.fused` or not.
    """
    groups: defaultdict[Hashable, list[tuple[FusedFinetuning, int]]] = defaultdict(list)
    for member, epoch in due:
        try:
            member.prepare_beside([other for other, _ in due if other is not member])
        except Exception as error:
            member.hold(error)
            continue
        if member.fuses:
            groups[member.signature].append((member, epoch))
    for members in groups.values():
        width = members[0][0].settings["finetune.fused"]
        for start in range(0, len(members), width):
            _train_group(members[start : start + width], width)


def _train_group(members: Sequence[tuple[FusedFinetuning, int]], width: int) -> None:
    """Train the members of one group for an epoch each."""
    started = perf_counter()
    tunings = [member for member, _ in members]
    group = _group_of(tunings, width)
    for tuning in tunings:
        tuning.place = None  # if the epoch fails, what the group has is nobody's
    scores: Sequence[Scores | Exception | None] = [None] * len(members)
    try:
        group.run(members)
        scores = group.scores(members)
    except Exception as error:
        group.failed |= dict.fromkeys(range(len(members)), error)
    whole = [number for number in range(len(tunings)) if number not in group.failed]
    if whole:
        group.give_back(whole)
        losses, rates = group.mean_losses(), group.rates[-1].tolist()
    seconds = (perf_counter() - started) / len(members)
    for number, (tuning, scored) in enumerate(zip(tunings, scores, strict=True)):
        if number in group.failed:
            tuning.hold(group.failed[number], seconds=seconds)
        elif isinstance(scored, Exception):
            tuning.hold(scored, seconds=seconds)
        else:
            tuning.place = group, number
            tuning.hold((losses[number], rates[number]), scored, seconds)


def _group_of(tunings: Sequence[FusedFinetuning], width: int) -> Group:
    """The group that trained these trials in their latest epoch, if it did so in these places; else a new one."""
    found = tunings[0].place
    if found is not None and found[0].count == len(tunings) and all(one.place == (found[0], n) for n, one in enumerate(tunings)):
        return found[0]
    return Group([*tunings, *[tunings[0]] * (width - len(tunings))], len(tunings))
