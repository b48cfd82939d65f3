"""Faults of knobs that do not go together in fine-tuning: penalties, mixtures and predictors with the rest of a config."""

from __future__ import annotations

from orca_core.adapters.names import NONE
from orca_core.config.knobs import TrialConfig
from orca_core.config.training_knobs import PredictorConfig
from orca_core.errors import Fault

_ROUNDING = {"bf16": 0.01, "fp16": 0.001}
"""Number format -> smallest perturbation of tokens near 1 that it does not round away."""


def training_faults(config: TrialConfig) -> list[Fault]:
    """Faults of `predictor` and of what fine-tuning minimises, mixes, tests and fuses, of a config whose task, body and schedule exist."""
    return [
        *_predictor_faults(config),
        *_smooth_faults(config),
        *_mixup_faults(config),
        *_test_faults(config),
        *_fused_faults(config),
    ]


def _test_faults(config: TrialConfig) -> list[Fault]:
    if config.finetune.test == "each-epoch" or config.selection != "test":
        return []
    remedy = "The epoch is chosen by the test error of every epoch. Set selection to valid."
    return [Fault("finetune.test", "must be each-epoch with selection: test", config.finetune.test, remedy)]


def _predictor_faults(config: TrialConfig) -> list[Fault]:
    if config.task_spec.kind != "dense":
        return []
    defaults = PredictorConfig()
    remedy = "Its predictor answers at every position and pools nothing. Leave the knob out."
    return [
        Fault(f"predictor.{name}", f"must be {getattr(defaults, name)} for {config.task}, a dense task", value, remedy)
        for name, value in config.predictor
        if value != getattr(defaults, name)
    ]


def _smooth_faults(config: TrialConfig) -> list[Fault]:
    smooth, faults = config.finetune.smooth, []
    if smooth.kind == "none":
        return []
    if smooth.kind == "smart" and config.precision == "fp16":
        remedy = "Gradients with respect to the tokens vanish in fp16. Take bf16, fp32, or r3f."
        faults.append(Fault("precision", "must not be fp16 with finetune.smooth.kind: smart", config.precision, remedy))
    for name in ("noise", *(["radius"] if smooth.kind == "smart" else [])):
        least, value = _ROUNDING.get(config.precision, 0.0), getattr(smooth, name)
        if value < least:
            remedy = "Smaller perturbations are rounded away. Take fp32."
            faults.append(Fault(f"finetune.smooth.{name}", f"must be at least {least:g} with precision: {config.precision}", value, remedy))
    if config.finetune.compile != "none":
        remedy = "Its passes from the tokens on would be compiled one by one."
        faults.append(Fault("finetune.compile", "must be none with finetune.smooth", config.finetune.compile, remedy))
    return faults


def _mixup_faults(config: TrialConfig) -> list[Fault]:
    mixup, faults = config.finetune.mixup, []
    if not mixup.alpha:
        return []
    if mixup.place == "inputs" and config.aligns_jointly:
        remedy = "A mixture has no class whose distance to the proxy could be taken. Mix tokens, or set align.weight to 0."
        faults.append(Fault("finetune.mixup.place", "must be tokens with align.weight", mixup.place, remedy))
    if mixup.place == "tokens" and config.finetune.compile != "none":
        remedy = "It would be compiled anew for every batch."
        faults.append(Fault("finetune.compile", "must be none with finetune.mixup.place: tokens", config.finetune.compile, remedy))
    return faults


def _fused_faults(config: TrialConfig) -> list[Fault]:
    """Faults of `finetune.fused`: whatever a batched step cannot do for each model as if it were alone is refused."""
    tuning = config.finetune
    if not tuning.fused:
        return []
    needed = {
        "adapter": (config.adapter, NONE),
        "align.weight": (config.align.weight, 0.0),
        "mix.share": (config.mix.share, 0.0),
        "finetune.accum": (tuning.accum, 1),
        "finetune.dropout": (tuning.dropout, 0.0),
        "finetune.checkpointing": (tuning.checkpointing, False),
        "finetune.compile": (tuning.compile, "none"),
        "finetune.layer_decay": (tuning.layer_decay, 1.0),
        "finetune.prefix": (tuning.prefix, "recomputed"),
        "finetune.mixout": (tuning.mixout, 0.0),
        "finetune.l2_sp": (tuning.l2_sp, 0.0),
        "finetune.distill": (tuning.distill, 0.0),
        "finetune.smooth.kind": (tuning.smooth.kind, "none"),
        "finetune.mixup.alpha": (tuning.mixup.alpha, 0.0),
        "precision": (config.precision, "fp32"),
        "threads": (config.threads, 1),
        "bits": (config.bits, "native"),
    }
    remedy = "Set finetune.fused to 0, or leave this knob out."
    rules = {path: f"must be {str(only).lower()} with finetune.fused" for path, (value, only) in needed.items() if value != only}
    faults = [Fault(path, rule, needed[path][0], remedy) for path, rule in rules.items()]
    if not config.body_spec.pretrained_here and any(phase.train != ("predictor",) for phase in config.phases):
        remedy = "Take a mini body, or freezing: frozen-both, where only the predictor trains, on features that are computed once."
        rule = f"must be 0 for {config.body.name} unless it is frozen with its embedder"
        faults.append(Fault("finetune.fused", rule, tuning.fused, remedy))
    return faults
