"""The stages of a trial and their keys.

    pretrain?  ->  source?  ->  align?  ->  adapt?  ->  finetune phase 0  ->  finetune phase 1 ...

A stage key is a hash of exactly what the stage's result depends on, as `orca_core.declarations` names it: its kind and version, the
knobs it reads, the content of the data it reads, the keys of its inputs, the seed if it draws, threads, device type. Files enter by
content, never by path.

All stages but `source` are trajectories: their key leaves out how far they go, as epoch 60 passes through epoch 20. The
schedules that drive them depend on epochs alone, never on the length of the run, which makes this true.

A trial whose epoch is chosen by folds has the stages `align`, `adapt` and `finetune` of the trial on each fold, then its own, of the final
training. At which epoch the final training ends is known only after the folds; the plan has it end with the schedule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from orca_core.addresses import INTERIM, WHOLE, Address
from orca_core.conditions import SHARED_ITS_KEYS
from orca_core.config.knobs import TrialConfig
from orca_core.config.paths import value_of
from orca_core.declarations import STAGES
from orca_core.facts import groups_read
from orca_core.identity import DEFAULTS, CanonicalConfig, hash_of, trial_id
from orca_core.reads import Declaration, Group, Kind, Read
from orca_core.rows import ProbeRow, Row


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a trial.

    Args:
        kind: Which stage.
        key: Hash of what its result depends on; for a trajectory, without its length.
        start: Epochs of the trial's trajectory before this stage; only later fine-tuning phases start above 0.
        end: Epoch at which the trial leaves the trajectory; 0 for a stage without epochs.
        phase: Number of the fine-tuning phase, from 0.
        fold: Number of the fold that it belongs to, from 0; None if it belongs to none. Not part of the key.
        needs_maker: Whether only artifacts that say what made them are taken: version 0.1, whose artifacts do not, stored two
            computations under this key.

    Attributes:
        has_epochs: Whether it is a trajectory, which runs epoch by epoch.
        folder: What a store keeps all artifacts of this key under.
        address: The address of the result that the trial takes.
    """

    kind: Kind
    key: str
    start: int = 0
    end: int = 0
    phase: int = 0
    needs_maker: bool = False
    fold: int | None = None
    has_epochs: bool = field(init=False, repr=False, compare=False)
    folder: str = field(init=False, repr=False, compare=False)
    address: Address = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        has_epochs = bool(STAGES[self.kind].length)
        address = self.address_at(self.end) if has_epochs else Address(self.kind, self.key, WHOLE)
        object.__setattr__(self, "has_epochs", has_epochs)
        object.__setattr__(self, "folder", address.folder)
        object.__setattr__(self, "address", address)

    @property
    def interim(self) -> Address:
        """The address of the state of a run under way; one for each trajectory, dropped at its end."""
        return Address(self.kind, self.key, INTERIM)

    def address_at(self, epoch: int) -> Address:
        """The address of the state after `epoch` epochs."""
        return Address.after(self.kind, self.key, epoch)

    def reports(self, row: Row) -> bool:
        """Whether a row of a trial that has this stage is about this stage."""
        return not isinstance(row, ProbeRow) and (self.kind, self.phase, self.fold) == (row.stage, row.phase, row.fold)


Digests = dict[tuple[Read, str, str, str], Any]
"""Digests of data that were found already, by what reads them and the names of task, body and proxy."""


def stages_of(config: TrialConfig | CanonicalConfig, device: str = "cpu", digests: Digests | None = None) -> tuple[Stage, ...]:
    """The stages of a trial, in the order they run: those of its folds, if it has any, before those of the final training.

    Args:
        config: The trial.
        device: Device type of the trial, `cpu` or `cuda`: it changes the bits of the stages that are computed on it.
        digests: Kept from one trial to the next, so that files are looked at once for all trials of a plan.
    """
    canonical = config if isinstance(config, CanonicalConfig) else CanonicalConfig.of(config)
    digests = {} if digests is None else digests
    own = _stages_of_training(canonical, device, digests)
    if not (parts := canonical.config.fold_configs):
        return own
    shared = tuple(stage for stage in own if stage.kind in ("pretrain", "source"))
    of_folds = (
        replace(stage, fold=fold)
        for fold, part in enumerate(parts)
        for stage in stages_of_training(part, device, digests)
        if stage.kind not in ("pretrain", "source")
    )
    return (*shared, *of_folds, *own[len(shared) :])


