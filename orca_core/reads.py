"""What a declaration of a stage is made of: reads of knobs, and groups of reads as they stand in a key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orca_core.canonical import SPELLINGS
from orca_core.conditions import ALWAYS, Condition
from orca_core.config.knobs import TrialConfig
from orca_core.config.paths import KNOBS, value_of
from orca_core.config.spellings import in_hash

Kind = Literal["pretrain", "source", "align", "adapt", "finetune"]


Value = Callable[[TrialConfig, int], Any]
"""A value out of a trial's config, for one phase of fine-tuning (0 in the other stages)."""


@dataclass(frozen=True, eq=False)
class Read:
    """One thing that a stage reads.

    Args:
        name: What the stage asks for it by.
        knob: The knob it comes from, which is part of the trial because of this.
        value: What the stage sees where it is read.
        in_key: What enters the key: the value, or what it is known by, as data is by its digest.
        when: Condition under which it is read.
        otherwise: What the stage sees where it is not read: a constant.
        key_name: Its name in the key.
        always_in_key: Whether it enters the key even at the knob's introductory default.
        is_content: Whether what enters the key is a digest of data, for which files are looked at.
        is_setting: Whether it is a knob as it is written, which enters the key unless it is at its introductory default.
    """

    name: str
    knob: str
    value: Value
    in_key: Value
    when: Condition = ALWAYS
    otherwise: Any = None
    key_name: str = ""
    always_in_key: bool = True
    is_content: bool = False
    is_setting: bool = False


def knob(path: str, when: Condition = ALWAYS, *, otherwise: Any = None, key_name: str = "", always_in_key: bool = False) -> Read:
    """A knob, read as it is written. Where it is not read, the stage sees `otherwise`, by default the introductory default."""

    spelling = SPELLINGS[path]

    def value(config: TrialConfig, phase: int) -> Any:
        return spelling(config)

    def hashed(config: TrialConfig, phase: int) -> Any:
        return in_hash(path, spelling(config))

    neutral = KNOBS[path].get_default(call_default_factory=True) if otherwise is None else otherwise
    return Read(path, path, value, hashed, when, neutral, key_name or path, always_in_key, is_setting=not always_in_key)


def content(path: str, key_name: str, digest: Callable[[TrialConfig], str]) -> Read:
    """A knob that names data: the content of the data enters the key instead of the name."""
    return Read(path, path, lambda config, _: value_of(config, path), lambda config, _: digest(config), key_name=key_name, is_content=True)


@dataclass(frozen=True)
class Group:
    """Some reads and inputs that stand together in a key.

    Args:
        reads: What is read.
        inputs: Kinds of stages whose results are used, where the trial has them.
        when: Condition under which the group exists.
    """

    reads: tuple[Read, ...] = ()
    inputs: tuple[Kind, ...] = ()
    when: Condition = ALWAYS


@dataclass(frozen=True, eq=False)
class Declaration:
    """One kind of stage.

    Args:
        kind: Its name.
        version: Raised when its computation changes, so that old artifacts are not taken for new ones.
        exists: Condition under which a trial has it.
        groups: What it reads, by the group's name in the key; those of "" stand at the top of the key.
        length: The knob that says after how many epochs a trial leaves it; not part of the key, as epoch 60 passes through epoch 20.
            Empty for a stage without epochs.
        build: `module:name` of what computes it.
        device: `cpu` for a stage that gains nothing from a GPU: it is computed on the CPU and its key says `cpu`, in sweeps on GPUs, too.
            None = it is computed on the device of the trial, which its key says.
    """

    kind: Kind
    version: int
    exists: Condition
    groups: Mapping[str, Group]
    length: str
    build: str
    device: Literal["cpu"] | None = None

    def device_in(self, device: str) -> str:
        """The device type on which it is computed in a trial on `device`."""
        return self.device or device

    def reads(self) -> Iterator[tuple[Group, Read]]:
        """Everything it reads, with the group it belongs to."""
        for group in (*self.groups.values(), COMMON):
            for read in group.reads:
                yield group, read


COMMON = Group((knob("threads", always_in_key=True), knob("bits")))
"""What every stage depends on."""
