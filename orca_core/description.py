"""What the folder of an exported model says about it: for programs in `model.json`, for people in `README.md`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_core.config.knobs import TrialConfig
from orca_core.errors import DataError
from orca_core.identity import hash_of, trial_id
from orca_core.model_card import Evidence, write_card
from orca_core.tasks.preparation import Preparation, from_json
from orca_core.tasks.spec import TaskSpec

VERSION = 2
"""Of `model.json`. Version 1 had no number, and nothing about raw data."""

TASK_FIELDS = ("name", "summary", "dims", "kind", "loss", "score", "reference", "reference_score")
"""What `model.json` says of the task; as fields of `TaskSpec`."""


@dataclass(frozen=True)
class Description:
    """A fine-tuned model without its weights.

    Args:
        config: Its trial.
        epoch: Fine-tuning epoch after which its weights were taken.
        input_shape, output_shape: Of the network.
        preparation: How raw samples become inputs, and outputs answers; None of a folder that version 0.1 wrote.
        errors: Validation and test error and losses of that epoch, as in the trial's rows; empty if they are not known.
        evidence: What the sweep knows of its arm, for the model card; None if it comes from no sweep. `model.json` does not have it.
    """

    config: TrialConfig
    epoch: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    preparation: Preparation | None
    errors: Mapping[str, float]
    evidence: Evidence | None = None

    @property
    def score(self) -> str:
        """Name of the score by which it was judged; an error, lower is better."""
        return self.config.task_spec.score_name(self.config.reference_data)

    def write(self, folder: Path) -> None:
        """Write `model.json`, and `README.md` as a model card.

        `model.json` has `version`, `task` (name, kind, loss, score, ...), `trial`, `epoch`, `errors`, `expects` and `answers` (as phrases),
        `preparation` (see `orca_core.tasks.preparation`), `digest` (of task and preparation), `input_shape`, `output_shape` and `config`.
        The body's name in `config` may be edited where its folder has moved.
        """
        (folder / "model.json").write_text(json.dumps(self._contents(), indent=1) + "\n", encoding="utf-8")
        card = write_card(self.config, self.epoch, self.score, self.preparation, self.errors, self.evidence)
        (folder / "README.md").write_text(card, encoding="utf-8")

    def _contents(self) -> dict[str, Any]:
        spec, preparation = self.config.task_spec, self.preparation
        contents: dict[str, Any] = {"version": VERSION, "task": {name: getattr(spec, name) for name in TASK_FIELDS}}
        contents |= {"trial": trial_id(self.config), "epoch": self.epoch, "errors": dict(self.errors)}
        if preparation is not None:
            contents |= {"expects": preparation.inputs.expected, "answers": preparation.answers.text, "preparation": preparation.to_json()}
        contents |= {"input_shape": self.input_shape, "output_shape": self.output_shape}
        contents["digest"] = _digest(contents)
        return contents | {"config": self.config.model_dump(mode="json")}


def _digest(contents: Mapping[str, Any]) -> str:
    """Of what must not be edited: how raw data becomes inputs, and outputs answers."""
    return hash_of({name: contents.get(name) for name in ("task", "preparation")})


def read_description(folder: Path) -> Description:
    """What `model.json` says. The task's files need not be there.

    Raises:
        DataError: If it cannot be read, or is of a later version.
    """
    rule = "must hold model.json and model.safetensors, as `sweeper best NAME --export-model` and `TunedModel.save` write them"
    try:
        contents = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{folder}: {rule} ({error})") from None
    if not isinstance(contents, dict):
        raise DataError(f"{folder}: {rule}, but model.json is not a mapping")
    if contents.get("version", 1) not in (1, VERSION):
        raise DataError(f"{folder}: model.json must be of version {VERSION} or 1, but is of {contents['version']}. Update this package.")
    if contents.get("version") == VERSION and contents.get("digest") != _digest(contents):
        raise DataError(f"{folder}: {rule}, but model.json is damaged (its task or preparation is not what was written)")
    if missing := sorted({"config", "epoch", "input_shape", "output_shape"} - contents.keys()):
        raise DataError(f"{folder}: {rule}, but model.json lacks {', '.join(missing)}")
    try:
        config = TrialConfig.model_validate_json(json.dumps(contents["config"]))
        if "task" in contents:
            task = {name: contents["task"][name] for name in TASK_FIELDS}
            vars(config)["task_spec"] = TaskSpec(loader="", recipes={}, **task)  # without the task's files, which may be elsewhere
        shapes = tuple(map(int, contents["input_shape"])), tuple(map(int, contents["output_shape"]))
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise DataError(f"{folder}: {rule}, but model.json is damaged ({error})") from None
    preparation = from_json(contents["preparation"]) if "preparation" in contents else None
    if preparation is not None and not isinstance(preparation, Preparation):
        raise DataError(f"{folder}: {rule}, but model.json is damaged (preparation has another type)")
    return Description(config, contents["epoch"], *shapes, preparation, contents.get("errors", {}))
