"""`finetune.compile`: its spellings, what is replayed from CUDA graphs, and that a replay overwrites no gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from trials import small

from orca_core.config.device_faults import check_device
from orca_core.errors import ConfigError
from orca_core.finetuning.compiling import GraphedForward
from orca_core.identity import trial_id
from orca_core.pipeline import trial_rows
from orca_core.stages import stages_of
from orca_core.store import Store


def known_by(compile: object) -> tuple[str, list[str]]:
    config = small("digits", finetune__compile=compile)
    return trial_id(config), [str(stage.address) for stage in stages_of(config)]


def test_a_yes_or_no_of_version_0_1_means_what_it_meant():
    assert small("digits", finetune__compile=False).finetune.compile == "none"
    assert small("digits", finetune__compile=True).finetune.compile == "default"
    assert known_by("none") == known_by(False) == (trial_id(small("digits")), [str(stage.address) for stage in stages_of(small("digits"))])
    assert len({known_by(value)[0] for value in ("none", "default", "reduce-overhead")}) == 3
    assert len({known_by(value)[1][-1] for value in ("none", "default", "reduce-overhead")}) == 3


def test_what_is_no_mode_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=r"finetune\.compile: must be one of none, default, reduce-overhead"):
        small("digits", finetune__compile="max-autotune")


def test_graphs_are_refused_on_a_cpu_before_anything_is_computed(tmp_path):
    config = small("digits", finetune__compile="reduce-overhead")
    check_device(config, "cuda")
    with pytest.raises(ConfigError, match=r"finetune\.compile: must be none or default on a CPU, .*reduce-overhead.*resources\.gpu"):
        next(trial_rows(config, Store(tmp_path)))


class Replayed:
    """As a CUDA graph does: gradients of its backward pass lie in memory of its own, which its next forward pass overwrites."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.calls = model, 0
        self.held = {parameter: torch.zeros_like(parameter) for parameter in model.parameters()}
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(self._hold)
        self._is_new: dict[nn.Parameter, bool] = {}

    def _hold(self, parameter: nn.Parameter) -> None:
        if self._is_new.pop(parameter, False):  # autograd takes over what it is given; later gradients are added to it
            parameter.grad = self.held[parameter].copy_(parameter.grad)

    def __call__(self, x: torch.Tensor, **options: object) -> object:
        self.calls += 1
        for held in self.held.values():
            held.fill_(math.nan)
        self._is_new = {parameter: parameter.grad is None for parameter in self.held}
        return self.model(x, **options)


@pytest.mark.parametrize("accumulation", ["mean", "sum"])
def test_a_replay_overwrites_no_gradient_and_odd_batches_are_not_replayed(tune, accumulation):
    knobs = {"finetune.batch_size": 3, "finetune.accum": 2, "finetune.accumulation": accumulation, "finetune.clip": 1.0}
    plain = tune(knobs).run_epoch(1)
    graphed = tune(knobs)
    graphed.passes.forward = GraphedForward(graphed.model, 3, Replayed)
    assert graphed.run_epoch(1) == plain
    assert graphed.passes.forward.graphed.calls == 2  # of 8 samples two whole batches; the third, and evaluation, are computed as ever