def stages_of_training(config: TrialConfig, device: str = "cpu", digests: Digests | None = None) -> tuple[Stage, ...]:
    """The stages of one training: of a trial without its folds. Arguments as for `stages_of`."""
    return _stages_of_training(CanonicalConfig.of(config), device, {} if digests is None else digests)


def _stages_of_training(canonical: CanonicalConfig, device: str, digests: Digests) -> tuple[Stage, ...]:
    config = canonical.config
    found: dict[Kind, Stage] = {}
    phases: list[Stage] = []
    keys = _Keys(canonical, device, digests)
    shared_its_keys = SHARED_ITS_KEYS.holds(config)
    for kind, declared in STAGES.items():
        if not groups_read(declared, canonical.facts):
            continue
        if kind == "finetune":
            done = 0
            for number, phase in enumerate(config.phases):
                end = done + (phase.epochs or 0)
                phases.append(Stage(kind, keys.of(declared, found, number), done, end, number, shared_its_keys))
                done = end
        else:
            end_of = value_of(config, declared.length) if declared.length else 0
            found[kind] = Stage(kind, keys.of(declared, found), end=end_of, needs_maker=shared_its_keys and kind == "align")
    return (*found.values(), *phases)


def stage_key(declared: Declaration, config: TrialConfig, inputs: Mapping[Kind, Stage], device: str, phase: int = 0) -> str:
    """The key of a stage: 32 hexadecimal digits.

    Args:
        declared: The stage.
        config: The trial.
        inputs: The stages before it.
        device: Device type of the trial.
        phase: Number of the phase, for fine-tuning.
    """
    return _Keys(CanonicalConfig.of(config), device, {}).of(declared, inputs, phase)


class _Keys:
    """The keys of the stages of one trial.

    Args:
        canonical: Its config.
        device: Its device type.
        digests: As for `stages_of`.
    """

    def __init__(self, canonical: CanonicalConfig, device: str, digests: Digests) -> None:
        self.canonical, self.device, self.digests = canonical, device, digests

    def of(self, declared: Declaration, inputs: Mapping[Kind, Stage], phase: int = 0) -> str:
        """The key of a stage; see `stage_key`."""
        content: dict[str, Any] = {"kind": declared.kind, "version": declared.version, "device": declared.device_in(self.device)}
        hashed = self.canonical.hashed
        for group in groups_read(declared, self.canonical.facts):
            values = _hashed(group.others, self.canonical.config, phase, self.digests)
            for knob in group.settings.keys() & hashed.keys():
                values[group.settings[knob]] = hashed[knob]
            for kind in group.inputs:
                if kind in inputs:
                    values[kind] = str(inputs[kind].address)
            content |= {group.name: values} if group.name else values
        return hash_of(content, digits=32)


def hashed_reads(group: Group, config: TrialConfig, phase: int) -> dict[str, Any]:
    """The reads of a group that enter a key: a knob at its introductory default stays out, so that later knobs leave old keys alone."""
    return _hashed((read for read in group.reads if read.when.holds(config)), config, phase, {})


def _hashed(reads: Iterable[Read], config: TrialConfig, phase: int, digests: Digests) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for read in reads:
        if not read.is_content:
            value = read.in_key(config, phase)
        elif (value := digests.get(named := (read, config.task, config.body.name, config.proxy))) is None:
            value = digests[named] = read.in_key(config, phase)
        if read.always_in_key or (value is not None and value != DEFAULTS[read.knob]):
            values[read.key_name] = value
    return values


def result_key(config: TrialConfig, stages: tuple[Stage, ...]) -> str:
    """What a finished trial is known by across sweeps: same key, same rows."""
    return key_of_result(trial_id(config), stages)


def key_of_result(trial: str, stages: tuple[Stage, ...]) -> str:
    """The result key of the trial of an id."""
    return hash_of({"trial": trial, "stages": [str(stage.address) for stage in stages]}, digits=32)
