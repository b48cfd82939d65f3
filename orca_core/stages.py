"""The stages of a trial and their keys.

    pretrain?  ->  source?  ->  align?  ->  finetune phase 0  ->  finetune phase 1 ...

A stage key is a hash of exactly what the stage's result depends on: its kind and version, the knobs it reads, the content of
the data it reads, the keys of its inputs, the seed if it draws, threads, device type. Files enter by content, never by path.

All stages but `source` are trajectories: their key leaves out how far they go, as epoch 60 passes through epoch 20. The
schedules that drive them depend on epochs alone, never on the length of the run, which makes this true.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orca_core.addresses import INTERIM, WHOLE, Address
from orca_core.config.knobs import TrialConfig
from orca_core.freezing.schedule import phases_as_data
from orca_core.identity import DISTANCE_KNOBS, hash_of, read_knobs, trial_id
from orca_core.proxies import find_proxy

Kind = Literal["pretrain", "source", "align", "finetune"]

VERSIONS: Mapping[Kind, int] = {"pretrain": 2, "source": 1, "align": 3, "finetune": 3}
"""Raised when a stage's maths change, so that old artifacts are not taken for new ones."""


@dataclass(frozen=True)
class Stage:
    """One stage of a trial.

    Args:
        kind: Which stage.
        key: Hash of what its result depends on; of a trajectory, without its length.
        start: Epochs of the trial's trajectory before this stage; only later fine-tuning phases start above 0.
        end: Epoch at which the trial leaves the trajectory; None for a stage that is no trajectory.
        phase: Number of the fine-tuning phase, from 0.
    """

    kind: Kind
    key: str
    start: int = 0
    end: int | None = None
    phase: int = 0

    @property
    def folder(self) -> str:
        """What a store keeps all artifacts of this key under."""
        return f"{self.kind}/{self.key}"

    @property
    def address(self) -> Address:
        """The address of the result that the trial takes."""
        return self.address_at(self.end)

    @property
    def interim(self) -> Address:
        """The address of the state of a run under way; one for each trajectory, dropped at its end."""
        return Address(self.kind, self.key, INTERIM)

    def address_at(self, epoch: int | None) -> Address:
        """The address of the state after `epoch` epochs."""
        return Address(self.kind, self.key, WHOLE) if epoch is None else Address.after(self.kind, self.key, epoch)


def stages_of(config: TrialConfig, device: str = "cpu") -> tuple[Stage, ...]:
    """The stages of a trial, in the order they run.

    Args:
        config: The trial.
        device: Device type, `cpu` or `cuda`: it changes the bits.
    """
    knobs = read_knobs(config)
    body, task = config.body_spec, config.task_spec
    common = {"threads": config.threads, "device": device}

    def key(kind: Kind, reads: Mapping[str, Any], **more: Any) -> str:
        return hash_of({"kind": kind, "version": VERSIONS[kind], "reads": dict(reads)} | common | more, digits=32)

    def below(*prefixes: str) -> dict[str, Any]:
        return {
            k: v for k, v in knobs.items() if k.startswith(prefixes) and k not in ("align.epochs", "finetune.epochs", "pretrain.epochs")
        }

    stages = []
    start: dict[str, Any] = {"body": body.digest(), "weights": config.body.weights}
    if config.body.weights == "random":
        start["seed"] = config.seed
    elif body.pretrained_here:
        stages.append(Stage("pretrain", key("pretrain", below("pretrain."), body=body.digest()), end=config.pretrain.epochs))
        start["pretrain"] = str(stages[-1].address)
    embedder = start | below("embedder.") | {"task": task.digest(), "split_seed": config.split_seed, "seed": config.seed}
    embedder |= below("train_samples", "reference_data", "body.double")  # a doubled sequence has half as many tokens
    if config.align.epochs > 0 or config.aligns_jointly:
        proxy = find_proxy(config.proxy).digest()
        source = key("source", below("align.proxy_samples"), start=start, proxy=proxy, seed=config.seed)
        stages.append(Stage("source", source))
    if config.align.epochs > 0:
        reads = below("align.")
        reads.pop("align.weight", None)
        if config.align.lr_from == "finetune":
            reads["align.lr"] = config.align_lr
        if config.align.class_sampling == "batches":
            reads["finetune.batch_size"] = config.finetune.batch_size
        stages.append(Stage("align", key("align", reads, start=embedder, source=str(stages[-1].address)), end=config.align.epochs))
        embedder["align"] = str(stages[-1].address)
    joint: dict[str, Any] = {}
    if config.aligns_jointly:
        reads = {path: value for path, value in knobs.items() if path in DISTANCE_KNOBS - {"proxy", "align.proxy_samples"}}
        joint = {"joint": reads | {"source": str(stages[[stage.kind for stage in stages].index("source")].address)}}
    phases, done = config.phases, 0
    for number, phase in enumerate(phases):
        so_far = phases_as_data([*phases[:number], phase.model_copy(update={"epochs": None})])
        tuning = key("finetune", below("finetune.", "precision", "body.flip", "adapter"), start=embedder, phases=so_far, **joint)
        stages.append(Stage("finetune", tuning, done, done + (phase.epochs or 0), number))
        done += phase.epochs or 0
    return tuple(stages)


def result_key(config: TrialConfig, stages: tuple[Stage, ...]) -> str:
    """What a finished trial is known by across sweeps: same key, same rows."""
    return hash_of({"trial": trial_id(config), "stages": [str(stage.address) for stage in stages]}, digits=32)
