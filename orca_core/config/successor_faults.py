"""Faults of the knobs of methods that came after ORCA: patch replacement, the bi-level objective, the entropy of labels."""

from __future__ import annotations

from typing import Any

from orca_core.config.knobs import TrialConfig
from orca_core.distances import find_distance
from orca_core.errors import Fault
from orca_core.proxies import find_proxy


def successor_faults(config: TrialConfig) -> list[Fault]:
    """Faults of `mix`, `align.objective: bilevel`, `align.label_entropy` and `align.task_weight`; task, body and schedule have none."""
    return [*_mix_faults(config), *_align_faults(config), *_token_faults(config)]


def _mix_faults(config: TrialConfig) -> list[Fault]:
    if not config.mixes:
        return []
    faults, share = [], config.mix.share
    if config.finetune.mixout:
        faults.append(Fault("mix.share", "must be 0 with finetune.mixout, whose weights exist in the other pass only", share))
    if config.precision == "fp16":
        rule = "must be 0 with precision fp16, whose scaled gradients its layers do not take"
        faults.append(Fault("mix.share", rule, share, "Take bf16."))
    return faults


def _align_faults(config: TrialConfig) -> list[Fault]:
    if config.body_spec.is_bodiless:
        return []
    align, faults, compares = config.align, [], find_distance(config.align.objective).compares
    if compares == "body" and align.weight:
        remedy = "It is an objective of alignment before fine-tuning. Set align.weight to 0 and align.epochs above 0."
        faults.append(Fault("align.weight", "must be 0 with align.objective bilevel, which is no distance", align.weight, remedy))
    if compares == "nothing" and align.task_weight:
        remedy = "That objective is the task's loss already."
        faults.append(Fault("align.task_weight", "must be 0 with align.objective none", align.task_weight, remedy))
    if compares != "proxy" and align.label_entropy:
        remedy = "It stands beside a distance to the proxy. Take another objective."
        faults.append(Fault("align.label_entropy", f"must be 0 with align.objective {align.objective}", align.label_entropy, remedy))
    return faults


def _token_faults(config: TrialConfig) -> list[Fault]:
    """The fault of a proxy that has no tokens, where a knob needs them."""
    needing: dict[str, Any] = {}
    if config.mixes:
        needing["mix.share"] = config.mix.share
    if config.aligns and config.align.objective == "bilevel":
        needing["align.objective"] = "bilevel"
    if config.aligns and config.align.label_entropy:
        needing["align.label_entropy"] = config.align.label_entropy
    proxy = find_proxy(config.proxy)
    if not needing:
        return []
    path, value = next(iter(needing.items()))
    if proxy.matched or proxy.width is not None:
        remedy = f"{path} = {value} needs samples that the body reads; this proxy has features, or their moments, alone."
        return [Fault("proxy", "must be a proxy with samples", config.proxy, remedy)]
    if proxy.parts or proxy.chosen is not None:
        remedy = f"{path} = {value} reads tokens, and mixtures and choices are made of features. Take +k:N for fewer samples."
        return [Fault("proxy", "must be one proxy, without +near:N and +far:N", config.proxy, remedy)]
    return []
