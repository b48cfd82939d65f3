"""What a stage sees of a trial's config: the knobs that its declaration names, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orca_core.bodies import BodySpec
from orca_core.config.knobs import TrialConfig
from orca_core.declarations import STAGES
from orca_core.freezing.schedule import Phase
from orca_core.reads import Declaration, Kind
from orca_core.tasks import TaskSpec


class UndeclaredKnobError(KeyError):
    """A stage asked for something that its declaration does not name: a defect of the stage or of its declaration."""


class Settings(Mapping[str, Any]):
    """The view of a config that one stage is built from.

    Values are canonical: two settings of the same computation are one. Where the condition of a read does not hold, its value is a
    constant, by default the knob's introductory default, so the stage needs no condition of its own.

    Example:
        >>> settings = Settings(resolve_config({"task": "digits", "align.epochs": 5}), STAGES["align"])
        >>> settings["align.optimizer"]
        'adamw'

    Args:
        config: The trial.
        declaration: Of the stage.
        phase: Number of the phase, for fine-tuning.
    """

    def __init__(self, config: TrialConfig, declaration: Declaration, phase: int = 0) -> None:
        self.kind, self.phase = declaration.kind, phase
        self._values: dict[str, Any] = {}
        inputs: set[Kind] = set()
        for group in declaration.groups.values():
            if group.when.holds(config):
                inputs.update(kind for kind in group.inputs if STAGES[kind].exists.holds(config))
        for group, read in declaration.reads():
            if group.when.holds(config) and read.when.holds(config):
                self._values[read.name] = read.value(config, phase)
            else:
                self._values.setdefault(read.name, read.otherwise)
        self.inputs = frozenset(inputs)
        """Kinds of stages whose results this one uses."""
        self._config = config

    @classmethod
    def of(cls, config: TrialConfig, kind: Kind, phase: int = 0) -> Settings:
        """The view of a stage of that kind."""
        return cls(config, STAGES[kind], phase)

    def __getitem__(self, name: str) -> Any:
        self._require(name)
        return self._values[name]

    def _require(self, name: str) -> None:
        if name not in self._values:
            raise UndeclaredKnobError(f"{name} is not declared for the stage {self.kind}: see orca_core/declarations.py")

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def task(self) -> TaskSpec:
        """The task, without its data."""
        self._require("task")
        return self._config.task_spec

    @property
    def body(self) -> BodySpec:
        """The body, without its weights."""
        self._require("body.name")
        return self._config.body_spec

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of fine-tuning up to this one, whose own length is not among what it reads."""
        phases: tuple[Phase, ...] = self["freezing"]
        return phases

    @property
    def aligned(self) -> bool:
        """Whether the embedder is being aligned here, or was before; or is that with which an alignment starts, for a choice of samples."""
        return self.kind in ("source", "align") or "align" in self.inputs
