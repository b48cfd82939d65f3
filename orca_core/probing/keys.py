"""Which probes a trial has, at which moments, and the key of each. No torch here.

A probe is keyed by the state that it reads, its name, its version, and what is asked of it. The state at `start` and `aligned` is known by
what fine-tuning reads before it trains anything: so trials that differ in their learning rates share these probes. The fine-tuned state is
known by the trial's result key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from orca_core.addresses import INTERIM, WHOLE, Address
from orca_core.config.knobs import TrialConfig
from orca_core.declarations import FINETUNE, SOURCE
from orca_core.errors import OrcaError
from orca_core.identity import hash_of
from orca_core.probing.catalogue import PROBES, Moment, Probe
from orca_core.probing.request import ProbeRequest
from orca_core.proxies import find_proxy
from orca_core.reads import COMMON
from orca_core.stages import Stage, hashed_reads, result_key, stages_of, stages_of_training

ONLY_TRAINING = frozenset(
    f"finetune.{name}"
    for name in (
        "lr",
        "optimizer",
        "weight_decay",
        "momentum",
        "betas",
        "batch_size",
        "data_order",
        "eval_batch_size",
        "scoring",
        "score_chunk",
        "test",
        "epochs",
        "accum",
        "accumulation",
        "clip",
        "schedule",
        "warmup_epochs",
        "decay_epochs",
        "dropout",
        "checkpointing",
        "prefix",
        "compile",
        "label_smoothing",
        "layer_decay",
        "mixout",
        "l2_sp",
        "distill",
        "smooth.kind",
        "smooth.weight",
        "smooth.noise",
        "smooth.radius",
        "mixup.alpha",
        "mixup.place",
        "fused",
    )
)
"""What fine-tuning reads that leaves the model alone until it trains. A knob that is not named here counts as one that does not."""


BEFORE_TUNING = frozenset({"align", "adapt"})
"""Kinds of stages that train a model before fine-tuning."""


@dataclass(frozen=True)
class ProbeStage:
    """One probe of a trial at one moment.

    Args:
        probe: Which one.
        moment: The state that it measures.
        key: Hash of what its numbers depend on.
    """

    probe: Probe
    moment: Moment
    key: str

    @property
    def address(self) -> Address:
        """Where a store keeps its rows."""
        return Address("probe", self.key, WHOLE)


@dataclass(frozen=True)
class TrialProbes:
    """The probes of one trial.

    Args:
        config: The trial.
        request: What is asked.
        device: Device type of the trial.
        stages: Probe by probe and moment by moment.
        refused: Name of a probe that this trial cannot have -> why.
        result_key: Of the trial.
        proxy: Name of the data set that probes read as the proxy; None if there is none.
    """

    config: TrialConfig
    request: ProbeRequest
    device: str
    stages: tuple[ProbeStage, ...]
    refused: dict[str, str]
    result_key: str
    proxy: str | None

    @property
    def under_way(self) -> Address:
        """Where the store says that a process is at a probe of this trial; what is left there was left by a process that was killed."""
        return Address("probe", self.result_key, INTERIM)

    @property
    def weights(self) -> Address:
        """Where the store keeps the fine-tuned weights that are read."""
        return Address.model(self.result_key, self.request.weights)


def probes_of(config: TrialConfig, request: ProbeRequest, device: str = "cpu") -> TrialProbes:
    """The probes that a trial has of those that are asked.

    Args:
        config: The trial.
        request: What is asked.
        device: Device type of the trial.

    Raises:
        OrcaError: If data or body cannot be found, whose content is part of the keys.
    """
    stages, proxy = stages_of_training(config, device), proxy_of(config, request)
    result = result_key(config, stages_of(config, device))
    moments: list[Moment] = ["start", "aligned", "fine-tuned"]
    if all(stage.kind not in BEFORE_TUNING for stage in stages):
        moments.remove("aligned")
    states = {moment: _state(config, moment, stages, device, f"{result} {request.weights}") for moment in moments}
    found: list[ProbeStage] = []
    refused: dict[str, str] = {}
    for name in request.names:
        probe = PROBES[name]
        if reason := probe.refuses(config, proxy):
            refused[name] = reason
            continue
        if not any(moment in states for moment in probe.moments):
            refused[name] = "the trial does not have the moments of this probe"
        for moment in probe.moments:
            if moment in states:
                found.append(ProbeStage(probe, moment, _key(probe, states[moment], request, proxy)))
    return TrialProbes(config, request, device, tuple(found), refused, result, proxy)


def proxy_of(config: TrialConfig, request: ProbeRequest) -> str | None:
    """The data set that probes of a trial read as the proxy: the one that is asked for, else the trial's own, if it reads one."""
    if request.proxy is not None:
        return request.proxy
    return config.proxy if SOURCE.exists.holds(config) else None


def _key(probe: Probe, state: Any, request: ProbeRequest, proxy: str | None) -> str:
    content: dict[str, Any] = {"probe": probe.name, "version": probe.version, "state": state, "samples": request.samples}
    if probe.by_layer and request.layers is not None:
        content["layers"] = sorted(set(request.layers))
    if probe.needs_proxy and proxy is not None:
        content["proxy"] = find_proxy(proxy).digest()
    return hash_of(content, digits=32)


def _state(config: TrialConfig, moment: Moment, stages: tuple[Stage, ...], device: str, result: str) -> Any:
    """What a state is known by."""
    if moment == "fine-tuned":
        return result
    values: dict[str, Any] = {"version": FINETUNE.version, "device": device} | hashed_reads(COMMON, config, 0)
    for name, group in FINETUNE.groups.items():
        if name in ("", "joint", "mix") or not group.when.holds(config):  # the phases, and what the training does beside the task's loss
            continue
        wanted = set(group.inputs) - (BEFORE_TUNING if moment == "start" else set())
        inputs = {stage.kind: str(stage.address) for stage in stages if stage.kind in wanted}
        reads = {read: value for read, value in hashed_reads(group, config, 0).items() if read not in ONLY_TRAINING}
        values[name] = reads | inputs
    return values


def refusals(configs: Iterator[TrialConfig], request: ProbeRequest) -> dict[str, tuple[str, int]]:
    """Name of a probe that some trial cannot have -> why, in the words of the first such trial, and how many trials cannot."""
    found: dict[str, tuple[str, int]] = {}
    for config in configs:
        for name in request.names:
            try:
                reason = PROBES[name].refuses(config, proxy_of(config, request))
            except OrcaError as error:
                reason = str(error)
            if reason:
                first, count = found.get(name, (reason, 0))
                found[name] = (first, count + 1)
    return found
